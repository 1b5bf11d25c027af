"""What a drill concludes from what came back."""

from __future__ import annotations

from pathlib import Path

import pytest

from ci.platform.instance import Instance
from ci.platform.stores import stores
from ci.recovery.sets import Check
from ci.recovery.steps import DRILL
from ci.reporting import SilentReporter
from pipelines.drill import ACTIONS, Lost, Promise, _account_for, _World, at_stake, problems, promise


def test_each_step_that_the_runbook_prints_is_one_that_the_drill_does() -> None:
    assert [step.key for step in DRILL] == list(ACTIONS)


def test_the_promise_is_the_architectures() -> None:
    assert promise("prod") == Promise(rto=3600, rpo=300, covers=("postgres",))


@pytest.fixture
def world(tmp_path: Path) -> _World:
    """Lost at 100 s; five writes to PostgreSQL in the five seconds before; backed up at 90 s."""
    own = stores(Instance(number=0, folder=tmp_path), "drill")
    world = _World(own=own, sessions=1, seconds=1, folder=tmp_path, reporter=SilentReporter())
    world.backed_up, world.lost = 90.0, 100.0
    world.written["postgres"] = [(f"write {number}", 95.5 + number) for number in range(5)]
    return world


@pytest.mark.parametrize(
    ("kept", "lost", "rpo"),
    [(5, 0, 0.0), (4, 1, 1.5), (1, 4, 4.5), (0, 5, 10.0)],
    ids=["all", "all but one", "one", "none: back to the backup"],
)
def test_the_rpo_is_the_age_of_the_newest_write_that_came_back(
    world: _World, kept: int, lost: int, rpo: float
) -> None:
    check = _account_for(world, "postgres", [f"write {number}" for number in range(kept)])

    assert check.problem == ""
    assert world.losses["postgres"] == Lost(written=5, lost=lost, rpo=rpo)


def test_a_write_whose_answer_was_lost_with_the_store_may_be_there(world: _World) -> None:
    check = _account_for(world, "postgres", [f"write {number}" for number in range(6)])

    assert check.problem == ""
    assert world.losses["postgres"] == Lost(written=5, lost=0, rpo=0.0)


@pytest.mark.parametrize(
    "kept",
    [
        ["write 0", "write 2"],
        ["write 0", "write X"],
        ["write 1", "write 0"],
        [f"write {number}" for number in range(7)],
    ],
    ids=["a gap", "another content", "another order", "more than were written"],
)
def test_what_came_back_must_be_the_first_of_what_was_written(world: _World, kept: list[str]) -> None:
    assert "not the first ones as they were" in _account_for(world, "postgres", kept).problem


@pytest.mark.parametrize(
    ("archived", "now", "stakes"),
    [
        ("", 12.5, False),
        ("02", 12.5, False),
        ("03", 12.5, True),
        ("04", 12.5, True),
        ("04.00000028.backup", 12.5, True),
        ("05", 12.5, False),
        ("04", 12.2, False),
        ("04", 13.5, False),
    ],
    ids=[
        "nothing is archived",
        "only what is older than the writes",
        "the archive lags",
        "all but the newest segment",
        "the same, and a backup's own file",
        "all",
        "the newest segment has hardly begun",
        "the newest segment is about to end",
    ],
)
def test_writes_are_at_stake_while_the_newest_segment_is_young(
    archived: str, now: float, stakes: bool
) -> None:
    segments = ["03"] * 4 + ["04"] * 4 + ["05"] * 2
    acknowledged = [8.0 + number / 2 for number in range(10)]

    assert at_stake(segments, acknowledged, archived=archived, now=now) is stakes


def test_nothing_is_at_stake_before_the_first_write() -> None:
    assert not at_stake([], [], archived="02", now=1.0)


def test_differences_and_broken_promises_are_problems() -> None:
    promised = Promise(rto=60, rpo=5, covers=("postgres",))
    lost = {
        "postgres": Lost(written=9, lost=3, rpo=5.5),
        "redis": Lost(written=9, lost=9, rpo=500.0),
        "blobs": Lost(written=0, lost=0, rpo=0.0),
    }
    checks = [
        Check(part="blobs", what="MD5", problem="not what was copied: x"),
        Check(part="redis", what="k"),
    ]

    found = list(problems(promised, 61.25, lost, checks))  # type: ignore[arg-type]

    assert found == [
        "blobs MD5: not what was copied: x",
        "RTO 61.2 s is over the promised 60 s",
        "postgres: RPO 5.5 s is over the promised 5 s",
    ]
    assert not list(problems(promised, 59, lost | {"postgres": Lost(written=9, lost=1, rpo=1)}, []))  # type: ignore[arg-type]
