"""What stays and what goes, as pure decisions: nothing that is needed ever goes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ci.delivery.ledger import Action, Draft, Entry, Event, Kind
from ci.delivery.ledger.chain import sealed
from ci.registry import Held, digest_of
from ci.release import Chart, Commit, Image, Release, ScanSummary, TestSummary
from ci.supply.retention import AGE_UNKNOWN, in_the_ledger, plan, staying

NOW = datetime(2026, 6, 1, tzinfo=UTC)
SINCE = NOW - timedelta(days=30)
OLD, YOUNG = SINCE - timedelta(days=1), SINCE + timedelta(days=1)


def release(name: str, created: datetime) -> Release:
    scan = ScanSummary(vulnerabilities=None, misconfigurations={}, secrets=0, licences={}, packages=1)
    tests = TestSummary(passed=1, failed=0, skipped=0)
    digest = digest_of(name.encode())
    return Release(
        name=name,
        created=created,
        commit=Commit(sha="a" * 40, dirty=False, time=created),
        engine="embedded",
        images=(Image(name="api", digest=digest, size=1, tests=tests, scan=scan),),
        chart=Chart(name="chart", version="1.0.0", digest=digest),
    )


def entry(
    release: str,
    result: str,
    time: datetime,
    target: str = "prod/eastus",
    *,
    kind: Kind = Kind.NOTE,
    action: Action = Action.TAKEN_OVER,
    **detail: str,
) -> Entry:
    draft = Draft(
        promotion="p1", kind=kind, action=action, target=target, release=release, result=result, detail=detail
    )
    return sealed(draft, None, who="me", time=time)[0]


def test_the_newest_stay_and_the_young_and_the_needed() -> None:
    made = [release(f"r{n}", OLD - timedelta(days=n)) for n in range(5)]
    made.append(release("young", YOUNG))
    kept = staying(made, keep=2, since=SINCE, needed={"r4": "runs on prod/eastus"})
    assert {one.release: one.why for one in kept} == {
        "young": "one of the 2 newest",
        "r0": "one of the 2 newest",
        "r4": "runs on prod/eastus",
    }
    kept = staying(made, keep=1, since=SINCE - timedelta(days=2), needed={})
    assert {one.release for one in kept} == {"young", "r0", "r1"}


def test_the_ledger_needs_what_was_promoted_last_and_what_it_would_go_back_to() -> None:
    entries = [
        entry("r1", Event.PROMOTED, OLD),
        entry("r2", Event.PROMOTED, OLD),
        entry("r3", Event.PROMOTED, OLD),
        entry("r2", Event.PROMOTED, OLD),
        entry("r0", Event.PROMOTED, OLD, "prod/westeurope"),
        entry("r4", Event.STEP_FAILED, OLD),
        entry("r5", Event.STARTED, YOUNG),
    ]
    assert in_the_ledger(entries, SINCE) == {
        "r2": "was promoted last to prod/eastus",
        "r3": "prod/eastus goes back to it",
        "r0": "was promoted last to prod/westeurope",
        "r5": f"started on prod/eastus at {YOUNG:%Y-%m-%d %H:%M}",
    }
    assert in_the_ledger([], SINCE) == {}


def test_the_ledger_needs_what_is_on_its_way_and_what_it_went_back_to() -> None:
    """As a run writes it: what was only intended counts, and what a roll-back went to."""
    ends = {"kind": Kind.OUTCOME, "action": Action.FINISH}
    entries = [
        entry("r1", "promoted", OLD, **ends),
        entry("r2", "promoted", OLD, **ends),
        entry("r2", "rolled back", OLD, now="r1", **ends),
        entry("r3", "", YOUNG, kind=Kind.INTENT, action=Action.START),
        entry("r4", "", YOUNG, "", kind=Kind.ORDER, action=Action.APPROVE),
    ]
    assert in_the_ledger(entries, SINCE) == {
        "r1": "was promoted last to prod/eastus",
        "r2": "prod/eastus goes back to it",
        "r3": f"start on prod/eastus at {YOUNG:%Y-%m-%d %H:%M}",
    }


def held(name: str, *tags: str, updated: datetime | None = OLD, locked: bool = False) -> Held:
    return Held(repository="app", digest=digest_of(name.encode()), tags=tags, updated=updated, locked=locked)


def test_in_doubt_a_manifest_stays() -> None:
    every = [
        held("old"),
        held("young", updated=YOUNG),
        held("unknown", updated=None),
        held("locked", locked=True),
        held("needed"),
    ]
    needed = {("app", digest_of(b"needed"))}
    decided = plan(every, needed=needed, ages={}, since=SINCE)
    assert [one.digest for one in decided.gone] == [digest_of(b"old")]
    assert {one.why for one in decided.left} == {"written 2026-05-03", AGE_UNKNOWN, "locked"}
    decided = plan(every, needed=needed, ages={}, since=SINCE, include_locked=True)
    assert {one.digest for one in decided.gone} == {digest_of(b"old"), digest_of(b"locked")}


def test_a_registry_that_tells_no_age_is_told_it_and_the_later_one_counts() -> None:
    one = held("a", updated=None)
    place = ("app", one.digest)
    assert plan([one], needed=(), ages={place: OLD}, since=SINCE).gone
    assert plan([one], needed=(), ages={place: YOUNG}, since=SINCE).left
    assert plan([held("a", updated=YOUNG)], needed=(), ages={place: OLD}, since=SINCE).left
    assert plan([held("a", updated=OLD)], needed=(), ages={place: YOUNG}, since=SINCE).left


@pytest.mark.parametrize("suffix", ["", ".sig", ".att"])
def test_what_is_attached_by_a_tag_goes_and_stays_with_its_image(suffix: str) -> None:
    image = held("image", "v1", updated=None)
    index = held("index", image.digest.replace(":", "-") + suffix, updated=None)
    place = ("app", image.digest)
    assert plan([index, image], needed={place}, ages={}, since=SINCE).gone == ()
    assert len(plan([index, image], needed=(), ages={place: OLD}, since=SINCE).gone) == 2


_places = st.tuples(st.sampled_from(["api", "agent"]), st.integers(0, 8).map(lambda n: digest_of(bytes([n]))))
_times = st.none() | st.integers(-60, 60).map(lambda days: SINCE + timedelta(days=days))
_held = st.builds(
    lambda place, updated, locked: Held(repository=place[0], digest=place[1], updated=updated, locked=locked),
    _places,
    _times,
    st.booleans(),
)


@given(
    st.lists(_held),
    st.frozensets(_places),
    st.dictionaries(_places, st.integers(-60, 60).map(lambda days: SINCE + timedelta(days=days))),
    st.booleans(),
)
def test_nothing_needed_young_or_locked_ever_goes(
    every: list[Held], needed: frozenset[tuple[str, str]], ages: dict[tuple[str, str], datetime], locked: bool
) -> None:
    decided = plan(every, needed=needed, ages=ages, since=SINCE, include_locked=locked)
    told = {(one.repository, one.digest): one for one in every}
    for one in decided.gone:
        place = (one.repository, one.digest)
        assert place not in needed
        assert locked or not one.locked
        assert ages.get(place, OLD) < SINCE
        assert place in ages or told[place].updated is not None or len(every) > len(told)
    unneeded = [one for one in every if (one.repository, one.digest) not in needed]
    assert len(decided.gone) + len(decided.left) == len(unneeded)
    assert all(one.why for one in decided.left) and not any(one.why for one in decided.gone)
