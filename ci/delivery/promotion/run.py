"""The loop on one target: look, ask `states` for the next thing, write the intent, do it, write what came.

    result = await run(Work(goal=…, site=…, ledger=…, …))

Nothing is remembered here that the next run would miss. Before each effect it is asked again: is the target
still ours (the lease), did another region fail, did somebody order something? The ledger takes an intent only
behind the entries that the decision was made of, so that none can slip in between.

However a run ends early (Ctrl-C, an error, a cluster that is gone), it first gives stable all the traffic,
and says so when it could not. The canary stays, and the same command goes on from there.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from ci.concurrency import both, unless
from ci.delivery import load
from ci.delivery.bake import Observed, bake
from ci.delivery.cluster import Pod
from ci.delivery.findings import Finding, Verdict
from ci.delivery.helm import changes
from ci.delivery.lease import LeaseLost
from ci.delivery.ledger import Action, Conflict, Draft, Entry, Kind, Ledger
from ci.delivery.origins import origins, strangers
from ci.delivery.promotion import users
from ci.delivery.promotion.facts import canary_ready, look
from ci.delivery.promotion.measurements import Measurements
from ci.delivery.promotion.show import look_line, paused_line
from ci.delivery.promotion.states import Act, Goal, View, next_act, past_of
from ci.delivery.results import Outcome, Requests, StepResult, TargetResult
from ci.delivery.revisions import ONCE_RAN
from ci.delivery.site import Site, Track
from ci.environments import OnInconclusive
from ci.errors import BadInput, PipelineError, SystemUnavailable
from ci.release import Release
from ci.reporting import Reporter, Step

__all__ = ["Harm", "Work", "counted", "run"]

SMOKE_SECONDS = 3.0
SMOKE_RATE = 5.0
_SESSIONS = 5
"""How many sessions may be tried until one has worked, to see that stable answers at all."""
_AGAIN = 0.5
_LOOKS_UNREADY = 3


class Harm:
    """What failed in one promotion: told the moment a verdict is there, and read by all its targets."""

    def __init__(self) -> None:
        self._told: dict[str, str] = {}

    def tell(self, target: str, reason: str) -> None:
        """It failed there."""
        self._told[target] = reason

    def elsewhere(self, target: str) -> str:
        """What failed on another target; empty when nothing did."""
        return next((f"{name} failed" for name in self._told if name != target), "")


@dataclass(frozen=True, kw_only=True)
class Work:
    """What working on one target takes."""

    goal: Goal
    site: Site
    ledger: Ledger
    reporter: Reporter
    harm: Harm = field(default_factory=Harm)
    release: Release | None = None
    """None for a roll-back, which installs nothing."""
    chart: Path | None = None

    @property
    def name(self) -> str:
        """`prod/eastus`."""
        return self.goal.target

    def check(self) -> None:
        """LeaseLost when the target is not ours any more. What changes something there asks it, too."""
        if self.site.lease is not None:
            self.site.lease.check()


class _Book:
    """The ledger as far as it was read."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self.entries: list[Entry] = []
        self.untold: list[Draft] = []
        """Outcomes that could not be written."""

    async def read(self) -> None:
        """What was written since."""
        last = self.entries[-1].sequence if self.entries else 0
        self.entries += await self._work.ledger.entries(after=last)

    async def intend(self, act: Act, **detail: str | int) -> Entry:
        """Write an intent; Conflict when something else was written since it was decided."""
        last = self.entries[-1].sequence if self.entries else 0
        entry = await self._work.ledger.append(self._draft(Kind.INTENT, act, detail=detail), after=last)
        self.entries.append(entry)
        return entry

    async def tell(self, act: Act, outcome: _Came) -> None:
        """Write an outcome, whatever else was written meanwhile; first what was refused before."""
        self.untold.append(
            self._draft(Kind.OUTCOME, act, detail=outcome.detail).model_copy(
                update={
                    "result": outcome.result,
                    "reason": outcome.reason,
                    "findings": outcome.step.findings if outcome.step else (),
                    "exposure": outcome.step.exposure if outcome.step else None,
                }
            )
        )
        while self.untold:
            await self._work.ledger.append(self.untold[0])
            self.untold.pop(0)
        await self.read()

    async def note(self, act: Act, **detail: str) -> None:
        """Write down what was seen."""
        await self._work.ledger.append(self._draft(Kind.NOTE, act, detail=detail))
        await self.read()

    def _draft(self, kind: Kind, act: Act, *, detail: Mapping[str, str | int]) -> Draft:
        goal, lease = self._work.goal, self._work.site.lease
        return Draft(
            promotion=goal.promotion,
            kind=kind,
            action=act.action,
            target=goal.target,
            release=goal.release,
            fence=lease.fence if lease else None,
            weight=act.weight,
            reason=act.reason,
            detail=dict(detail),
        )

    def users_away(self) -> bool:
        """Whether this promotion had the target's users leave, and they have not come back."""
        return users.are_away(self.entries, self._work.goal.promotion, self._work.name)

    def harm(self) -> str:
        """What another target of this promotion came to, by the ledger."""
        goal = self._work.goal
        return next(
            (
                f"{entry.target} failed"
                for entry in self.entries
                if entry.promotion == goal.promotion
                and entry.target not in ("", goal.target)
                and entry.kind is Kind.OUTCOME
                and entry.action in (Action.STEP, Action.SMOKE, Action.VERIFY, Action.WATCH)
                and entry.result == "failed"
            ),
            "",
        )


@dataclass(frozen=True, kw_only=True)
class _Came:
    """What came of an action."""

    result: str = "done"
    reason: str = ""
    detail: Mapping[str, str | int] = field(default_factory=dict)
    step: StepResult | None = None


@dataclass(kw_only=True)
class _Log:
    """For the report alone: what this run saw. Nothing is decided by it."""

    started: float = field(default_factory=time.monotonic)
    acted: bool = False
    loose: bool | None = None
    """The canary may have traffic; None: nobody has looked yet."""
    stuck: bool = False
    """Traffic was to go to stable, and did not."""
    back: str = ""
    """What a roll-back went from and to."""
    steps: list[StepResult] = field(default_factory=list)
    latest: Sequence[Finding] = ()
    requests: Requests | None = None
    load: load.Load | None = None
    begun: Requests | None = None
    before_moving: Requests | None = None
    moving: Requests | None = None
    moved: float | None = None
    """Seconds until the gateway gave stable everything."""
    smoked: Requests | None = None


async def run(work: Work) -> TargetResult:
    """Go on until there is nothing left to do there, or nothing that may be done now.

    SystemUnavailable and StepFailed when a target's system or an installation did not work: the same command
    goes on.
    """
    log, book = _Log(), _Book(work)
    async with AsyncExitStack() as stack:
        try:
            await _go_on(work, book)
            while True:
                view = await _view(work, book)
                log.loose = view.loose
                state, act = next_act(view)
                if act.action is Action.FINISH:
                    await _users_come_back(work, book, act)
                    await _finish(book, view, act, written=view.over or state.name == "there already")
                    break
                if act.action is Action.PAUSE:
                    await _stay_paused(work, book, act)
                    continue
                if act.track == "canary" and log.load is None:
                    log.load = await _load(work.site, stack)
                    log.begun = _requests(log.load)
                await _perform(work, book, log, view, act)
        except BaseException as error:
            await _leave_safely(work, book, log, error)
            raise
        log.moving = _between(log.before_moving, _requests(log.load))
    log.requests = _between(log.begun, _requests(log.load)) or log.smoked
    return _result(work, view, act, log)


async def _go_on(work: Work, book: _Book) -> None:
    """Say so where an earlier run has begun (what it held is asked again), or where the guard had to act."""
    await book.read()
    if acted := await work.site.guarded():
        work.reporter.note(f"{work.name}: {acted}")
        seen = Act(action=Action.GUARD, weight=acted.weight, reason=str(acted))
        await book.note(seen, time=acted.time.isoformat(), who="the guard")
    past = past_of(book.entries, work.goal.promotion, work.name)
    if past.started and not past.ended:
        await book.note(Act(action=Action.START, reason="the same promotion goes on"))


async def _view(work: Work, book: _Book) -> View:
    facts, _ = await both(look(work.site.cluster, work.site.target.namespace), book.read())
    return View(
        goal=work.goal,
        facts=facts,
        past=past_of(book.entries, work.goal.promotion, work.name),
        harm=_harm(work, book),
    )


async def _stay_paused(work: Work, book: _Book, paused: Act) -> None:
    """Until something else is to be done than to wait for that order's end."""
    work.reporter.note(paused_line(work.name, paused.reason))
    with work.reporter.step(f"{work.name}: wait while it is paused"):
        while True:
            if next_act(await _view(work, book))[1] != paused:
                return
            await asyncio.sleep(max(work.site.environment.gates.look, 0.05))


def _harm(work: Work, book: _Book) -> str:
    """What failed on another target, told within this process or by the ledger; empty when nothing did."""
    return work.harm.elsewhere(work.name) or book.harm()


async def _users_come_back(work: Work, book: _Book, act: Act) -> None:
    """Once stable was verified; at the latest at the end, when it is what it was before."""
    if await users.come_back(work.site, away=book.users_away(), note=partial(book.note, act)):
        work.reporter.note(f"{work.name}: users come back to the region")


async def _finish(book: _Book, view: View, act: Act, *, written: bool) -> None:
    if not written and (view.past.started or view.back is None):
        await book.tell(act, _Came(result=act.result, reason=act.reason, detail={"now": view.facts.runs}))


async def _perform(work: Work, book: _Book, log: _Log, view: View, act: Act) -> None:
    """Intent, effect, outcome. Nothing when somebody wrote to the ledger since the decision: look again."""
    detail: dict[str, str | int] = {}
    if act.action is Action.START and (before := view.to_go_back_to) is not None:
        detail = {"before": before.release, "revision": before.number}
    try:
        intent = await book.intend(act, **detail)
    except Conflict:
        return
    if (harm := _harm(work, book)) != view.harm:
        await book.tell(act, _Came(result="stopped", reason=harm))
        return
    work.check()
    log.acted = True
    try:
        came = await _effect(_Doing(work, book, log, view, act, intent))
    except BaseException as error:
        cancelled = isinstance(error, asyncio.CancelledError)
        log.stuck = not cancelled and act.action is Action.MOVE and act.weight == 0
        with suppress(PipelineError, OSError):
            await book.tell(act, _Came(result="interrupted" if cancelled else "error", reason=str(error)))
        raise
    if came.result == "failed":
        work.harm.tell(work.name, came.reason)
    await book.tell(act, came)


async def _leave_safely(work: Work, book: _Book, log: _Log, error: BaseException) -> None:
    """The run ends early: stable gets all the traffic, the canary stays for the next run.

    The traffic first: it needs no ledger, which may be what the run ends for.
    """
    if isinstance(error, LeaseLost):
        return
    if log.loose is None:
        with suppress(PipelineError):
            log.loose = not await work.site.on_stable()
    if not log.loose:
        return
    act = Act(action=Action.MOVE, weight=0, reason="the run ends early")
    try:
        if log.stuck:
            raise error
        work.check()
        await work.site.move(0)
        work.reporter.note(f"{work.name}: stable has all the traffic; the canary stays for the next run")
        await _tell_late(work, book, act)
    except LeaseLost:
        return  # whoever has the target now decides
    except BaseException as second:
        why = second.message if isinstance(second, PipelineError) else "interrupted again"
        work.reporter.note(
            f"{work.name}: COULD NOT make sure that stable has all the traffic ({why}); "
            "the same command, or va rollback, does it when the target answers again"
        )
        if not isinstance(second, PipelineError) and second is not error:
            raise


async def _tell_late(work: Work, book: _Book, act: Act) -> None:
    """Write down a move that was done without asking, and what could not be written before it."""
    try:
        await book.tell(act, _Came())
    except (PipelineError, OSError) as error:
        lost = "; ".join(
            f"{one.action} {one.result}: {one.reason}" for one in book.untold if one.result == "failed"
        )
        work.reporter.note(
            f"{work.name}: the ledger does not take what was done ({error})"
            + (f"; it does not know of: {lost}: va rollback takes the canary away" if lost else "")
        )


# What each action does.


@dataclass(frozen=True)
class _Doing:
    work: Work
    book: _Book
    log: _Log
    view: View
    act: Act
    intent: Entry
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once something else is to be done now."""

    @property
    def site(self) -> Site:
        return self.work.site


async def _effect(doing: _Doing) -> _Came:
    """Do it, unless something is heard meanwhile that wants another thing done: then it is cut off at once.

    What is half done by then is as after a kill, and for the table to decide. What brings stable back is not
    cut off: that comes first, whatever else is wanted.
    """
    effect = _EFFECTS[doing.act.action]
    if doing.act.action in (Action.START, Action.MEND, Action.ROLL_BACK):
        return await effect(doing)
    listening = asyncio.create_task(_listen(doing))
    try:
        if doing.act.action is Action.STEP:  # it keeps what it saw
            return await effect(doing)
        came = await unless(doing.stop, effect(doing))
    finally:
        listening.cancel()
        await asyncio.wait([listening])
    return came or _Came(result="stopped", reason=_heard(doing))


async def _listen(doing: _Doing) -> None:
    """Read the ledger look by look: an order, or harm that another process saw."""
    while not _heard(doing):
        await asyncio.sleep(doing.site.environment.gates.look)
        with suppress(SystemUnavailable):
            await doing.book.read()
    doing.stop.set()


def _heard(doing: _Doing) -> str:
    """The order, or the harm elsewhere, by which another thing is to be done now; empty when none is."""
    work, then = doing.work, doing.view
    now = past_of(doing.book.entries, work.goal.promotion, work.name)
    ordered = replace(
        then.past,
        paused=now.paused,
        aborted=now.aborted,
        closed=now.closed,
        ordered_back=now.ordered_back,
    )
    view = replace(then, past=ordered, harm=_harm(work, doing.book))
    _, act = next_act(view)
    if (act.action, act.weight, act.track) == (doing.act.action, doing.act.weight, doing.act.track):
        return ""
    return view.back[1] if view.back else view.past.paused


async def _start(doing: _Doing) -> _Came:
    stable = doing.view.facts.stable
    if stable is not None and doing.work.goal.stable and not doing.view.arrived:
        for line in changes(stable.values, doing.work.goal.stable):
            doing.work.reporter.note(f"{doing.work.name}: {line}")
    return _Came()


async def _mend(doing: _Doing) -> _Came:
    with doing.work.reporter.step(f"{doing.work.name}: wait for Helm, and mend what it left") as step:
        done = await doing.site.mend(doing.act.track, step.say)
        step.say(done or "it had come to its end")
    return _Came(reason=done)


async def _install(doing: _Doing) -> _Came:
    work = doing.work
    assert work.release is not None and work.chart is not None
    track: Track = "canary" if doing.act.action is Action.CANARY else "stable"
    what = {
        Action.CANARY: "install the canary",
        Action.INSTALL: "install (the first release here, no canary)",
    }.get(doing.act.action, "upgrade stable")
    if doing.act.action is Action.UPGRADE and not work.goal.weights:
        what = f"upgrade stable (no canary in {doing.site.environment.name})"
    if doing.act.action is Action.UPGRADE and doing.site.regions is not None:
        with work.reporter.step(f"{work.name}: users leave the region") as step:
            note = partial(doing.book.note, doing.act)
            await users.leave(doing.site, away=doing.book.users_away(), note=note, show=step.say)
    with work.reporter.step(f"{work.name}: {what}") as step:
        try:
            await doing.site.install(work.release, work.chart, track, step.say)
        except asyncio.CancelledError:
            # By an order, or harm: traffic leaves the canary before stable goes back, so the table does it.
            if not (doing.stop.is_set() and doing.act.action is Action.UPGRADE):
                with suppress(PipelineError):
                    await doing.site.undo(track)
            raise
    return _Came()


async def _move(doing: _Doing) -> _Came:
    weight, log = doing.act.weight or 0, doing.log
    what = f"move {weight} % of the traffic to the canary" if weight else "traffic to stable"
    with doing.work.reporter.step(f"{doing.work.name}: {what}") as step:
        step.say("waiting for the gateway to follow")
        if weight == 0:
            log.before_moving = log.before_moving or _requests(log.load)
        log.loose = True
        seconds = await doing.site.move(weight)
        log.loose = weight > 0
        if weight == 0:
            log.moved = seconds
        step.say(f"followed after {seconds:.1f} s")
    return _Came()


async def _bake(doing: _Doing) -> _Came:
    work, site, weight = doing.work, doing.site, doing.act.weight
    environment = site.environment
    kept = Measurements(environment.estate, work.goal.promotion, site.target)
    past = doing.view.past
    carried = {**past.carried, **kept.carried(past.baking)}
    step = next(one for one in environment.canary.steps if one.weight == weight)
    unwritten, unready = "", 0
    blind = _Blind(work.name, environment.gates.stale, work.reporter.note)

    def stopped() -> bool:
        return doing.stop.is_set() or bool(work.harm.elsewhere(work.name))

    with work.reporter.step(f"{work.name}: {step.weight} % to the canary") as shown:

        def show(observed: Observed, findings: Sequence[Finding]) -> None:
            nonlocal unwritten, unready
            # The state after it decides; a pod that is away for a moment ends no bake.
            unready = unready + 1 if observed.pods is not None and not canary_ready(observed.pods) else 0
            if unready >= _LOOKS_UNREADY:
                doing.stop.set()
            try:
                kept.write(
                    step=doing.intent.sequence,
                    weight=step.weight,
                    seconds=observed.seconds,
                    findings=findings,
                )
            except OSError as error:  # evidence that only a run after a kill would need
                if not unwritten:
                    unwritten = f"{work.name}: what a look saw cannot be kept: {error}"
                    work.reporter.note(unwritten)
            shown.say(look_line(observed, findings, doing.log.load))
            blind.look(observed)

        baked = await bake(
            environment,
            step,
            target=site.target,
            cluster=site.cluster,
            prometheus=site.prometheus,
            carried=carried,
            show=show,
            stopped=stopped,
        )
        came = _judged(work, baked, stopped=stopped())
        if came.result == "failed":
            work.harm.tell(work.name, came.reason)
        assert came.step is not None
        doing.log.steps.append(came.step)
        _end(shown, came.step)
    if baked.exposure.mismatch and baked.exposure.observed is not None:
        work.reporter.note(
            f"{work.name}: the canary got {baked.exposure.observed:.1%} of the sessions, not {step.weight} %"
        )
    return came


@dataclass
class _Blind:
    """Says that a bake sees nothing: once, when that is no moment any more, and when it is over."""

    name: str
    moment: float
    """Seconds."""
    note: Callable[[str], None]
    since: float | None = None
    told: bool = False

    def look(self, observed: Observed) -> None:
        if not observed.window.current:
            self.since = observed.seconds if self.since is None else self.since
            if not self.told and observed.seconds - self.since >= self.moment:
                self.told = True
                self.note(f"{self.name}: no data, so nothing is judged: {observed.window.hole}")
            return
        if self.told and self.since is not None:
            self.note(f"{self.name}: there is data again, after {observed.seconds - self.since:.0f} s")
        self.since, self.told = None, False


def _judged(work: Work, baked: StepResult, *, stopped: bool) -> _Came:
    """What a step's verdict means here."""
    reason = f"at {baked.weight} %: {baked.reason}"
    if baked.verdict is Verdict.PASS:
        return _Came(result="passed", reason=baked.reason, step=baked)
    if baked.verdict is Verdict.FAIL:
        return _Came(result="failed", reason=reason, step=baked)
    if stopped:
        return _Came(result="stopped", reason=baked.reason, step=baked)
    match work.site.environment.gates.on_inconclusive:
        case OnInconclusive.PROMOTE:
            name = work.site.environment.name
            work.reporter.note(f"{work.name}: {baked.reason}; {name} goes on all the same")
            overruled = baked.model_copy(update={"overruled": True})
            return _Came(result="passed", reason=reason, step=overruled, detail={"overruled": "yes"})
        case OnInconclusive.ROLLBACK:
            return _Came(result="failed", reason=reason, step=baked)
        case _:
            return _Came(result="inconclusive", reason=reason, step=baked)


def _end(shown: Step, baked: StepResult) -> None:
    shown.say(f"{baked.verdict}: {baked.reason}" if baked.verdict is not Verdict.PASS else shown.detail)


async def _smoke(doing: _Doing) -> _Came:
    """Some sessions, to see that they work at all; that a few fail is for gates to judge."""
    work = doing.work
    with work.reporter.step(f"{work.name}: try some sessions") as step:
        counts = await _sessions(doing.site, seconds=SMOKE_SECONDS, rate=SMOKE_RATE)
        sent = counted(counts)
        doing.log.smoked = sent
        step.say(f"{sent.sent} requests, {sent.failed} failed, {sent.lost} lost")
        if not sent.lost and sent.failed < sent.ok:
            return _Came(result="passed", reason=step.detail)
        how = "; ".join(counts.lost_how)
        reason = f"sessions of {work.goal.release} fail on {work.name}: {step.detail} {how}".rstrip()
        return _Came(result="failed", reason=reason)


async def _ready(doing: _Doing) -> _Came:
    """Each service of the canary has a pod that answers, before it gets traffic."""
    work, site, seconds = doing.work, doing.site, doing.site.environment.canary.install
    with work.reporter.step(f"{work.name}: wait for a pod of the canary") as step:
        until = time.monotonic() + seconds
        while not canary_ready(pods := await site.pods()):
            if time.monotonic() > until:
                troubles = "".join(
                    f"; {pod.name}: {pod.trouble}" for pod in pods if pod.track == "canary" and pod.trouble
                )
                reason = f"the canary of {work.goal.release} has no ready pod on {work.name}{troubles}"
                return _Came(result="failed", reason=reason)
            await asyncio.sleep(_AGAIN)
        step.say("there is one")
    return _Came()


async def _verify(doing: _Doing) -> _Came:
    """Every pod of stable is this release's, at its digests, ready; a session gets through; `helm test`."""
    if doing.act.track == "canary":
        return await _ready(doing)
    work, site = doing.work, doing.site
    with work.reporter.step(f"{work.name}: verify what runs") as step:
        canary, begun = site.environment.canary, time.monotonic()
        while True:
            pods = await site.pods()
            mine = [pod for pod in pods if pod.track == "stable" and not (pod.ended or pod.leaving)]
            wrong, starts = _wrong(doing, mine), _starting(mine)
            if not (wrong or starts):
                break
            step.say(wrong or starts)
            # A pod that an autoscaler has just added may start for as long as one of an installation.
            if time.monotonic() - begun > (canary.follow if wrong else canary.install):
                reason = f"{work.goal.release} does not run on {work.name}: {wrong or starts}"
                return _Came(result="failed", reason=reason)
            await asyncio.sleep(_AGAIN)
        for _ in range(_SESSIONS):
            counts = await _sessions(site, seconds=0.01, rate=1)
            if counts.ok and not counts.failed and not counts.lost:
                break
        else:
            how = "; ".join(counts.lost_how) or "they fail"
            return _Came(result="failed", reason=f"no session of {_SESSIONS} gets through {work.name}: {how}")
        step.say("run the chart's own tests")
        if why := await site.test():
            reason = f"the tests of {work.goal.release}'s chart fail on {work.name}: {why}"
            return _Came(result="failed", reason=reason)
        step.say("all pods are this release's, a session gets through, and the chart's tests pass")
        await _users_come_back(work, doing.book, doing.act)
        return _Came(result="passed", reason=step.detail)


def _wrong(doing: _Doing, pods: Sequence[Pod]) -> str:
    """What of stable's pods is not as it shall be; empty when nothing is."""
    if not pods:
        return "no pod runs"
    for pod in pods:
        if pod.release != doing.work.goal.release:
            return f"{pod.name} is still of {pod.release or 'somebody else'}"
    ready = [pod for pod in pods if pod.ready]
    found = origins(ready, endpoint=doing.site.target.registry, on_nodes={})
    elsewhere = (f"{one.pod}: {one.problem}" for one in found if one.problem)
    others = strangers(ready, doing.work.release) if doing.work.release else ()
    return next(chain(elsewhere, others), "")


def _starting(pods: Iterable[Pod]) -> str:
    """Which of them is not ready, and what keeps it; empty when all are."""
    for pod in pods:
        if not pod.ready:
            return f"{pod.name} is not ready{f': {pod.trouble}' if pod.trouble else ''}"
    return ""


async def _remove(doing: _Doing) -> _Came:
    canary = doing.view.facts.canary
    of = f" of {canary.release or 'somebody else'}" if canary and not doing.view.canary_is_ours else ""
    with doing.work.reporter.step(f"{doing.work.name}: remove the canary{of}"):
        await doing.site.remove_canary()
    return _Came()


async def _roll_back(doing: _Doing) -> _Came:
    site, before, name = doing.site, doing.view.past.before, doing.work.name
    assert before is not None
    history = await site.history("stable")
    ran = [one for one in history if one.status in ONCE_RAN and one.release == before.release]
    wanted = next((one for one in ran if one.number == before.number), None)
    if wanted is None and before.release != doing.work.goal.release:
        wanted = next(iter(ran), None)  # of the same name it may be the one to leave
    if wanted is None:
        kept = sorted({revision.release for revision in history if revision.release})
        raise BadInput(
            f"Helm's history on {name} has no release {before.release!r}",
            hint=f"it has {', '.join(kept)}: va promote installs any other",
        )
    with doing.work.reporter.step(f"{name}: back to {wanted.release}") as step:
        await site.back_to(wanted, step.say)
        step.say(f"revision {wanted.number} is running again")
    doing.log.back = f"rolled back from {doing.work.goal.release} to {wanted.release}"
    return _Came(reason=doing.log.back, detail={"to": wanted.number})


_EFFECTS: Mapping[Action, Callable[[_Doing], Coroutine[Any, Any, _Came]]] = {
    Action.START: _start,
    Action.MEND: _mend,
    Action.INSTALL: _install,
    Action.CANARY: _install,
    Action.UPGRADE: _install,
    Action.MOVE: _move,
    Action.STEP: _bake,
    Action.SMOKE: _smoke,
    Action.VERIFY: _verify,
    Action.REMOVE: _remove,
    Action.ROLL_BACK: _roll_back,
}


# The report.


def _result(work: Work, view: View, act: Act, log: _Log) -> TargetResult:
    before = view.past.before
    outcome, reason = _OUTCOMES[act.result], act.reason
    if act.result == "promoted":
        if before is None and log.acted:
            outcome = Outcome.INSTALLED
        elif not log.acted or not view.past.touched:
            outcome, reason = Outcome.CACHED, "it runs there already"
    elif outcome is Outcome.BACK and not log.acted and work.release is None:
        outcome, reason = Outcome.CACHED, f"it is at {view.facts.runs} already"
    elif outcome is Outcome.BACK and log.acted:
        reason = log.back or "the canary was removed; stable stays"
    elif outcome is Outcome.FAILED and view.past.nothing_before(work.goal.release):
        outcome = Outcome.BROKEN
    if log.moved is not None and log.acted:
        reason = f"{reason}; traffic was back on stable within {log.moved:.1f} s"
    return TargetResult(
        target=work.name,
        release=view.facts.runs if act.result == "rolled back" else work.goal.release,
        previous=before.release or None if before else None,
        outcome=outcome,
        reason=reason,
        steps=tuple(log.steps),
        requests=log.requests,
        moving=log.moving,
        seconds=time.monotonic() - log.started,
    )


_OUTCOMES = {
    "promoted": Outcome.PROMOTED,
    "failed": Outcome.FAILED,
    "stopped": Outcome.STOPPED,
    "aborted": Outcome.ABORTED,
    "rolled back": Outcome.BACK,
    "held": Outcome.HELD,
}


async def _sessions(site: Site, *, seconds: float, rate: float) -> load.Counts:
    async with load.generate(site.target.gateway, site.target.hostname, rate=rate, send=site.send) as running:
        await asyncio.sleep(seconds)
    return running.counts


async def _load(site: Site, stack: AsyncExitStack) -> load.Load | None:
    """Synthetic users while the run lasts, where the environment wants them."""
    wanted = site.environment.load
    if wanted is None:
        return None
    return await stack.enter_async_context(
        load.generate(
            site.target.gateway,
            site.target.hostname,
            rate=wanted.rate,
            timeout=wanted.timeout,
            concurrency=wanted.concurrency,
            send=site.send,
        )
    )


def _requests(running: load.Load | None) -> Requests | None:
    return None if running is None else counted(running.counts)


def counted(counts: load.Counts) -> Requests:
    """What a load counted up to now."""
    return Requests(
        sent=counts.sent,
        ok=counts.ok,
        failed=counts.failed,
        lost=counts.lost,
        lost_how=tuple(counts.lost_how),
    )


def _between(before: Requests | None, now: Requests | None) -> Requests | None:
    if before is None or now is None:
        return None
    return Requests(
        sent=now.sent - before.sent,
        ok=now.ok - before.ok,
        failed=now.failed - before.failed,
        lost=now.lost - before.lost,
        lost_how=now.lost_how[len(before.lost_how) :],
    )
