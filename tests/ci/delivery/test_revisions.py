from __future__ import annotations

import asyncio
import base64
import gzip
import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from promotion_world import NOW, World, environment

from ci.delivery.revisions import Revision, given_up, newest, read_revision
from ci.errors import SystemUnavailable


def secret(*, packed: bool = True, **more: Any) -> dict[str, Any]:
    release: Mapping[str, Any] = {
        "name": "voice", "version": 7, "config": {"release": "r7"}, "manifest": "kind: Deployment",
        "info": {"status": "deployed", "last_deployed": "2026-11-29T19:00:00.123456789+02:00"},
        "hooks": [{"name": "voice-test", "events": ["test"]}, {"name": "migrate", "events": ["pre-upgrade"]}],
    } | more  # fmt: skip
    plain = json.dumps(release).encode()
    inner = base64.b64encode(gzip.compress(plain) if packed else plain)
    return {"metadata": {"name": "sh.helm.v7"}, "data": {"release": base64.b64encode(inner).decode()}}


@pytest.mark.parametrize("packed", [True, False])
def test_a_revision_is_read_from_helms_own_secret(packed: bool) -> None:
    found = read_revision(secret(packed=packed))

    assert (found.name, found.number, found.release, found.deployed) == ("voice", 7, "r7", True)
    assert found.updated == datetime(2026, 11, 29, 17, 0, 0, 123456, tzinfo=UTC)
    assert found.tests == ("voice-test",) and found.manifest == "kind: Deployment"


def test_one_that_never_came_up_has_no_time_and_no_values() -> None:
    made = secret(
        config=None, hooks=None, info={"status": "pending-install", "last_deployed": "0001-01-01T00:00:00Z"}
    )
    found = read_revision(made)
    assert (found.in_between, found.release, found.updated.year) == (True, "", 1970)


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"release": "@@@"},
        {"release": "bm9uc2Vuc2U="},
        {"release": base64.b64encode(b"H4sI").decode()},
        None,
    ],
)
def test_a_damaged_one_is_named(data: object) -> None:
    with pytest.raises(SystemUnavailable, match=r"Secret sh\.helm\.v7 cannot be read"):
        read_revision({"metadata": {"name": "sh.helm.v7"}, "data": data})


def test_one_that_is_given_up_has_failed_and_is_else_as_it_was() -> None:
    was = secret(info={"status": "pending-upgrade", "last_deployed": "2026-11-29T19:00:00Z"})
    was["metadata"]["labels"] = {"status": "pending-upgrade", "owner": "helm"}
    now = given_up(was)
    before, after = read_revision(was), read_revision(now)
    assert (after.status, after.description) == ("failed", "left pending-upgrade")
    assert replace(after, status=before.status, description=before.description) == before
    assert now["metadata"]["labels"] == {"status": "failed", "owner": "helm"}


def revision(number: int, status: str, release: str, name: str = "voice") -> Revision:
    return Revision(
        name=name, number=number, status=status, updated=NOW, description="", values={"release": release}
    )


def test_the_newest_is_of_that_name_and_what_was_uninstalled_is_none() -> None:
    kept = (
        revision(1, "superseded", "a"),
        revision(3, "failed", "b"),
        revision(9, "deployed", "c", "voice-canary"),
    )
    assert newest(kept, "voice") == kept[1]
    assert newest(kept, "other") is None
    assert newest([*kept, revision(4, "uninstalled", "b")], "voice") is None


def mended(*history: Revision) -> tuple[str, list[str], list[Revision]]:
    async def run() -> tuple[str, list[str], list[Revision]]:
        world = World()
        place = world.place("prod/eastus")
        place.revisions["voice"] = list(history)
        async with world.open_site(environment(), "eastus") as site:
            return await site.mend("stable"), world.log, place.revisions["voice"]

    return asyncio.run(run())


def test_an_upgrade_left_in_between_goes_back_to_what_ran() -> None:
    said, log, now = mended(
        revision(1, "superseded", "r1"), revision(2, "deployed", "r2"), revision(3, "pending-upgrade", "r3")
    )
    assert said == "voice was left pending-upgrade: back at revision 2"
    assert log[0] == "prod/eastus rollback voice 2" and now[-1].release == "r2"


def test_a_roll_back_left_in_between_goes_on_and_does_not_bring_back_what_it_left() -> None:
    said, _, now = mended(
        revision(1, "superseded", "good"),
        revision(2, "superseded", "bad"),
        revision(3, "pending-rollback", "good"),
    )
    assert said == "voice was left pending-rollback: back at revision 1"
    assert now[-1].release == "good"


@pytest.mark.parametrize("status", ["pending-install", "uninstalling"])
def test_a_first_installation_left_in_between_is_removed(status: str) -> None:
    said, log, _ = mended(revision(1, status, "r1"))
    assert said == f"voice was left {status}: removed" and log == ["prod/eastus uninstall voice"]


def test_a_settled_one_needs_no_mending() -> None:
    assert mended(revision(1, "superseded", "r1"), revision(2, "deployed", "r2"))[:2] == ("", [])


def test_one_that_failed_when_nobody_was_there_to_put_it_back_goes_back() -> None:
    said, _, now = mended(revision(1, "deployed", "r1"), revision(2, "failed", "r2"))
    assert said == "voice was left failed: back at revision 1" and now[-1].release == "r1"
    said, log, _ = mended(revision(1, "failed", "r1"))
    assert (said, log) == ("voice was left failed: removed", ["prod/eastus uninstall voice"])


@pytest.mark.parametrize("roll_back", ["pending-rollback", "pending-upgrade"])
def test_going_back_is_an_upgrade_too_and_goes_on(roll_back: str) -> None:
    said, _, now = mended(
        revision(1, "superseded", "r1"), revision(2, "deployed", "r2"), revision(3, roll_back, "r1")
    )
    assert said == f"voice was left {roll_back}: back at revision 1" and now[-1].release == "r1"


@pytest.mark.parametrize("ahead", [timedelta(days=1), timedelta(0), timedelta(days=-1)])
@pytest.mark.parametrize("ends", [True, False])
def test_somebody_elses_helm_gets_the_time_that_an_installation_may_take(
    ends: bool, ahead: timedelta
) -> None:
    """It holds no lock here: it may end well, or never; its clock may be ahead of ours, or ours of its."""
    wanted = environment()
    wanted = wanted.model_copy(update={"canary": wanted.canary.model_copy(update={"install": 0.2})})
    theirs = replace(revision(2, "pending-upgrade", "r2"), updated=datetime.now(UTC) + ahead, untouched=0.001)
    said: list[str] = []

    async def run() -> tuple[str, str]:
        world = World()
        place = world.place("prod/eastus")
        place.revisions["voice"] = [revision(1, "deployed", "r1"), theirs]

        def show(text: str) -> None:
            said.append(text)
            if ends:
                place.revisions["voice"] = [
                    revision(1, "superseded", "r1"), replace(theirs, status="deployed")
                ]  # fmt: skip

        async with world.open_site(wanted, "eastus") as site:
            return await site.mend("stable", show), place.revisions["voice"][-1].release

    done = asyncio.run(run())
    assert done == (("", "r2") if ends else ("voice was left pending-upgrade: back at revision 1", "r1"))
    assert "somebody's helm may be at work" in said[0]


def test_how_long_a_revision_is_untouched_is_told_by_the_clusters_clock_alone() -> None:
    """`uninstalling` is written into a Secret that is as old as its release."""
    made = secret(info={"status": "uninstalling", "last_deployed": "2020-01-01T00:00:00Z"})
    made["metadata"] |= {
        "creationTimestamp": "2026-11-29T12:00:00Z",
        "managedFields": [{"manager": "helm", "time": "2026-11-29T19:00:00Z"}, {"manager": "old"}],
    }
    now = datetime(2026, 11, 29, 19, 0, 42, tzinfo=UTC)
    assert read_revision(made, now).untouched == 42
    assert read_revision(made, now - timedelta(hours=1)).untouched == 0
    assert read_revision(made).untouched == 0 == read_revision(secret(), now).untouched
