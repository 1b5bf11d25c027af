"""What a promotion came to: each step's verdict and numbers, each target's outcome, the table that says so.

The same values are printed as a table, as `--json` and (by entry) in the ledger.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from datetime import datetime
from enum import StrEnum

from pydantic import BaseModel, ConfigDict

from ci.delivery.findings import Exposure, Finding, Verdict
from ci.delivery.origins import Origin
from ci.errors import (
    GateFailed,
    GateInconclusive,
    Interrupted,
    PipelineError,
    StepFailed,
    SystemUnavailable,
)
from ci.layout import Column, Line, Page, Table, page, words

__all__ = [
    "Outcome",
    "PromotionResult",
    "Requests",
    "StepResult",
    "TargetResult",
    "TargetStatus",
    "headline",
    "images_table",
    "status_matrix",
    "status_table",
    "summary",
]


class Outcome(StrEnum):
    """How a target's promotion ended."""

    PROMOTED = "promoted"
    INSTALLED = "installed"
    """The first release here: there was no stable one to compare with, so no gate was asked."""
    CACHED = "there already"
    FAILED = "failed, rolled back"
    """A gate failed: traffic is on stable, the canary is gone."""
    BACK = "rolled back"
    """As `va rollback` was asked to."""
    HELD = "held"
    """The gates could not decide: traffic is on stable, the canary waits for the next run."""
    STOPPED = "stopped"
    """Another region failed: rolled back without a verdict of its own."""
    ABORTED = "aborted"
    """Somebody ordered it: traffic is on stable, the canary is gone, stable is what it was."""
    HARMED = "promoted, does harm"
    """Harm showed after it was promoted, and the environment wants a person to decide: it stays."""
    BROKEN = "installed, does not work"
    """The first release here, or the one that ran here already: there is nothing to go back to."""
    NOT_THERE = "left out"
    """The region's registry has not got all of the release, or its cluster does not answer: nothing was
    touched there, the others went on."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")


class Requests(_Record):
    """Synthetic requests over a time: sent, answered well, failed by the application, lost on the way."""

    sent: int
    ok: int
    failed: int
    lost: int
    lost_how: tuple[str, ...] = ()
    """The first few losses, in words."""


class StepResult(_Record):
    """One canary step."""

    weight: int
    verdict: Verdict
    reason: str
    """What decided, or why nothing could."""
    seconds: float
    findings: tuple[Finding, ...]
    exposure: Exposure
    p95_canary: float | None
    p95_stable: float | None
    """Seconds."""
    overruled: bool = False
    """Inconclusive, and promoted all the same because the environment says so."""


class TargetResult(_Record):
    """What happened on one target. `previous` is the release that was stable before, if one was."""

    target: str
    release: str
    previous: str | None
    outcome: Outcome
    reason: str
    steps: tuple[StepResult, ...] = ()
    requests: Requests | None = None
    """All synthetic requests of this promotion; None without synthetic load."""
    moving: Requests | None = None
    """Those sent while traffic went back to stable and the canary was removed."""
    seconds: float = 0.0


class PromotionResult(_Record):
    """The whole promotion."""

    release: str
    estate: str
    targets: tuple[TargetResult, ...]
    seconds: float
    promotion: str = ""
    """Its id in the ledgers; empty when it did not get that far."""
    stopped: str = ""
    """Who ordered it to go no further, and why: aborted, or taken back. A roll-back itself is none."""

    @property
    def error(self) -> PipelineError | None:
        """The error that this result ends `va promote` with; None when every target has the release."""
        failed = [target for target in self.targets if target.outcome is Outcome.FAILED]
        held = [target for target in self.targets if target.outcome is Outcome.HELD]
        lacking = [target for target in self.targets if target.outcome is Outcome.NOT_THERE]
        broken = [target for target in self.targets if target.outcome is Outcome.BROKEN]
        ended = [target for target in self.targets if target.outcome in (Outcome.ABORTED, Outcome.STOPPED)]
        harmed = [target for target in self.targets if target.outcome is Outcome.HARMED]
        if harmed:
            reasons = "; ".join(f"{target.target}: {target.reason}" for target in harmed)
            return GateFailed(
                f"{self.release} does harm: {reasons}",
                hint="it stays, and goes no further: va rollback takes it back; after va retry the same "
                "command watches it again, after va skip-bake it goes on all the same",
            )
        if broken:
            reasons = "; ".join(f"{target.target}: {target.reason}" for target in broken)
            return StepFailed(reasons, hint="it stays installed; mend it, or promote another release over it")
        if failed:
            reasons = "; ".join(f"{target.target}: {target.reason}" for target in failed)
            return GateFailed(f"{self.release} was rolled back: {reasons}", hint=_after_failure(self.targets))
        if ended:
            reasons = "; ".join(f"{target.target}: {target.reason}" for target in ended)
            return Interrupted(
                f"{self.release} is not promoted: {reasons}", hint=_after_failure(self.targets)
            )
        if self.stopped:
            return Interrupted(
                f"{self.release} goes no further: {self.stopped}", hint=_after_failure(self.targets)
            )
        if held:
            reasons = "; ".join(f"{target.target}: {target.reason}" for target in held)
            return GateInconclusive(
                f"no verdict on {self.release}: {reasons}",
                hint="stable has all the traffic; the same command goes on with what was measured, "
                "va rollback removes the canary",
            )
        if lacking:
            reasons = "; ".join(f"{target.target}: {target.reason}" for target in lacking)
            return SystemUnavailable(
                f"{self.release} was not promoted everywhere: {reasons}",
                hint="va registry status and va status say what is missing; then the same command goes on, "
                "or --only ENVIRONMENT goes past what is down",
            )
        return None


class TargetStatus(_Record):
    """What runs on one target now."""

    target: str
    release: str | None
    """The stable release; None when nothing is installed."""
    state: str
    """Helm's word for it."""
    revision: int | None
    digests: dict[str, str]
    """Image name to digest."""
    pods: str
    """`ready/all`."""
    canary: str | None
    """The release of the canary, while there is one."""
    weight: int
    """Percent of the requests that go to the canary."""
    endpoint: str = ""
    """The registry that this target is to pull from."""
    origins: tuple[Origin, ...] = ()
    """Where the image of each of its containers came from."""
    since: datetime | None = None
    """When that release was installed."""
    drift: tuple[str, ...] = ()
    """What differs from what Helm installed."""
    holder: str = ""
    """Who works on it, since when and for what; or who did and was not heard of since."""
    guard: str = ""
    """What the guard of a canary had to do."""
    problem: str = ""
    """Why nothing is known of it: the cluster does not answer, or may not be read."""

    @property
    def environment(self) -> str:
        """`prod` of `prod/eastus`."""
        return self.target.partition("/")[0]

    @property
    def region(self) -> str:
        """`eastus` of `prod/eastus`."""
        return self.target.partition("/")[2]


def _after_failure(targets: Iterable[TargetResult]) -> str:
    kept = [t.target for t in targets if t.outcome in (Outcome.PROMOTED, Outcome.INSTALLED)]
    if not kept:
        return "stable has all the traffic; nothing else changed"
    return f"it is stable on {', '.join(kept)} since this run: va rollback takes it back there"


def headline(finding: Finding) -> str:
    """One gate in few words: `errors fail, E 213 (fails at 180): 12 of 240 (5.00%) of …`."""
    if finding.dry_run:
        return f"dry run, decides nothing: {headline(finding.model_copy(update={'dry_run': False}))}"
    if finding.log_harm is None or finding.log_fail_at is None:
        return f"{finding.metric} {finding.verdict}: {finding.reason}"
    if finding.verdict is Verdict.FAIL:
        shown = f"E {number(finding.log_harm)} (fails at {number(finding.log_fail_at)})"
    elif finding.log_safe is not None and finding.log_pass_at is not None:
        shown = f"E of safety {number(finding.log_safe)} (passes at {number(finding.log_pass_at)})"
    else:
        shown = f"E {number(finding.log_harm)} (fails at {number(finding.log_fail_at)})"
    if finding.verdict is not Verdict.FAIL and finding.log_harm >= finding.log_fail_at:
        shown += ", worse than stable, and as few as is tolerated anyhow"
    return f"{finding.metric} {finding.verdict}, {shown}: {finding.reason}"


def number(logarithm: float) -> str:
    """e to the `logarithm`, in few digits however large."""
    if logarithm > math.log(99_999):
        return f"1e{logarithm / math.log(10):.0f}"
    value = math.exp(logarithm)
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"


def milliseconds(seconds: float | None) -> str:
    """A duration for a table; a dash when there is none."""
    return "-" if seconds is None else f"{1000 * seconds:.0f} ms"


_LOOK = {
    Outcome.PROMOTED: "green",
    Outcome.INSTALLED: "green",
    Outcome.CACHED: "blue",
    Outcome.FAILED: "red",
    Outcome.BACK: "green",
    Outcome.HELD: "yellow",
    Outcome.STOPPED: "yellow",
    Outcome.ABORTED: "yellow",
    Outcome.BROKEN: "red",
    Outcome.HARMED: "red",
    Outcome.NOT_THERE: "yellow",
}


def summary(result: PromotionResult) -> Page:
    """The table that ends a promotion: one row a canary step, and what became of each target."""
    table = Table(
        "target",
        Column(name="weight", right=True),
        "verdict",
        Column(name="sessions", rank=5, right=True),
        Column(name="errors", rank=3, right=True),
        Column(name="E", rank=1, right=True),
        Column(name="fails at", rank=2, right=True),
        Column(name="safe E", rank=6, right=True),
        Column(name="passes at", rank=7, right=True),
        Column(name="p95", rank=8, right=True),
        Column(name="time", rank=4, right=True),
    )
    for target in result.targets:
        for step in target.steps:
            table.add(target.target, f"{step.weight} %", *_step_cells(step), f"{step.seconds:.0f} s")
        outcome = (target.outcome.value, _LOOK[target.outcome])
        table.add(target.target, "", outcome, *[""] * 7, f"{target.seconds:.0f} s")
    said: list[Line] = []
    for target in result.targets:
        said.append(words((f"{target.target}: {target.reason}", "dim")))
        if target.requests:
            sent = target.requests
            lost = f", {sent.lost} lost" if sent.lost else ", none lost"
            moving = ""
            if target.moving:
                moving = (
                    f"; while traffic moved back: {target.moving.sent} requests, {target.moving.lost} lost"
                )
            said.append(words((f"  {sent.sent} requests, {sent.failed} failed{lost}{moving}", "dim")))
            said += [words((f"    lost: {how}", "yellow")) for how in sent.lost_how]
    return page(
        table, "", *said, f"{result.release}: {len(result.targets)} targets in {result.seconds:.0f} s"
    )


def _step_cells(step: StepResult) -> list[str | tuple[str, str]]:
    style = {Verdict.PASS: "green", Verdict.FAIL: "red", Verdict.INCONCLUSIVE: "yellow"}[step.verdict]
    errors = next((finding for finding in step.findings if finding.metric == "errors"), None)
    overruled = " (overruled)" if step.overruled else ""
    cells: list[str | tuple[str, str]] = [(f"{step.verdict}{overruled}", style)]
    if errors is None or errors.tally is None:
        return [*cells, *["-"] * 6, milliseconds(step.p95_canary)]
    tally = errors.tally
    return [
        *cells,
        f"{tally.canary}/{tally.stable}",
        f"{tally.canary_bad}/{tally.stable_bad}",
        *(
            "-" if value is None else number(value)
            for value in (errors.log_harm, errors.log_fail_at, errors.log_safe, errors.log_pass_at)
        ),
        milliseconds(step.p95_canary),
    ]


def status_table(rows: Iterable[TargetStatus]) -> Page:
    """What runs where."""
    table = Table(
        "target",
        "release",
        Column(name="state", rank=4, below=True),
        Column(name="pods", rank=2, right=True),
        Column(name="canary", rank=1, below=True),
        Column(name="weight", rank=3, below=True, right=True),
        Column(name="digests", rank=6, below=True),
        Column(name="pulled from", rank=5, below=True),
    )
    for row in rows:
        table.add(
            row.target,
            row.release or "nothing installed",
            f"{row.state} (rev. {row.revision})" if row.revision else row.state,
            row.pods,
            row.canary or "-",
            f"{row.weight} %" if row.canary else "-",
            "\n".join(f"{name} {digest[7:19]}" for name, digest in row.digests.items()),
            _pulled_from(row),
        )
    return page(table)


def status_matrix(rows: Iterable[TargetStatus]) -> Page:
    """Environments down, regions across: what runs, since when, how well; below it whatever is not so."""
    rows = tuple(rows)
    environments = list(dict.fromkeys(row.environment for row in rows))
    regions = list(dict.fromkeys(row.region for row in sorted(rows, key=lambda row: row.region)))
    by_place = {(row.environment, row.region): row for row in rows}
    table = Table("environment", *regions)
    for environment in environments:
        cells = (by_place.get((environment, region)) for region in regions)
        table.add(environment, *(_cell(row) if row else "-" for row in cells))
    return page(table, *(line for row in rows for line in _remarks(row)))


def _cell(row: TargetStatus) -> Line:
    if row.problem:
        return words(("does not answer", "red"))
    if row.release is None:
        return words(row.state)
    ready, _, pods = row.pods.partition("/")
    lines = [row.release, f"since {row.since:%Y-%m-%d %H:%M}" if row.since else row.state]
    told: list[tuple[str, str]] = [(f"{row.pods} ready", "green" if ready == pods != "0" else "red")]
    if row.drift:
        told.append((f", {len(row.drift)} changed", "yellow"))
    if row.canary:
        told.append((f", canary at {row.weight} %", "cyan"))
    if row.holder:
        told.append((", held", "cyan"))
    return words("\n".join(lines), "\n", *told)


def _remarks(row: TargetStatus) -> Iterator[Line]:
    if row.problem:
        yield words((f"{row.target}: {row.problem}", "red"))
    if row.release is not None and row.state != "deployed":
        yield words((f"{row.target}: Helm says {row.state} (rev. {row.revision})", "yellow"))
    if row.canary:
        yield words(f"{row.target}: the canary {row.canary} has {row.weight} % of the requests")
    if row.holder:
        yield words(f"{row.target}: {row.holder}")
    if row.guard:
        yield words((f"{row.target}: {row.guard}", "yellow"))
    for one in row.drift:
        yield words((f"{row.target}: {one}", "yellow"))


def _pulled_from(row: TargetStatus) -> str | tuple[str, str]:
    wrong = [one for one in row.origins if one.problem]
    if not row.origins:
        return "-"
    if wrong:
        return (f"{len(wrong)} of {len(row.origins)} NOT from {row.endpoint} by digest", "red")
    return (f"{row.endpoint} by digest", "green")


def images_table(rows: Iterable[TargetStatus]) -> Page:
    """Where the image of each running container came from, target by target."""
    table = Table(
        "target",
        Column(name="pod", rank=3, below=True),
        "container",
        Column(name="came from", rank=1, below=True, prose=True),
        Column(name="on its node", rank=4),
        Column(name="image", rank=2, below=True),
    )
    for row in rows:
        for one in row.origins:
            verdict = (one.problem, "red") if one.problem else ("its own region", "green")
            listed = "yes" if one.on_node else "not listed"
            table.add(row.target, one.pod, one.container, verdict, listed, _short(one.image))
    return page(table)


def _short(image: str) -> str:
    """A reference with twelve digits of its digest."""
    name, at, digest = image.partition("@sha256:")
    return f"{name}{at}{digest[:12]}"
