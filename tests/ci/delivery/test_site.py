from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from promotion_world import Place, World, environment, release

from ci.delivery.lease import LeaseLost
from ci.delivery.revisions import Revision
from ci.delivery.site import CANARY, STABLE, Site, Track
from ci.errors import StepFailed

GOOD, BAD = release("good"), release("bad")


class Failing(Place):
    """Whose pods of the bad release do not get ready: Helm leaves a revision that failed."""

    async def upgrade(self, name: str, chart: Path, values: dict[str, Any], **more: Any) -> None:
        await super().upgrade(name, chart, values, **more)
        if values["release"] == "bad":
            failed = replace(self.revisions[name][-1], status="failed")
            before = [replace(one, status="deployed") for one in self.revisions[name][-2:-1]]
            self.revisions[name] = [*self.revisions[name][:-2], *before, failed]
            raise StepFailed(f"{name} was not installed: timed out")


def world() -> tuple[World, Place]:
    made = World()
    place = made.places["prod/eastus"] = Failing(made, "prod/eastus")
    return made, place


async def installed(site: Site, wanted: Any, track: Track) -> None:
    await site.install(wanted, Path("chart"), track, lambda _: None)


def running(place: Place, name: str) -> Revision | None:
    return place.revisions[name][-1] if place.revisions[name] else None


def test_an_upgrade_that_fails_has_the_revision_before_back() -> None:
    made, place = world()

    async def run() -> None:
        async with made.open_site(environment(), "eastus") as opened, opened.held("p") as site:
            await installed(site, GOOD, "stable")
            await installed(site, BAD, "stable")

    with pytest.raises(StepFailed, match="timed out"):
        asyncio.run(run())
    now = running(place, STABLE)
    assert now is not None and (now.release, now.status) == ("good", "deployed")


def test_a_first_installation_that_fails_leaves_nothing() -> None:
    made, place = world()

    async def run() -> None:
        async with made.open_site(environment(), "eastus") as opened, opened.held("p") as site:
            await installed(site, GOOD, "stable")
            await installed(site, BAD, "canary")

    with pytest.raises(StepFailed):
        asyncio.run(run())
    assert running(place, CANARY) is None
    assert made.log[-1] == f"prod/eastus uninstall {CANARY}"


def test_what_is_somebody_elses_by_now_is_not_put_back() -> None:
    """Half an upgrade is bad; two who undo each other's are worse."""
    made, place = world()

    async def run() -> None:
        async with made.open_site(environment(), "eastus") as opened, opened.held("p") as site:
            await installed(site, GOOD, "stable")

            def taken(event: str) -> None:
                if "install voice bad" in event:
                    assert place.held is not None
                    place.held["spec"] |= {"holderIdentity": "bert", "leaseTransitions": 99}

            made.on = taken
            await installed(site, BAD, "stable")

    with pytest.raises(StepFailed, match="what was there before is not back"):
        asyncio.run(run())
    now = running(place, STABLE)
    assert now is not None and (now.release, now.status) == ("bad", "failed")


@pytest.mark.parametrize("what", ["move", "back_to", "remove_canary", "install", "mend"])
def test_nothing_is_changed_on_a_target_that_is_somebody_elses(what: str) -> None:
    made, place = world()

    async def run() -> None:
        async with made.open_site(environment(), "eastus") as opened, opened.held("p") as site:
            await installed(site, GOOD, "stable")
            await installed(site, GOOD, "canary")
            (first,) = place.revisions[STABLE]
            if what == "mend":
                place.revisions[STABLE] = [replace(first, status="pending-install")]
            assert place.held is not None
            place.held["spec"] |= {"holderIdentity": "bert", "leaseTransitions": 99}
            made.log.clear()
            await {
                "move": lambda: site.move(20),
                "back_to": lambda: site.back_to(first),
                "remove_canary": site.remove_canary,
                "install": lambda: installed(site, BAD, "stable"),
                "mend": lambda: site.mend("stable"),
            }[what]()

    with pytest.raises(LeaseLost, match="bert has it now"):
        asyncio.run(run())
    assert made.log == []


def test_stables_pods_are_held_while_the_canary_gets_traffic_whichever_run_installed_it() -> None:
    made, place = world()
    place.hold_scale = lambda *words: said("held", *words)  # type: ignore[method-assign,assignment]
    place.release_scale = lambda *words: said("released", *words)  # type: ignore[method-assign,assignment]

    async def said(*words: str) -> tuple[str, ...]:
        made.log.append(" ".join(words))
        return ()

    async def run() -> None:
        async with made.open_site(environment(), "eastus") as opened, opened.held("p") as site:
            await installed(site, GOOD, "stable")
            await installed(site, GOOD, "canary")
            await site.move(20)
            await site.move(0)
            await site.remove_canary()

    asyncio.run(run())
    assert made.log[1:] == [
        f"prod/eastus install {CANARY} good",
        "held va-prod-eastus stable",
        "prod/eastus weight 20",
        "prod/eastus weight 0",
        "released va-prod-eastus stable",
        f"prod/eastus uninstall {CANARY}",
    ]
