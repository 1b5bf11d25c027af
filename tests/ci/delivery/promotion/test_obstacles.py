from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from promotion_world import environment

from ci.delivery.ledger import Action, Entry, Kind
from ci.delivery.promotion.obstacles import downgrade, others

PROD = environment("prod")
EAST = PROD.target("eastus")


def entry(sequence: int, kind: Kind, action: Action, **said: Any) -> Entry:
    told = {"promotion": "2026-11-29T100000-aaaa", "target": "", "release": "r1"} | said
    return Entry(
        sequence=sequence, time=datetime(2026, 11, 29, tzinfo=UTC), who="anna@desk", previous="", hash="",
        kind=kind, action=action, **told,
    )  # fmt: skip


def promoted(*releases: str) -> list[Entry]:
    return [
        entry(number, Kind.OUTCOME, Action.FINISH, target="prod/eastus", release=one, result="promoted")
        for number, one in enumerate(releases, 1)
    ]


@pytest.mark.parametrize(
    ("wanted", "runs", "came", "older"),
    [
        ("20261101-090000-aaaaaaa-1", "20261129-090000-bbbbbbb-2", [], True),  # by the commit's time
        ("20261129-090000-bbbbbbb-2", "20261101-090000-aaaaaaa-1", [], False),
        # Promoted first, and the commit is the younger one all the same.
        ("20261129-090000-b-2", "20261101-090000-a-1", ["20261129-090000-b-2", "20261101-090000-a-1"], False),
        # Of one commit none is the newer one, whoever was there first.
        ("20261101-090000-a-1", "20261101-090000-a-2", ["20261101-090000-a-1", "20261101-090000-a-2"], False),
        ("20261101-090000-a-2", "20261101-090000-a-1", ["20261101-090000-a-1", "20261101-090000-a-2"], False),
        ("20261101-090000-a-1", "20261101-090000-a-2", [], False),
        ("hotfix", "main", ["hotfix", "main"], True),
        ("hotfix", "hotfix", ["hotfix"], False),
        ("hotfix", "", [], False),
    ],
)
def test_a_downgrade_is_known_by_the_commits_or_by_who_followed_whom(
    wanted: str, runs: str, came: list[str], older: bool
) -> None:
    found = downgrade(PROD, EAST, wanted, runs, promoted(*came))
    assert (found is not None) == older
    if found is not None:
        assert (found.code, found.place, found.overridable) == ("downgrade", "prod/eastus", True)
        assert runs in found.reason and "--again" in found.next_command
        assert ("va rollback prod/eastus --to" in found.next_command) == (wanted in came)
        assert f"va promote {wanted} --only prod/eastus" in found.next_command


@pytest.mark.parametrize(
    ("ended", "in_the_way"),
    [(None, True), ("waits", True), ("partly", False), ("done", False), ("not done", False)],
)
def test_another_promotion_is_in_the_way_unless_it_ended_or_lacks_a_region_alone(
    ended: str | None, in_the_way: bool
) -> None:
    entries = [entry(1, Kind.INTENT, Action.START)]
    if ended:
        entries.append(entry(2, Kind.OUTCOME, Action.FINISH, result=ended))
    found = others(PROD, "r2", entries)
    assert bool(found) == in_the_way
    assert others(PROD, "r1", entries) == {}
    for one in found.values():
        assert (one.code, one.place) == ("unfinished", "prod")
        assert "va rollback 2026-11-29T100000-aaaa --estate test" in one.next_command


@pytest.mark.parametrize(
    ("east", "west", "in_the_way"),
    [
        (["error"], None, False),
        (["error"], ["error"], False),
        (["error"], ["interrupted"], False),  # the error of one ended the run of the other
        (["interrupted"], None, True),  # a person ended it, and means to go on
        ([], ["error"], True),  # killed: an intent is all that there is
        (["error", ""], None, True),  # killed when it was tried again
        (["error", "", "error", "done"], None, False),  # the traffic that was moved when the run ended
        (["error", "promoted"], ["interrupted"], True),
    ],
)
def test_what_ended_with_an_error_of_its_own_keeps_no_fix_away(
    east: list[str], west: list[str] | None, in_the_way: bool
) -> None:
    entries = [entry(1, Kind.INTENT, Action.START)]
    for place, results in {"prod/eastus": east, "prod/westeurope": west}.items():
        if results is None:
            continue  # not begun
        entries += [
            entry(2, Kind.INTENT, Action.START, target=place),
            entry(2, Kind.OUTCOME, Action.START, target=place, result="done"),
            entry(3, Kind.INTENT, Action.UPGRADE, target=place),
        ]
        for result in results:
            what = {"promoted": Action.FINISH, "done": Action.MOVE}.get(result, Action.UPGRADE)
            kind = Kind.OUTCOME if result else Kind.INTENT
            entries.append(entry(4, kind, what, target=place, result=result))
    assert bool(others(PROD, "r2", entries)) == in_the_way


def test_a_promotion_that_waited_for_a_region_and_was_killed_in_it_is_in_the_way() -> None:
    entries = [
        entry(1, Kind.INTENT, Action.START),
        entry(2, Kind.OUTCOME, Action.FINISH, result="partly"),
        entry(3, Kind.NOTE, Action.START),
        entry(4, Kind.INTENT, Action.UPGRADE, target="prod/westeurope"),
    ]
    assert others(PROD, "r2", entries)
