"""Whether somebody is at work: by a lease, by this machine's own processes, by a wait on another machine."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from ledger_entries import Book
from promotion_world import World, environment

from ci.delivery.ledger import Action, Kind, alone
from ci.delivery.promotion.presence import Presence, presence, rests
from ci.environments import Environment
from ci.errors import SystemUnavailable

SHARED = "https://account.blob.core.windows.net/ledgers"


@pytest.fixture(autouse=True)
def world(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> World:
    """Two regions whose clusters answer, with a Lease of nobody."""
    made = World()
    monkeypatch.setenv("VA_STATE", str(tmp_path))
    monkeypatch.setattr("ci.delivery.cluster.connect", lambda _, context: made.place(context))
    return made


def prod(**more: Any) -> Environment:
    base = environment("prod", "eastus", "westeurope")
    targets = {name: one.model_copy(update={"context": one.name}) for name, one in base.targets.items()}
    return base.model_copy(update={"targets": targets, **more})


def lease(promotion: str, renewed: timedelta) -> dict[str, Any]:
    now = datetime.now(UTC)
    return {
        "metadata": {"annotations": {"va.dev/who": "bert on build-2", "va.dev/promotion": promotion}},
        "spec": {
            "holderIdentity": "bert", "leaseDurationSeconds": 12, "leaseTransitions": 3,
            "acquireTime": now.isoformat(), "renewTime": (now - renewed).isoformat(),
        },
    }  # fmt: skip


def who(where: Environment, book: Book) -> Presence:
    return asyncio.run(presence(where, "p1", book.entries))


def begun(*more: Action, begins: datetime | None = None) -> Book:
    book = Book(begins or datetime.now(UTC) - timedelta(hours=1))
    book.begin()
    for action in more:
        book.write(Kind.INTENT, action, minutes=0)
    return book


@pytest.mark.parametrize(
    ("promotion", "renewed", "found"),
    [("p1", 0, "bert on build-2"), ("p1", 60, ""), ("p2", 0, "")],
    ids=["its own", "not renewed", "another's"],
)
def test_whoever_holds_a_live_lease_for_it_is_at_work(
    world: World, promotion: str, renewed: int, found: str
) -> None:
    world.place("prod/westeurope").held = lease(promotion, timedelta(seconds=renewed))
    assert who(prod(), begun()) == Presence(who=found)


def test_whoever_holds_the_environment_here_is_at_work_between_two_targets() -> None:
    with alone(prod()):
        assert who(prod(), begun()).who.startswith("process ")
    assert who(prod(), begun()) == Presence(who="")


def test_a_wait_on_another_machine_is_believed_for_as_long_as_it_takes() -> None:
    shared, now = prod(ledger=SHARED, wave_bake=600.0), datetime.now(UTC)
    assert (
        who(shared, begun(Action.WAVE, begins=now - timedelta(minutes=9))).who == "the machine of alice@here"
    )
    assert who(shared, begun(Action.WAVE, begins=now - timedelta(hours=1))) == Presence(who="")
    assert who(prod(wave_bake=600.0), begun(Action.WAVE, begins=now)) == Presence(who="")


def test_a_cluster_that_does_not_answer_leaves_it_open_where_others_may_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def connect(_: Path, context: str) -> None:
        raise SystemUnavailable(f"the cluster {context} does not answer")

    monkeypatch.setattr("ci.delivery.cluster.connect", connect)
    assert who(prod(), begun()) == Presence(who="")
    assert "the cluster prod/eastus does not answer" in who(prod(ledger=SHARED), begun()).unknown


@pytest.mark.parametrize("result", ["waits", "partly", "done", "superseded"])
def test_a_run_that_has_ended_rests_whatever_people_ordered_since(result: str) -> None:
    book = begun()
    assert not rests(book.entries)
    book.end(result)
    book.write(Kind.ORDER, Action.PAUSE)
    book.write(Kind.NOTE, Action.TOLD)
    assert rests(book.entries)
    book.write(Kind.NOTE, Action.START, target="prod/eastus")
    assert not rests(book.entries)
