"""The loop on a small world: cut at every transition, stopped by harm elsewhere and by orders, it goes on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from promotion_world import World, environment, release

from ci.delivery import traffic
from ci.delivery.cluster import PodImage, Ran
from ci.delivery.findings import NOTHING_CARRIED, Carried, Exposure, Finding, Verdict
from ci.delivery.lease import LeaseLost
from ci.delivery.ledger import Action, Draft, Entry, Kind, Ledger, open_named
from ci.delivery.promotion import run as loop
from ci.delivery.promotion.run import Harm, Work, run
from ci.delivery.promotion.states import Goal, past_of
from ci.delivery.regions import Endpoint, Monitor, Profile
from ci.delivery.results import Outcome, StepResult, TargetResult
from ci.delivery.site import CANARY, STABLE, chart_values
from ci.environments import Environment, Traffic
from ci.errors import SystemUnavailable
from ci.reporting import SilentReporter

GOOD, BETTER = release("good"), release("better")
PROMOTION = "2026-11-29T201500-ab12"


class Killed(BaseException):
    """kill -9: nothing of the run happens any more."""


def step_result(verdict: Verdict, weight: int, log_harm: float = 0.0) -> StepResult:
    finding = Finding(metric="errors", verdict=verdict, reason="1 of 9", log_harm=log_harm, log_safe=1.0)
    exposure = Exposure(intended=0.2, observed=None, log_e=0.0, mismatch=False)
    return StepResult(
        weight=weight, verdict=verdict, reason="errors", seconds=1, findings=(finding,), exposure=exposure,
        p95_canary=None, p95_stable=None,
    )  # fmt: skip


@dataclass
class Try:
    """Runs of one promotion in one environment, whose bakes end as the test says."""

    world: World
    environment: Environment
    ledger: Ledger
    verdict: Callable[[str, int], Verdict] = lambda *_: Verdict.PASS
    harm: Harm = field(default_factory=Harm)
    carried: list[Mapping[str, Carried]] = field(default_factory=list)
    cut: Callable[[str], None] = lambda _: None
    """Called with each thing that happens, and may be the end."""
    dead: bool = False
    lease: Any = None

    async def bake(self, environment: Environment, step: Any, **more: Any) -> StepResult:
        self.carried.append(more["carried"])
        self.happened(f"bake {step.weight}")
        return step_result(self.verdict(more["target"].namespace, step.weight), step.weight)

    def happened(self, what: str) -> None:
        if self.dead:
            raise Killed
        try:
            self.cut(what)
        except Killed:
            self.dead = True
            raise

    async def append(self, draft: Draft, **more: Any) -> Entry:
        self.happened(f"before {draft.kind} {draft.action}")
        entry = await self.ledger.append(draft, **more)
        self.happened(f"{draft.kind} {draft.action}")
        return entry

    async def run(self, region: str = "eastus", *, back: bool = False) -> TargetResult:
        target = self.environment.target(region)
        goal = Goal(promotion=PROMOTION, target=target.name, release=BETTER.name)
        if not back:
            goal = Goal(
                promotion=PROMOTION,
                target=target.name,
                release=BETTER.name,
                stable=chart_values(self.environment, target, BETTER, "stable"),
                canary=chart_values(self.environment, target, BETTER, "canary"),
                weights=tuple(step.weight for step in self.environment.canary.steps),
            )
        cut = Cut(self)
        async with self.world.open_site(self.environment, region) as site:
            return await run(
                Work(
                    goal=goal, site=replace(site, lease=self.lease), ledger=cut,  # type: ignore[arg-type]
                    reporter=SilentReporter(), harm=self.harm, release=BETTER, chart=Path("chart.tgz"),
                )
            )  # fmt: skip

    async def order(self, action: Action, target: str = "") -> None:
        await self.ledger.append(
            Draft(promotion=PROMOTION, kind=Kind.ORDER, action=action, target=target, reason="because")
        )

    def again(self) -> None:
        """A new process."""
        self.dead, self.harm, self.cut = False, Harm(), lambda _: None


class Cut:
    """The ledger of a process that may be killed."""

    def __init__(self, one: Try) -> None:
        self.append, self.entries = one.append, one.ledger.entries


@asynccontextmanager
async def trying(monkeypatch: pytest.MonkeyPatch, wanted: Environment) -> AsyncIterator[Try]:
    """The good release is stable on every target."""
    world = World()
    async with open_named("test", wanted.name) as ledger:
        one = Try(world, wanted.model_copy(update={"load": None}), ledger)
        for region in wanted.targets:
            target = wanted.target(region)
            values = chart_values(wanted, target, GOOD, "stable")
            await world.place(target.name).upgrade(STABLE, Path(), dict(values), timeout=1, description="")
        world.log.clear()
        world.on = one.happened
        monkeypatch.setattr(loop, "bake", one.bake)
        leave = loop._leave_safely

        async def unless_killed(*given: Any) -> None:
            if not one.dead:
                await leave(*given)

        monkeypatch.setattr(loop, "_leave_safely", unless_killed)
        yield one


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VA_STATE", str(tmp_path))
    monkeypatch.setattr(loop, "SMOKE_SECONDS", 0.02)
    monkeypatch.setattr(loop, "SMOKE_RATE", 500)


def at_once() -> Environment:
    dev = environment("dev")
    return dev.model_copy(update={"canary": dev.canary.model_copy(update={"steps": ()})})


def fails(_: str, weight: int) -> Verdict:
    return Verdict.FAIL if weight == 50 else Verdict.PASS


@dataclass(frozen=True)
class Case:
    """What is cut at every transition, and how it always ends."""

    environment: Environment
    stable: str
    ended: str
    verdict: Callable[[str, int], Verdict] = lambda *_: Verdict.PASS
    broken: bool = False
    back: bool = False


CASES = {
    "good": Case(environment(), "better", "promoted"),
    "bad": Case(environment(), "good", "failed", fails),
    "at once": Case(at_once(), "better", "promoted"),
    "at once, broken": Case(at_once(), "good", "failed", broken=True),
    "rolled back": Case(environment(), "good", "rolled back", back=True),
}


def drained(wanted: Environment) -> Environment:
    """The same, with users who leave a region before it is upgraded."""
    profile = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Network/trafficManagerProfiles/p"
    return wanted.model_copy(update={"traffic": Traffic(profile=profile, drain="0s")})


class Regions:
    """Two regions; what is done to them can be the last thing that happens."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.out: set[str] = set()

    async def look(self) -> Profile:
        return Profile(
            fqdn="voice.test", ttl=0, routing="Weighted", interval=1, tolerated=1,
            endpoints=tuple(self._endpoint(name) for name in ("eastus", "westeurope")),
        )  # fmt: skip

    async def change(self, region: str, *, enabled: bool | None = None, **_: int | None) -> Endpoint:
        self.world.event(f"{region} about to be {'put back' if enabled else 'taken out'}")
        (self.out.discard if enabled else self.out.add)(region)
        self.world.event(f"{region} {'put back' if enabled else 'taken out'}")
        return self._endpoint(region)

    def _endpoint(self, name: str) -> Endpoint:
        monitor = Monitor.DISABLED if name in self.out else Monitor.ONLINE
        return Endpoint(region=name, target="t", enabled=name not in self.out, monitor=monitor)


CASES |= {
    "users leave": Case(drained(environment()), "better", "promoted"),
    "users leave, at once, broken": Case(drained(at_once()), "good", "failed", broken=True),
}

ONCE = (
    Action.START, Action.INSTALL, Action.CANARY, Action.STEP, Action.UPGRADE, Action.SMOKE, Action.VERIFY,
    Action.ROLL_BACK, Action.FINISH,
)  # fmt: skip
"""What is not done a second time once it was done; traffic is moved as often as it takes."""


@pytest.mark.parametrize("name", CASES)
def test_cut_anywhere_the_same_command_comes_to_the_same_end(
    monkeypatch: pytest.MonkeyPatch, memory: Path, name: str
) -> None:
    """Before and after each entry of the ledger, at each effect, and in the middle of what Helm does."""
    case = CASES[name]

    async def at_once(*_: object, weight: int, **__: object) -> float:
        return 0.0

    monkeypatch.setattr(traffic, "followed", at_once)

    async def cut_at(moment: int | None) -> list[str]:
        happened: list[str] = []

        def cut(what: str) -> None:
            happened.append(what)
            if len(happened) - 1 == moment:
                raise Killed

        monkeypatch.setenv("VA_STATE", str(memory / str(moment)))
        async with trying(monkeypatch, case.environment) as one:
            place = one.world.place(f"{case.environment.name}/eastus")
            one.verdict = case.verdict
            if case.broken:
                one.world.fails_every = {"better": 1}
            if case.back:
                await one.run()
                await one.order(Action.ROLL_BACK)
                one.world.log.clear()
            one.world.regions = regions = Regions(one.world)
            one.cut = cut
            if moment is None:
                await one.run(back=case.back)
            else:
                with pytest.raises(Killed):
                    await one.run(back=case.back)
            one.again()
            await one.run(back=case.back)
            entries = await one.ledger.entries()
            assert await one.ledger.verify() == ()
            past = past_of(entries, PROMOTION, place.target)
            where = f"cut at {moment}: {happened[-1]}"
            assert (place.revisions[STABLE][-1].release, past.ended) == (case.stable, case.ended), where
            assert place.revisions[STABLE][-1].deployed and not place.revisions[CANARY], where
            assert place.weight() == 0, where
            assert not regions.out, where
            left = [event for event in one.world.log if event.endswith("taken out")]
            assert bool(left) == name.startswith("users leave"), where
            done = [
                (entry.action, entry.weight, entry.result)
                for entry in entries
                if entry.kind is Kind.OUTCOME and entry.action in ONCE and entry.result != "error"
            ]
            assert len(done) == len(set(done)), where
            of_better = [one for one in one.world.done if one.endswith("better")]
            assert len(of_better) == len(set(of_better)), where
            if case.back:
                assert not any("install voice better" in event for event in one.world.log), where
            if case.ended == "failed" and not case.broken:
                told = next(n for n, entry in enumerate(entries) if entry.result == "failed")
                later = [entry for entry in entries[told:] if entry.action is Action.MOVE]
                assert all(entry.weight == 0 for entry in later), where
        return happened

    happened = asyncio.run(cut_at(None))
    assert any(one.endswith("in the middle") for one in happened)
    for moment in range(len(happened)):
        asyncio.run(cut_at(moment))


def test_evidence_of_a_bake_that_was_killed_is_carried_on(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with trying(monkeypatch, environment()) as one:

            async def bake(environment: Environment, step: Any, **more: Any) -> StepResult:
                one.carried.append(more["carried"])
                seen = step_result(Verdict.INCONCLUSIVE, step.weight, log_harm=2.5).findings
                more["show"](
                    type("Observed", (), {"seconds": 1.0, "window": NoWindow(), "pods": None})(), seen
                )
                one.happened("looked")
                return step_result(Verdict.PASS, step.weight, log_harm=2.5)

            monkeypatch.setattr(loop, "bake", bake)

            def cut(what: str) -> None:
                if what == "looked":
                    raise Killed

            one.cut = cut
            with pytest.raises(Killed):
                await one.run()
            assert one.world.place("prod/eastus").weight() == 20  # nobody was there to take it away
            one.again()
            await one.run()
            first, second, third = one.carried
            assert first == {} and second["errors"].factors[0].harm == 2.5
            assert third["errors"] != NOTHING_CARRIED

    asyncio.run(scenario())


async def until(so: Callable[[], bool]) -> None:
    while not so():  # noqa: ASYNC110
        await asyncio.sleep(0.001)


class NoWindow:
    current, hole = False, "no data"

    def quantile(self, *_: object) -> None:
        return None


def test_a_bake_that_sees_nothing_says_so_once_and_when_it_sees_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not at once: a pod that has just started was not scraped yet."""
    said: list[str] = []

    async def scenario() -> None:
        async with trying(monkeypatch, environment()) as one:

            async def bake(environment: Environment, step: Any, **more: Any) -> StepResult:
                for seconds, current in (
                    (1, False),
                    (2, True),
                    (3, False),
                    (70, False),
                    (71, False),
                    (90, True),
                ):
                    window = type("Window", (NoWindow,), {"current": current})()
                    more["show"](type("Seen", (), {"seconds": seconds, "window": window, "pods": None})(), [])
                return step_result(Verdict.PASS, step.weight)

            monkeypatch.setattr(loop, "bake", bake)
            monkeypatch.setattr(SilentReporter, "note", lambda _, text: said.append(text))
            await one.run()

    asyncio.run(scenario())
    assert [one for one in said if "data" in one] == 2 * [
        "prod/eastus: no data, so nothing is judged: no data",
        "prod/eastus: there is data again, after 87 s",
    ]


def test_a_canary_that_is_installed_anew_begins_with_the_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with trying(monkeypatch, environment()) as one:

            def cut(what: str) -> None:
                if what == "bake 50":
                    raise Killed

            one.cut = cut
            with pytest.raises(Killed):
                await one.run()
            place = one.world.place("prod/eastus")
            await place.uninstall(CANARY) if not one.dead else place.revisions.update({CANARY: []})
            one.again()
            baked: list[str] = []
            one.cut = lambda what: baked.append(what) if what.startswith("bake") else None
            result = await one.run()
            assert baked == ["bake 20", "bake 50"] and result.outcome is Outcome.PROMOTED
            assert one.world.log[one.world.log.index("prod/eastus weight 50") + 1] == "prod/eastus weight 0"

    asyncio.run(scenario())


def test_a_failure_whose_gateway_does_not_follow_stays_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        wanted = environment()
        wanted = wanted.model_copy(update={"canary": wanted.canary.model_copy(update={"follow": 0.05})})
        async with trying(monkeypatch, wanted) as one:
            one.verdict = lambda *_: Verdict.FAIL
            place = one.world.place("prod/eastus")
            gateway = place.gateway
            stuck = False

            def sticks(request: Any) -> Any:
                if stuck and one.world.log[-1] == "prod/eastus weight 0":
                    answer = gateway(request)
                    answer.headers["x-va-track"] = "canary"
                    return answer
                return gateway(request)

            place.gateway = sticks  # type: ignore[method-assign]
            stuck = True
            with pytest.raises(SystemUnavailable, match="does not follow the weight 0 %"):
                await one.run()
            stuck = False
            before = len(one.world.log)
            one.again()
            result = await one.run()
            assert result.outcome is Outcome.FAILED and result.reason.startswith("at 20 %")
            assert one.world.log[before:] == ["prod/eastus uninstall voice-canary"]

    asyncio.run(scenario())


def two() -> Environment:
    return environment("prod", "eastus", "westeurope").model_copy(
        update={"waves": (("eastus", "westeurope"),)}
    )


def test_harm_in_one_region_is_seen_by_the_others_before_any_further_effect(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The other's step passes in the very moment, and the one that failed takes long to drain."""

    async def scenario() -> None:
        async with trying(monkeypatch, two()) as one:
            begun = asyncio.Event()

            async def bake(environment: Environment, step: Any, **more: Any) -> StepResult:
                if more["target"].namespace.endswith("eastus"):
                    await begun.wait()
                    return step_result(Verdict.FAIL, step.weight)
                begun.set()
                await until(lambda: bool(one.harm.elsewhere("prod/westeurope")))
                return step_result(Verdict.PASS, step.weight)

            monkeypatch.setattr(loop, "bake", bake)
            here, there = await asyncio.gather(one.run("eastus"), one.run("westeurope"))
            assert (here.outcome, there.outcome) == (Outcome.FAILED, Outcome.STOPPED)
            assert "prod/eastus failed" in there.reason and begun.is_set()
            told = [event for event in one.world.log if event.startswith("prod/westeurope")]
            assert told == [
                "prod/westeurope install voice-canary better",
                "prod/westeurope weight 20",
                "prod/westeurope weight 0",
                "prod/westeurope uninstall voice-canary",
            ]

    asyncio.run(scenario())


def test_harm_that_another_process_saw_is_in_the_ledger(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with trying(monkeypatch, two()) as one:
            failed = Draft(
                promotion=PROMOTION,
                kind=Kind.OUTCOME,
                action=Action.STEP,
                target="prod/eastus",
                result="failed",
            )

            async def bake(environment: Environment, step: Any, **more: Any) -> StepResult:
                await one.ledger.append(failed)
                await until(more["stopped"])
                return step_result(Verdict.INCONCLUSIVE, step.weight)

            monkeypatch.setattr(loop, "bake", bake)
            result = await one.run("westeurope")
            assert result.outcome is Outcome.STOPPED
            assert one.world.place("prod/westeurope").revisions[STABLE][-1].release == "good"

    asyncio.run(scenario())


def test_a_pause_takes_traffic_away_and_waits_and_resume_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with trying(monkeypatch, environment()) as one:

            async def bake(environment: Environment, step: Any, **more: Any) -> StepResult:
                one.carried.append(more["carried"])
                if len(one.carried) > 1:
                    return step_result(Verdict.PASS, step.weight)
                await one.order(Action.PAUSE)
                await until(more["stopped"])
                return step_result(Verdict.INCONCLUSIVE, step.weight)

            monkeypatch.setattr(loop, "bake", bake)
            notes: list[str] = []
            monkeypatch.setattr(SilentReporter, "note", lambda _, text: notes.append(text))
            running = asyncio.create_task(one.run())
            place = one.world.place("prod/eastus")
            await until(lambda: one.world.log[-1:] == ["prod/eastus weight 0"])
            await until(lambda: any("paused" in note for note in notes))
            await asyncio.sleep(0.1)
            assert not running.done() and place.revisions[CANARY]
            order = next(one for one in await one.ledger.entries() if one.kind is Kind.ORDER)
            assert [note for note in notes if "paused" in note] == [  # one line, however often it looks
                f"prod/eastus: paused by {order.who} since {order.time:%Y-%m-%d %H:%M:%S} UTC: because; "
                'va resume prod/eastus --reason "…" goes on'
            ]
            await one.order(Action.RESUME)
            assert (await running).outcome is Outcome.PROMOTED

    asyncio.run(scenario())


def test_an_abort_ends_it_and_stable_is_what_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with trying(monkeypatch, environment()) as one:

            async def bake(environment: Environment, step: Any, **more: Any) -> StepResult:
                await one.order(Action.ABORT)
                return step_result(Verdict.PASS, step.weight)

            monkeypatch.setattr(loop, "bake", bake)
            result = await one.run()
            assert (result.outcome, result.reason.partition(";")[0]) == (Outcome.ABORTED, "because")
            place = one.world.place("prod/eastus")
            assert place.revisions[STABLE][-1].release == "good" and not place.revisions[CANARY]

    asyncio.run(scenario())


LASTING = {
    "the canary's installation": (environment, f"install {CANARY}", Action.CANARY),
    "the gateway": (environment, "weight 20", Action.MOVE),
    "stable's upgrade": (environment, f"install {STABLE} better", Action.UPGRADE),
    "stable's upgrade, no canary": (at_once, f"install {STABLE} better", Action.UPGRADE),
    "the drain": (environment, f"uninstall {CANARY}", Action.REMOVE),
    "sessions": (at_once, "session", Action.SMOKE),
    "the chart's tests": (environment, f"test {STABLE}", Action.VERIFY),
}


@pytest.mark.parametrize("what", [Action.ABORT, Action.ROLL_BACK, Action.PAUSE, "harm"])
@pytest.mark.parametrize("where", LASTING)
def test_whatever_lasts_is_cut_off_by_an_order_or_by_harm_elsewhere_and_traffic_moves_first(
    monkeypatch: pytest.MonkeyPatch, where: str, what: Action | str
) -> None:
    wanted, event, cut = LASTING[where]

    async def scenario() -> None:
        async with trying(monkeypatch, wanted()) as one:
            place, reached = one.world.place("prod/eastus" if wanted is environment else "dev/eastus"), []
            place.tests = ("voice-test",)
            one.world.told_to_end = "pending-upgrade" if what in (Action.ROLL_BACK, "harm") else "failed"
            (stable,) = place.revisions[STABLE]
            place.revisions[STABLE] = [replace(stable, tests=place.tests)]

            async def takes(now: str) -> None:
                if event in now and not reached:
                    reached.append(now)
                    await asyncio.sleep(3600)

            async def followed(*_: object, weight: int, **__: object) -> float:
                await takes(f"weight {weight}")
                return 0.0

            one.world.takes = takes
            monkeypatch.setattr(traffic, "followed", followed)
            running = asyncio.create_task(one.run())
            await until(lambda: bool(reached))
            if what == "harm":
                one.harm.tell("prod/elsewhere", "a gate failed there")
            else:
                await one.order(Action(what))
            if what is Action.PAUSE:
                await until(lambda: "wait while it is paused" in steps[-1])
                assert not running.done() and (not wanted().canary.steps or place.weight() == 0)
                assert all(not kept[-1].in_between for kept in place.revisions.values() if kept)
                await one.order(Action.RESUME)
            result = await running

            entries = await one.ledger.entries()
            assert next(one.action for one in entries if one.result == "stopped") is cut
            if what is Action.PAUSE:
                assert result.outcome is Outcome.PROMOTED
                return
            wants = {Action.ABORT: Outcome.ABORTED, Action.ROLL_BACK: Outcome.BACK, "harm": Outcome.STOPPED}
            assert result.outcome is wants[what]
            assert place.revisions[STABLE][-1].release == "good" and place.revisions[STABLE][-1].deployed
            assert not place.revisions[CANARY] and not place.weight()
            back = [one for one in one.world.log if "rollback" in one or "weight 0" in one]
            assert back == sorted(back, key=lambda one: "rollback" in one)

    steps = [""]
    step = SilentReporter.step
    monkeypatch.setattr(SilentReporter, "step", lambda self, name: steps.append(name) or step(self, name))
    asyncio.run(scenario())


def test_who_lost_the_target_touches_nothing_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with trying(monkeypatch, environment()) as one:

            class Gone:
                fence = 7

                def check(self) -> None:
                    if "prod/eastus weight 20" in one.world.log:
                        raise LeaseLost("it is not ours any more")

                async def confirm(self) -> None:
                    self.check()

            one.lease = Gone()
            with pytest.raises(LeaseLost):
                await one.run()
            assert one.world.log[-1] == "prod/eastus weight 20"
            assert {entry.fence for entry in await one.ledger.entries()} == {7}

    asyncio.run(scenario())


ANOTHER = f"sha256:{'7' * 64}"


@pytest.mark.parametrize("container", ["api", "seed"])
def test_another_digest_than_the_release_names_is_not_verified(
    monkeypatch: pytest.MonkeyPatch, container: str
) -> None:
    at = environment()
    at = at.model_copy(update={"canary": at.canary.model_copy(update={"follow": 0.1})})

    async def scenario() -> None:
        async with trying(monkeypatch, at) as one:
            wanted = f"eastus.registry/fastapi-backend@{ANOTHER}"
            image = PodImage(container=container, wanted=wanted, running=wanted)
            one.world.place("prod/eastus").images[STABLE] = (image,)
            result = await one.run()
            assert result.outcome is Outcome.FAILED
            told = f"better does not run on prod/eastus: voice-api-1 ({container}): it is {ANOTHER}, not"
            assert result.reason.startswith(told)
            assert one.world.place("prod/eastus").revisions[STABLE][-1].release == "good"

    asyncio.run(scenario())


def test_the_charts_own_tests_are_run_once_stable_is_the_release(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with trying(monkeypatch, environment()) as one:
            one.world.place("prod/eastus").tests = ("voice-test",)
            assert (await one.run()).outcome is Outcome.PROMOTED
            assert one.world.log[-1] == "prod/eastus test voice"
            assert one.world.log.count("prod/eastus test voice") == 1

    asyncio.run(scenario())


def test_a_test_of_the_chart_that_fails_takes_stable_back_with_the_pods_last_words(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario() -> None:
        async with trying(monkeypatch, environment()) as one:
            place = one.world.place("prod/eastus")
            place.tests = ("voice-test", "voice-other")
            said = "POST /v1/sessions: 503; no session works"
            place.ran = {
                "voice-test": Ran(code=1, words=said), "voice-other": Ran(code=0, words="passed"),
            }  # fmt: skip
            result = await one.run()
            assert result.outcome is Outcome.FAILED
            reason = f"the tests of better's chart fail on prod/eastus: voice-test: {said}"
            assert result.reason.startswith(reason)
            assert place.revisions[STABLE][-1].release == "good"

    asyncio.run(scenario())


def test_a_test_that_cannot_be_run_says_nothing_of_the_release(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with trying(monkeypatch, environment()) as one:
            place = one.world.place("prod/eastus")
            place.tests = ("voice-test",)
            place.ran = {"voice-test": Ran(code=None, words="0/3 nodes are available")}
            with pytest.raises(SystemUnavailable, match=r"cannot be run on prod/eastus.*0/3 nodes") as error:
                await one.run()
            assert "test: {enabled: false}" in error.value.hint
            assert place.revisions[STABLE][-1].release == "better"
            place.ran = {}
            one.again()
            assert (await one.run()).outcome is Outcome.PROMOTED

    asyncio.run(scenario())
