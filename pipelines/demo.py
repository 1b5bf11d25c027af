"""The main job on this machine, from nothing: a good release reaches prod, a bad one is caught.

Three releases are made of one commit. They differ in one switch of the api, and so in their digests:

- the baseline, which is installed where nothing runs yet;
- a good one, that is promoted dev -> staging -> prod beside the baseline, canary by canary;
- a bad one, that fails 5 % of its sessions: a gate has to catch it and give its traffic back.

Between them someone alters an image of the good one: neither the promotion nor the cluster may take it.

Run again, the parts that are there already are found and the rest is done.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ci import engine, platform, tools
from ci.delivery.results import PromotionResult, summary
from ci.environments import read_environments
from ci.errors import GateFailed, PipelineError, StepFailed
from ci.layout import Line, Page, page, words
from ci.release import Release
from ci.reporting import Reporter
from pipelines.promote import promote
from pipelines.registries import estate_registries
from pipelines.ship import SHIP_TOOLS, Shipped, ship, show_shipped
from pipelines.sign import signer_of
from pipelines.status import answered, status
from pipelines.tampering import Tampered, tamper

__all__ = ["Demonstrated", "demo", "show_demonstrated"]

ESTATE = "local"
BAD = 0.05
"""The share of its sessions that the bad release fails."""


@dataclass(frozen=True, kw_only=True)
class Phase:
    """One part of the demonstration and how long it took, in seconds."""

    name: str
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Demonstrated:
    """What was shipped and what became of it."""

    good: Shipped
    promoted: PromotionResult
    bad: Release | None
    caught: PromotionResult | None
    """None when the good release did not get to prod: then there is nothing to show with a bad one."""
    tampered: Tampered | None
    phases: tuple[Phase, ...]

    @property
    def error(self) -> PipelineError | None:
        """None when it went as it should: the good release is in prod, the bad one was rolled back."""
        if self.promoted.error is not None:
            return self.promoted.error
        if self.tampered is None or not self.tampered.refused:
            return StepFailed(
                "an altered image was not refused", hint="va status says which part is not well"
            )
        if self.caught is None or not isinstance(self.caught.error, GateFailed):
            return StepFailed("the bad release was not caught", hint="va status shows where it is")
        lost = sum(target.moving.lost for target in self.caught.targets if target.moving)
        if lost:
            return StepFailed(f"the roll-back lost {lost} requests")
        return None


async def demo(*, reporter: Reporter, reports: Path) -> Demonstrated:
    """Do the main job on the embedded platform, and bring that up first.

    A gate that fails or a release that is not caught is in the result; what did not work is raised.
    """
    phases: list[Phase] = []

    @contextmanager
    def phase(name: str) -> Iterator[None]:
        reporter.note(name)
        started = time.monotonic()
        yield
        phases.append(Phase(name=name, seconds=time.monotonic() - started))

    with phase("set up the machine and the embedded platform"):
        await tools.ensure([*platform.tools_needed(), *SHIP_TOOLS], reporter)
        await platform.up(reporter)

    async def make(fault: float | None) -> Shipped:
        async with engine.session(reporter) as (client, name), estate_registries(ESTATE) as registries:
            return await ship(
                client,
                engine=name,
                registries=registries,
                signer=await signer_of("local", "local"),
                reporter=reporter,
                reports=reports,
                fault=fault,
            )

    with phase("ship the baseline: build, test, scan, publish"):
        baseline = await make(None)
    installed = {target.release for target in answered(await status(ESTATE, reporter=reporter))}
    if None in installed:
        with phase("install the baseline where nothing runs yet"):
            _raise(await promote(baseline.release, ESTATE, reporter=reporter))
    with phase("ship a good release"):
        good = await make(0.0)
        # On a machine where an earlier demonstration left the good one, the baseline is the new release.
        if good.release.name in installed:
            good = baseline
    with phase("promote the good release: dev -> staging -> prod"):
        promoted = await promote(good.release, ESTATE, again=True, reporter=reporter)
    if promoted.error is not None:
        return Demonstrated(
            good=good, promoted=promoted, bad=None, caught=None, tampered=None, phases=tuple(phases)
        )
    with phase("alter an image of the good release"):
        prod = read_environments(ESTATE)[-1]
        tampered = await tamper(good.release, prod, reporter=reporter)
    with phase(f"ship a bad release: {BAD:.0%} of its sessions fail"):
        bad = await make(BAD)
    with phase("promote the bad release"):
        caught = await promote(bad.release, ESTATE, reporter=reporter)
    return Demonstrated(
        good=good,
        promoted=promoted,
        bad=bad.release,
        caught=caught,
        tampered=tampered,
        phases=tuple(phases),
    )


def show_demonstrated(shown: Demonstrated) -> Page:
    """The last screen: what was shipped, both promotions, and where the time went."""
    parts: list[Page | Line] = [
        show_shipped(shown.good),
        words((f"\nthe good release {shown.good.release.name}\n", "bold")),
        summary(shown.promoted),
    ]
    if shown.tampered:
        parts += [
            words((f"\nan altered image {shown.tampered.image}", "bold")),
            words(f"  the promotion: {shown.tampered.promotion or 'NOT refused'}"),
            words(f"  the cluster: {shown.tampered.cluster or 'NOT refused'}"),
        ]
    if shown.bad and shown.caught:
        parts += [words((f"\nthe bad release {shown.bad.name}\n", "bold")), summary(shown.caught)]
    total = sum(phase.seconds for phase in shown.phases)
    return page(
        *parts,
        "\ntime",
        *(f"  {phase.seconds:6.1f} s  {phase.name}" for phase in shown.phases),
        f"  {total:6.1f} s  in all",
    )


def _raise(result: PromotionResult) -> None:
    if result.error is not None:
        raise result.error
