"""Promote a release: environment after environment, wave after wave, region by region, behind canary gates.

    result = await promote(release, "local", through="prod", reporter=reporter)
    raise result.error            # if there is one: GateFailed or GateInconclusive

On each target the canary is installed beside stable, traffic moves to it step by step, and each step's gates
decide (ci.delivery.gates). When all pass, stable is upgraded, traffic moves back and the canary is removed.
When one fails, traffic goes to stable first. A region whose own registry has not got all of the release is
left as it is, and the others go on.

However a run ends early (Ctrl-C, an error, a cluster that is gone), it first gives stable all the traffic,
and says so when it could not. The canary stays; the same command finds it and goes on at the step where it
was, with the evidence of the steps before. After a kill -9 the guard in the cluster does it (images/guard).
Each target is this run's alone while it works there (ci.delivery.lease).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from ci.concurrency import together
from ci.delivery import load
from ci.delivery.bake import Observed, bake
from ci.delivery.gates import Carried, Finding, Verdict
from ci.delivery.helm import changes, pull_chart
from ci.delivery.lease import LeaseLost
from ci.delivery.ledger import Event, Journal
from ci.delivery.notify import telling
from ci.delivery.results import (
    Outcome,
    PromotionResult,
    Requests,
    StepResult,
    TargetResult,
    milliseconds,
    number,
)
from ci.delivery.revisions import Revision
from ci.delivery.site import TRACKS, Site, chart_values, open_site
from ci.environments import (
    CanaryStep,
    Environment,
    OnInconclusive,
    Target,
    geography,
    read_environment,
    read_environments,
)
from ci.errors import PipelineError, StepFailed, SystemUnavailable
from ci.registry import registry_at
from ci.release import Release
from ci.reporting import Reporter, Step
from ci.supply.availability import Availability, Contents, State, contents, prove, survey
from pipelines.permission import permitted
from pipelines.verify import verify

__all__ = ["promote"]

_SMOKE_SECONDS = 3.0
_SMOKE_RATE = 5.0


async def promote(
    release: Release,
    estate: str,
    *,
    through: str | None = None,
    only: str | None = None,
    override: str | None = None,
    reporter: Reporter,
) -> PromotionResult:
    """Promote a release through an estate's environments, in their order, up to and with `through`.

    With `only`, to that one alone: whoever may not reach those before it answers for the release being there.

    Returns what happened, gates that failed included (`result.error`). Raises BadInput, or PolicyBlocked for
    a release that may not go there now (pipelines.permission; `override` is the reason of an emergency) or
    does not prove what is asked of it (pipelines.verify), before anything is touched; SystemUnavailable or
    StepFailed when a target's system or installation did not work.
    """
    started = time.monotonic()
    environments = (read_environment(estate, only),) if only else read_environments(estate, through)
    async with telling(environments, reporter):
        await permitted(environments, release.name, override=override, reporter=reporter)
        return await _promote(release, estate, environments, started, reporter)


async def _promote(
    release: Release, estate: str, environments: Sequence[Environment], started: float, reporter: Reporter
) -> PromotionResult:
    """What of it touches the targets."""
    sources = await _check(release, environments, reporter)
    done: list[TargetResult] = []
    for environment in environments:
        ledger = Journal(estate, environment.name, shared=environment.ledger)
        with ledger.alone():
            fresh = False
            for wave in environment.waves:
                if fresh:
                    await _bake_wave(environment, reporter)
                results = await _promote_wave(release, environment, wave, sources, ledger, reporter)
                done += results
                fresh = any(result.outcome is Outcome.PROMOTED for result in results)
                if not all(result.outcome in (*_THERE, Outcome.NOT_THERE) for result in results):
                    return _result(release, estate, done, started)
        here = {target.name for target in environment.targets.values()}
        if not any(one.target in here and one.outcome in _THERE for one in done):
            return _result(release, estate, done, started)  # it is nowhere here, so it may go no further
    return _result(release, estate, done, started)


_THERE = (Outcome.PROMOTED, Outcome.INSTALLED, Outcome.CACHED)


def _result(release: Release, estate: str, done: Sequence[TargetResult], started: float) -> PromotionResult:
    return PromotionResult(
        release=release.name, estate=estate, targets=tuple(done), seconds=time.monotonic() - started
    )


Source = Path | Availability
"""Of an endpoint that has all of a release: the chart, pulled from it. Of another one: what it lacks."""


async def _check(
    release: Release, environments: Sequence[Environment], reporter: Reporter
) -> dict[str, Source]:
    """Everything that a promotion needs is there, before anything is touched; returns sources by endpoint.

    A region whose own endpoint has not got all of the release is left out; SystemUnavailable when none has.
    """
    targets = [target for environment in environments for target in environment.targets.values()]
    home = geography(environments).home
    with reporter.step(f"check {release.name} in every target") as step:

        async def fetch(endpoint: str, wanted: Contents) -> Source:
            async with registry_at(endpoint) as registry:
                found = await prove(registry, wanted)
                return await pull_chart(registry, release.chart) if found.state is State.THERE else found

        async def answers(environment: Environment, region: str) -> None:
            async with open_site(environment, region) as site:
                await site.cluster.version()
                await site.prometheus.instant("vector(1)")

        endpoints = sorted({target.registry for target in targets})
        wanted = await _wanted(release, home, reporter)
        found = await together(fetch(endpoint, wanted) for endpoint in endpoints)
        await together(
            answers(environment, region) for environment in environments for region in environment.targets
        )
        lacking = {one.endpoint: one for one in found if isinstance(one, Availability)}
        reached = [one for one in (_without(each, lacking) for each in environments) if one.targets]
        verified = await verify(release, reached or environments)
        if verified.error is not None:
            raise verified.error
        if not reached:
            raise SystemUnavailable(
                f"{release.name} is in none of the registries: {'; '.join(map(_lack, lacking.values()))}",
                hint="va registry status says what is missing; va ship publishes it again",
            )
        there = len(endpoints) - len(lacking)
        step.say(f"{len(release.images)} images and the chart verified in {there} registries")
    for one in lacking.values():
        reporter.note(f"{_lack(one)}: nothing is promoted to its region")
    return dict(zip(endpoints, found, strict=True))


def _without(environment: Environment, lacking: Collection[str]) -> Environment:
    """Its targets whose endpoint is none of these."""
    targets = {name: one for name, one in environment.targets.items() if one.registry not in lacking}
    return environment.model_copy(update={"targets": targets})


async def _wanted(release: Release, home: str, reporter: Reporter) -> Contents:
    """All that has to be in a region: what the release names, and what home lists as attached to it."""
    wanted = contents(release)
    try:
        async with registry_at(home) as registry:
            return await survey(registry, wanted)
    except SystemUnavailable as error:
        # The other regions need no home to run what they have.
        reporter.note(f"{error}: only what the release itself names is asked for")
        return wanted


def _lack(found: Availability) -> str:
    if found.state is State.DOWN:
        return found.problem
    missing = ", ".join(found.missing[:2]) + (" and more" if len(found.missing) > 2 else "")
    return f"{found.endpoint} lacks {len(found.missing)} of its parts ({missing})"


async def _bake_wave(environment: Environment, reporter: Reporter) -> None:
    with reporter.step(f"{environment.name}: wait before the next wave") as step:
        step.say(f"{environment.wave_bake:g} s")
        await asyncio.sleep(environment.wave_bake)


async def _promote_wave(
    release: Release,
    environment: Environment,
    regions: Sequence[str],
    sources: dict[str, Source],
    ledger: Journal,
    reporter: Reporter,
) -> list[TargetResult]:
    """All regions of a wave at once; a gate that fails in one of them stops the others."""
    harm = asyncio.Event()

    async def one(region: str) -> TargetResult:
        source = sources[environment.target(region).registry]
        if isinstance(source, Availability):
            return _not_there(release, environment.target(region), source, ledger, reporter)
        async with open_site(environment, region) as opened, opened.held(release.name) as site:
            work = _Work(release, source, site, ledger, reporter, harm)
            result = await _promote_target(work)
        if result.outcome is Outcome.FAILED:
            harm.set()
        return result

    return await together(one(region) for region in regions)


def _not_there(
    release: Release, target: Target, found: Availability, ledger: Journal, reporter: Reporter
) -> TargetResult:
    """The region's registry has not got all of it: the target is not touched."""
    reason = _lack(found)
    with reporter.step(f"{target.name}: {release.name}") as step:
        step.skipped(reason)
    ledger.write(Event.NOT_THERE, target=target.name, release=release.name, reason=reason)
    return TargetResult(
        target=target.name, release=release.name, previous=None, outcome=Outcome.NOT_THERE, reason=reason
    )


@dataclass(frozen=True)
class _Work:
    """What promoting to one target works with."""

    release: Release
    chart: Path
    site: Site
    ledger: Journal
    reporter: Reporter
    harm: asyncio.Event

    @property
    def name(self) -> str:
        return self.site.target.name

    def write(self, event: Event, step: StepResult | None = None, reason: str = "") -> None:
        self.ledger.write(
            event,
            target=self.name,
            release=self.release.name,
            weight=step.weight if step else None,
            reason=reason or (step.reason if step else ""),
            findings=step.findings if step else (),
            exposure=step.exposure if step else None,
        )


async def _promote_target(work: _Work) -> TargetResult:
    started = time.monotonic()
    site = work.site
    if acted := await site.guarded():
        work.reporter.note(f"{work.name}: {acted}")
    for track in TRACKS:
        if mended := await site.mend(track):
            work.reporter.note(f"{work.name}: {mended}")
    stable = await site.running("stable")
    wanted = chart_values(site.environment, site.target, work.release, "stable")
    if stable is None:
        result = await _first_install(work)
    elif stable.deployed and stable.values == wanted:
        result = await _there_already(work)
    else:
        for line in changes(stable.values, wanted):
            work.reporter.note(f"{work.name}: {line}")
        if site.environment.canary.steps:
            result = await _canary(work, previous=stable.release or None)
        else:
            result = await _at_once(work, previous=stable)
    return result.model_copy(update={"seconds": time.monotonic() - started})


async def _first_install(work: _Work) -> TargetResult:
    """Nothing runs there: there is no stable to compare a canary with. Install, then try real sessions."""
    work.write(Event.STARTED, reason="first installation")
    with work.reporter.step(f"{work.name}: install (the first release here, no canary)") as step:
        await work.site.install(work.release, work.chart, "stable", step.say)
    sent = await _smoke(work)
    work.write(Event.PROMOTED, reason="first installation")
    return TargetResult(
        target=work.name,
        release=work.release.name,
        previous=None,
        outcome=Outcome.INSTALLED,
        reason="the first release here: nothing to compare with, sessions were tried",
        requests=sent,
    )


async def _at_once(work: _Work, *, previous: Revision) -> TargetResult:
    """The environment asks for no canary: upgrade stable, try some sessions, go back when they fail."""
    outcome, sent = Outcome.PROMOTED, None
    reason = f"upgraded at once: {work.site.environment.name} has no canary"
    work.write(Event.STARTED, reason=reason)
    with work.reporter.step(
        f"{work.name}: upgrade stable (no canary in {work.site.environment.name})"
    ) as step:
        await work.site.install(work.release, work.chart, "stable", step.say)
    try:
        sent = await _smoke(work)
        work.write(Event.PROMOTED, reason=reason)
    except StepFailed as error:
        outcome, reason = Outcome.FAILED, error.message
        with work.reporter.step(f"{work.name}: back to {previous.release}"):
            await work.site.back_to(previous)
        work.write(Event.ROLLED_BACK, reason=reason)
    return TargetResult(
        target=work.name,
        release=work.release.name,
        previous=previous.release or None,
        outcome=outcome,
        reason=reason,
        requests=sent,
    )


async def _smoke(work: _Work) -> Requests:
    """Some sessions, to see that they work at all: StepFailed when any is lost or most fail.

    That a few fail is for gates to judge.
    """
    site = work.site
    with work.reporter.step(f"{work.name}: try some sessions") as step:
        await site.move(0)
        async with load.generate(
            site.target.gateway, site.target.hostname, rate=_SMOKE_RATE, send=site.send
        ) as running:
            await asyncio.sleep(_SMOKE_SECONDS)
        sent = _requests(running.counts)
        step.say(f"{sent.sent} requests, {sent.failed} failed, {sent.lost} lost")
        if sent.lost or sent.failed >= sent.ok:
            lost = "; ".join(running.counts.lost_how)
            raise StepFailed(
                f"sessions of {work.release.name} fail on {work.name}: {step.detail} {lost}".rstrip(),
                hint="it stays installed; mend it, or promote another release over it",
            )
    return sent


async def _there_already(work: _Work) -> TargetResult:
    """Stable is this release. What a run that was killed at the end left behind is cleared away."""
    site = work.site
    known = any(
        entry.event is Event.PROMOTED and entry.target == work.name and entry.release == work.release.name
        for entry in work.ledger.entries()
    )
    with work.reporter.step(f"{work.name}: {work.release.name}") as step:
        if await site.running("canary") is not None or not await site.on_stable():
            step.say("there already; removing the canary that an interrupted run left")
            await site.move(0)
            await site.remove_canary()
        else:
            step.cached("there already")
    if not known:
        await _smoke(work)
        work.write(Event.PROMOTED, reason="finished what an interrupted run had begun")
    return TargetResult(
        target=work.name,
        release=work.release.name,
        previous=None,
        outcome=Outcome.CACHED,
        reason="it runs there already",
    )


async def _canary(work: _Work, *, previous: str | None) -> TargetResult:
    """The whole canary on one target, beside a stable release."""
    site, result = (
        work.site,
        TargetResult(
            target=work.name,
            release=work.release.name,
            previous=previous,
            outcome=Outcome.PROMOTED,
            reason="",
        ),
    )
    async with _load(site) as running:
        begun = _requests(running.counts) if running else None
        steps: list[StepResult] = []
        latest: list[Finding] = []
        try:
            passed, carried = await _have_canary(work)
            for step in site.environment.canary.steps:
                if step.weight <= passed:
                    work.reporter.note(f"{work.name}: {step.weight} % passed before")
                    continue
                baked = await _step(work, step, carried, running, latest)
                steps.append(baked)
                if baked.verdict is not Verdict.PASS and not baked.overruled:
                    break
                carried = {finding.metric: finding.carried for finding in baked.findings}
                work.write(Event.STEP_PASSED, baked)
            outcome, reason = _outcome(work, steps)
            if outcome is Outcome.PROMOTED:
                with work.reporter.step(f"{work.name}: upgrade stable") as shown:
                    await site.install(work.release, work.chart, "stable", shown.say)
            before = _requests(running.counts) if running else None
            moved = await _to_stable(work)
            if outcome is Outcome.FAILED:
                work.write(Event.STEP_FAILED, steps[-1])
            if outcome is not Outcome.HELD:
                await _remove_canary(work)
            work.write(_END[outcome], None if outcome is Outcome.PROMOTED else steps[-1], reason)
        except BaseException as error:
            await _leave_safely(work, error, steps, latest)
            raise
        moving = _between(before, running)
    return result.model_copy(
        update={
            "outcome": outcome,
            "reason": f"{reason}; traffic was back on stable within {moved:.1f} s",
            "steps": tuple(steps),
            "requests": _between(begun, running),
            "moving": moving,
        }
    )


_END = {
    Outcome.PROMOTED: Event.PROMOTED,
    Outcome.FAILED: Event.ROLLED_BACK,
    Outcome.STOPPED: Event.ROLLED_BACK,
    Outcome.HELD: Event.INCONCLUSIVE,
}


def _outcome(work: _Work, steps: Sequence[StepResult]) -> tuple[Outcome, str]:
    """What the steps' verdicts mean here."""
    last = steps[-1] if steps else None
    if last is None or last.verdict is Verdict.PASS or last.overruled:
        return Outcome.PROMOTED, "every step passed"
    if last.verdict is Verdict.FAIL:
        return Outcome.FAILED, f"at {last.weight} %: {last.reason}"
    if work.harm.is_set():
        return Outcome.STOPPED, "a gate failed in another region of this wave"
    if work.site.environment.gates.on_inconclusive is OnInconclusive.ROLLBACK:
        return Outcome.FAILED, f"at {last.weight} %: {last.reason}"
    return Outcome.HELD, f"at {last.weight} %: {last.reason}"


async def _have_canary(work: _Work) -> tuple[int, dict[str, Carried]]:
    """Have this release's canary; returns the weight that has passed before, and the evidence of then."""
    site = work.site
    wanted = chart_values(site.environment, site.target, work.release, "canary")
    there = await site.running("canary")
    with work.reporter.step(f"{work.name}: install the canary") as step:
        if there is not None and there.deployed and there.values == wanted:
            step.cached("there already, from an interrupted run")
            passed, carried = work.ledger.carried(work.name, work.release.name)
            return passed, dict(carried)
        if there is not None:
            step.say(f"removing the canary of {there.release or 'someone else'} first")
            await site.move(0)
            await site.remove_canary()
        work.write(Event.STARTED)
        await site.install(work.release, work.chart, "canary", step.say)
        work.write(Event.CANARY)
    return 0, {}


async def _step(
    work: _Work,
    step: CanaryStep,
    carried: dict[str, Carried],
    running: load.Load | None,
    latest: list[Finding],
) -> StepResult:
    """Move the traffic, bake, and say how it went."""
    site = work.site
    with work.reporter.step(f"{work.name}: {step.weight} % to the canary") as shown:
        shown.say("waiting for the gateway to follow")
        await site.move(step.weight)

        def show(observed: Observed, findings: Sequence[Finding]) -> None:
            latest[:] = findings
            shown.say(_line(observed, findings, running))

        baked = await bake(
            site.environment,
            step,
            namespace=site.target.namespace,
            cluster=site.cluster,
            prometheus=site.prometheus,
            carried=carried,
            show=show,
            stopped=work.harm.is_set,
        )
        overrule = (
            baked.verdict is Verdict.INCONCLUSIVE
            and not work.harm.is_set()
            and site.environment.gates.on_inconclusive is OnInconclusive.PROMOTE
        )
        if overrule:
            work.reporter.note(f"{work.name}: {baked.reason}; {site.environment.name} goes on all the same")
            baked = baked.model_copy(update={"overruled": True})
        _end(shown, baked)
    if baked.exposure.mismatch and baked.exposure.observed is not None:
        work.reporter.note(
            f"{work.name}: the canary got {baked.exposure.observed:.1%} of the sessions, not {step.weight} %"
        )
    return baked


def _end(shown: Step, baked: StepResult) -> None:
    shown.say(f"{baked.verdict}: {baked.reason}" if baked.verdict is not Verdict.PASS else shown.detail)


def _line(observed: Observed, findings: Sequence[Finding], running: load.Load | None) -> str:
    """`E 1.2/180 | err 3/96 vs 0/310 | safe 14/10 | p95 43 ms | 412 req 0 lost`: narrow screens exist."""
    parts = []
    errors = next((finding for finding in findings if finding.metric == "errors"), None)
    if errors is None or errors.tally is None or not observed.window.current:
        parts.append(f"no data: {observed.window.hole or 'not yet'}")
    else:
        tally = errors.tally
        parts.append(f"err {tally.canary_bad}/{tally.canary} vs {tally.stable_bad}/{tally.stable}")
    if errors is not None and errors.log_harm is not None and errors.log_fail_at is not None:
        parts.insert(0, f"E {number(errors.log_harm)}/{number(errors.log_fail_at)}")
        if errors.log_safe is not None and errors.log_pass_at is not None:
            parts.append(f"safe {number(errors.log_safe)}/{number(errors.log_pass_at)}")
    parts.append(f"p95 {milliseconds(observed.window.quantile('canary', 0.95))}")
    if running:
        parts.append(f"{running.counts.sent} req {running.counts.lost} lost")
    return " | ".join(parts)


async def _to_stable(work: _Work) -> float:
    """All traffic to stable; returns the seconds until the gateway followed."""
    with work.reporter.step(f"{work.name}: traffic to stable") as step:
        seconds = await work.site.move(0)
        step.say(f"followed after {seconds:.1f} s")
    return seconds


async def _remove_canary(work: _Work) -> None:
    with work.reporter.step(f"{work.name}: remove the canary"):
        await work.site.remove_canary()


async def _leave_safely(
    work: _Work, error: BaseException, steps: Sequence[StepResult], latest: Sequence[Finding]
) -> None:
    """The run ends early: stable gets all the traffic, the canary stays for the next run."""
    site = work.site
    try:
        await site.move(0)
        work.reporter.note(f"{work.name}: stable has all the traffic; the canary stays for the next run")
    except LeaseLost:
        work.reporter.note(f"{work.name}: left as it is: it is not ours any more")
    except PipelineError as second:
        work.reporter.note(
            f"{work.name}: COULD NOT make sure that stable has all the traffic ({second.message}); "
            "the same command, or va rollback, does it when the target answers again"
        )
    work.ledger.write(
        Event.INTERRUPTED,
        target=work.name,
        release=work.release.name,
        weight=steps[-1].weight if steps else None,
        reason="interrupted" if isinstance(error, asyncio.CancelledError) else str(error),
        findings=tuple(latest),
    )


@asynccontextmanager
async def _load(site: Site) -> AsyncIterator[load.Load | None]:
    wanted = site.environment.load
    if wanted is None:
        yield None
        return
    async with load.generate(
        site.target.gateway,
        site.target.hostname,
        rate=wanted.rate,
        timeout=wanted.timeout,
        concurrency=wanted.concurrency,
        send=site.send,
    ) as running:
        yield running


def _requests(counts: load.Counts) -> Requests:
    return Requests(
        sent=counts.sent,
        ok=counts.ok,
        failed=counts.failed,
        lost=counts.lost,
        lost_how=tuple(counts.lost_how),
    )


def _between(before: Requests | None, running: load.Load | None) -> Requests | None:
    if before is None or running is None:
        return None
    now = _requests(running.counts)
    return Requests(
        sent=now.sent - before.sent,
        ok=now.ok - before.ok,
        failed=now.failed - before.failed,
        lost=now.lost - before.lost,
        lost_how=now.lost_how[len(before.lost_how) :],
    )
