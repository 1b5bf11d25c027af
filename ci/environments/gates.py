"""What decides a canary step: gates as data, each under its name; docs/gates.md has the method."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, ClassVar, Final, Literal

from pydantic import AfterValidator, ConfigDict, Discriminator, Field, model_validator

from ci.complaints import did_you_mean, mistake, shown
from ci.environments.written import Margin, Model, Seconds, Share, Threshold

__all__ = [
    "PLACEHOLDERS",
    "AnyGate",
    "ErrorGate",
    "ExposureGate",
    "Gates",
    "LatencyGate",
    "OnInconclusive",
    "RestartGate",
    "SaturationGate",
    "bare",
    "filled",
    "queries",
]

PLACEHOLDERS: Final = ("environment", "region", "namespace", "hostname", "track", "app")
"""What a query may name as ${…}: `track` is stable or canary, `app` the name of that track's Helm release."""
_BURST_LOOK = 5.0
_TAKEN = ("warm-up", "pods")
"""What findings are called that are of no gate."""
_PLACEHOLDER = re.compile(r"\$\{([^}]*)\}")


def _query(value: str) -> str:
    for name in _PLACEHOLDER.findall(value):
        if name not in PLACEHOLDERS:
            raise mistake(
                f"unknown placeholder ${{{name}}} in {shown(value)}", did_you_mean(name, PLACEHOLDERS)
            )
    if not value.strip():
        raise mistake("a query is expected, not nothing", 'PromQL, as up{namespace="${namespace}"}')
    return value


def bare(query: str) -> str:
    """A query of PromQL without what its strings say."""
    return re.sub(r'"(?:[^"\\]|\\.)*"|\'(?:[^\'\\]|\\.)*\'|`[^`]*`', '""', query)


def _counter(value: str) -> str:
    text = bare(value)
    if found := re.search(rf"\b({_SMOOTHS})\s*\(", text, re.IGNORECASE):
        raise mistake(
            f"{shown(value)} is smoothed, by {found[1]}: counters are read raw",
            "name the counter itself: growth is added up here",
        )
    if found := re.search(rf"\b({_AGGREGATES})\s*(?:\(|by\b|without\b)", text, re.IGNORECASE):
        raise mistake(
            f"{shown(value)} is aggregated, by {found[1]}: a pod that goes would be a reset",
            "name the counter itself: its series are added up here",
        )
    return value


_SMOOTHS = r"i?rate|increase|i?delta|deriv|predict_linear|resets|changes|[a-z]+_over_time"
_AGGREGATES = (
    "sum|min|max|avg|count|group|stddev|stdvar|topk|bottomk|quantile|count_values|limitk|limit_ratio"
)
Query = Annotated[str, AfterValidator(_query)]
"""PromQL whose answer is a vector, with placeholders."""
Counter = Annotated[Query, AfterValidator(_counter)]
"""One that names counters themselves, series by series."""


def filled(query: str, values: Mapping[str, str]) -> str:
    """The query for one track of one target."""
    return _PLACEHOLDER.sub(lambda found: values[found[1]], query)


class _Gate(Model):
    """What every gate has; its name is its key."""

    unit: str = "sessions"
    """What it counts: requests of one session fail together, so that they are no unit."""
    weight: Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)] = 1.0
    """Its part of alpha, against the other gates'."""
    dry_run: bool = False
    """It is asked and reported, and decides nothing."""
    tests: ClassVar[bool] = True
    """Whether it is a test, which takes a part of alpha."""


class ErrorGate(_Gate):
    """Bad ones of all, canary against stable: sessions that failed, or what two queries count.

    FAIL: ratio > 1 + margin, and a rate over `floor`. PASS of the last step: ratio < 1 + harm, or a rate
    below `tolerated` whatever stable's is.
    """

    kind: Literal["ratio"] = "ratio"
    source: Literal["sessions", "prometheus"] = "sessions"
    bad: Counter | None = None
    """Counters that only grow, summed over the answer's series. No answer is none, where `all` has one."""
    all: Counter | None = None
    margin: Margin
    harm: Margin
    tolerated: Share
    floor: Share | None = None
    """What fails nothing, however little stable's is; None: what is tolerated."""

    @model_validator(mode="after")
    def _asked(self) -> ErrorGate:
        if self.source == "prometheus" and (self.bad is None or self.all is None):
            raise ValueError("source: prometheus needs two queries, `bad` and `all`")
        if self.source != "prometheus" and (self.bad, self.all) != (None, None):
            raise ValueError("`bad` and `all` are queries: they need source: prometheus")
        return self

    @property
    def at_least(self) -> float:
        """The floor."""
        return self.tolerated if self.floor is None else self.floor


class LatencyGate(_Gate):
    """Slow sessions: longer than `threshold` seconds, or than the baseline's quantile 1 - `share` when it
    says `baseline`. FAIL: more than `share` (x 1 + margin) of the canary's are slow; or, `against` stable,
    more than 1 + margin times stable's share: for a place whose own noise makes both tracks slow."""

    kind: Literal["share"] = "share"
    source: Literal["sessions"] = "sessions"
    threshold: Threshold
    against: Literal["objective", "stable"] = "stable"
    share: Share
    margin: Margin
    harm: Margin

    @model_validator(mode="after")
    def _comparable(self) -> LatencyGate:
        if self.threshold == "baseline" and self.against == "objective":
            raise ValueError(
                "against: objective needs a time as threshold; the baseline's own is no objective"
            )
        return self


class RestartGate(_Gate):
    """Events by pod-hours, canary against stable, or against a rate known beforehand: restarts of containers,
    or what a query counts."""

    kind: Literal["events"] = "events"
    source: Literal["pods", "prometheus"] = "pods"
    query: Counter | None = None
    """Counters that only grow, summed over the answer's series."""
    unit: str = "restarts"
    margin: Margin
    per_pod_hour: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None

    @model_validator(mode="after")
    def _asked(self) -> RestartGate:
        _needs_query(self.source, self.query)
        return self


class SaturationGate(_Gate):
    """A limit that is crossed for `samples` looks in a row: the memory of the canary's pods as a share of
    theirs, or the largest value that a query answers."""

    kind: Literal["limit"] = "limit"
    source: Literal["memory", "prometheus"] = "memory"
    query: Query | None = None
    unit: str = ""
    limit: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    samples: Annotated[int, Field(ge=1)]
    tests: ClassVar[bool] = False

    @model_validator(mode="after")
    def _asked(self) -> SaturationGate:
        _needs_query(self.source, self.query)
        if self.source == "memory" and self.limit >= 1:
            raise ValueError("a share of the memory's limit is under 1")
        return self


class ExposureGate(_Gate):
    """The canary's share of the sessions against its weight. It holds the step where the odds are more than
    1 + margin times off, and FAILS a canary that answers none."""

    kind: Literal["split"] = "split"
    source: Literal["sessions"] = "sessions"
    weight: Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)] = 0.15
    """A canary that answers nothing is seen within some sessions at any level."""
    margin: Annotated[float, Field(gt=0, allow_inf_nan=False)]


def _needs_query(source: str, query: str | None) -> None:
    if source == "prometheus" and query is None:
        raise ValueError("source: prometheus needs a `query`")
    if source != "prometheus" and query is not None:
        raise ValueError("a `query` needs source: prometheus")


AnyGate = ErrorGate | LatencyGate | RestartGate | SaturationGate | ExposureGate


def queries(gate: AnyGate) -> dict[str, str]:
    """What it asks Prometheus, by the key that says it."""
    said = {key: getattr(gate, key, None) for key in ("all", "bad", "query")}
    return {key: query for key, query in said.items() if query is not None}


def _counts(gate: AnyGate) -> str:
    """What it is a test of, beside its numbers."""
    said = {"kind", "source", "bad", "all", "query", "threshold", "against", "per_pod_hour"}
    return gate.model_dump_json(include=said)


class OnInconclusive(StrEnum):
    """What happens when a step's gates could not decide before the deadline."""

    HOLD = "hold"
    """Traffic to stable, the canary stays installed: a person decides, or the same command goes on."""
    ROLLBACK = "rollback"
    """As if a gate had failed."""
    PROMOTE = "promote"
    """As if the gates had passed; said plainly in the result."""


class Gates(Model):
    """How the gates are asked; every other key is a gate, under its name."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Annotated[AnyGate, Discriminator("kind")]] = Field(init=False)

    alpha: Share
    """The chance of a false alarm in one promotion of this environment, over all metrics and regions."""
    beta: Share
    """The chance that a harmful canary passes: one that is harmful when its last step begins."""
    look: Annotated[Seconds, Field(gt=0)]
    """Time between two looks at the numbers."""
    deadline: Seconds
    """From the start of a step; then the verdict is inconclusive."""
    stale: Seconds
    """A sample older than this is no data."""
    on_inconclusive: Annotated[OnInconclusive, Field(strict=False)]
    warmup: Seconds = 0.0
    """From a pod's first session on, at most a tenth of the bake: what it counts then is reported, and is in
    no gate."""
    bursts: bool = False
    """Whether pods fail now and then all at once, and not by the release: what one of them counts as bad in a
    look is bounded. Harm at high rates is seen later then."""
    errors: ErrorGate
    latency: LatencyGate | None = None
    restarts: RestartGate | None = None
    saturation: SaturationGate | None = None
    exposure: ExposureGate | None = None

    @property
    def named(self) -> dict[str, AnyGate]:
        """Every gate that is asked, in order."""
        usual = {
            "errors": self.errors, "latency": self.latency, "restarts": self.restarts,
            "saturation": self.saturation, "exposure": self.exposure,
        }  # fmt: skip
        return {
            **{name: gate for name, gate in usual.items() if gate is not None},
            **(self.model_extra or {}),
        }

    def alphas(self) -> dict[str, float]:
        """Of each test its part of alpha, by its weight. What is dry-run takes nothing from the others."""
        tests = {name: gate for name, gate in self.named.items() if gate.tests}
        whole = sum(gate.weight for gate in tests.values() if not gate.dry_run)
        return {
            name: self.alpha * gate.weight / (whole + gate.weight * gate.dry_run)
            for name, gate in tests.items()
        }

    @model_validator(mode="after")
    def _decided(self) -> Gates:
        for name in self.model_extra or {}:
            if re.fullmatch(r"[a-z][a-z0-9-]{0,41}", name) is None:
                raise ValueError(f"{shown(name)} is no name of a gate: small letters, digits and hyphens")
            if name in _TAKEN:
                raise ValueError(f"{shown(name)} is no name of a gate: reports say it of something else")
        counted: dict[str, str] = {}
        for name, gate in self.named.items():
            if gate.tests and not gate.dry_run and (other := counted.setdefault(_counts(gate), name)) != name:
                raise ValueError(
                    f"{shown(name)} counts what {shown(other)} does, and takes a part of its alpha: "
                    "say dry_run, or change the one that there is"
                )
        if self.bursts and self.look > _BURST_LOOK:
            raise ValueError(f"bursts: true needs a look every {_BURST_LOOK:g} s, or more often")
        if self.errors.dry_run or self.errors.source != "sessions":
            raise ValueError("`errors` is what proves a canary safe: it goes by sessions, and not dry-run")
        return self
