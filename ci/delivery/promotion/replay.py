"""A promotion that was, by the gates of now: its looks again, with other numbers where one asks "what if".

What each look saw is kept on the machine that promoted (measurements). Gates that go by evidence are asked
again, look after look, until they decide. Memory and the cluster's pods are not kept: they are not asked.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from pydantic import BaseModel, ConfigDict

from ci.delivery import gates
from ci.delivery.asking import Gathered, Told, begin, compared
from ci.delivery.findings import Carried, Factor, Finding, Verdict
from ci.delivery.promotion.measurements import Look
from ci.environments import Environment

__all__ = ["Replayed", "replayed"]


class Replayed(BaseModel):
    """One bake, as it was and as it would have been."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    weight: int
    was: Verdict
    """What its last look said."""
    was_seconds: float
    verdict: Verdict
    """By the gates of now; INCONCLUSIVE: not before the looks end."""
    seconds: float
    findings: tuple[Finding, ...]


def replayed(environment: Environment, looks: Sequence[Look]) -> tuple[Replayed, ...]:
    """Bake by bake, until one fails: what came later would not have been."""
    return tuple(_bakes(environment, looks))


def _bakes(environment: Environment, looks: Sequence[Look]) -> Iterator[Replayed]:
    carried: Mapping[str, Carried] = {}
    for _, each in itertools.groupby(looks, key=lambda look: look.step):
        found = _bake(environment, tuple(each), carried)
        if found is None:
            continue  # of a step that is planned no more
        yield found
        if found.verdict is Verdict.FAIL:
            return
        carried = {**carried, **{finding.metric: finding.carried for finding in found.findings}}


def _bake(environment: Environment, looks: Sequence[Look], carried: Mapping[str, Carried]) -> Replayed | None:
    step = next((one for one in environment.canary.steps if one.weight == looks[0].weight), None)
    if step is None:
        return None
    gathered, before, clean = begin(environment.gates, step, ()), looks[0], 0.0
    for look in looks:
        gathered = _gathered(gathered, look, before)
        data = {finding.metric for finding in look.findings if finding.reason != "no data"}
        data |= {"exposure"} if "errors" in data else set()  # it goes by the same sessions
        clean = clean if "errors" in data else look.seconds
        told = Told(baked=look.seconds - clean >= step.bake, blind=frozenset(environment.gates.named) - data)
        counted = {finding.metric for finding in look.findings if _counted(finding)}
        asked = (counted & set(gathered.evidence)) | {"exposure"}
        findings = tuple(
            finding
            for finding in compared(environment, step, gathered, told, carried)
            if finding.metric in asked
        )
        before = look
        verdict = gates.decide(findings)
        if verdict is not Verdict.INCONCLUSIVE:
            break
    return Replayed(
        weight=step.weight,
        was=gates.decide(looks[-1].findings),
        was_seconds=looks[-1].seconds,
        verdict=verdict,
        seconds=look.seconds,
        findings=findings,
    )


def _counted(finding: Finding) -> bool:
    """Whether what it counted was kept: pod-hours were not always."""
    return finding.metric != "restarts" or finding.evidence is not None


def _gathered(gathered: Gathered, look: Look, before: Look) -> Gathered:
    """The evidence one look later."""
    evidence = dict(gathered.evidence)
    for finding in look.findings:
        seen, tally = evidence.get(finding.metric), finding.tally
        if seen is not None and tally is not None:
            evidence[finding.metric] = seen.until(
                tally.canary_bad, tally.canary, tally.stable_bad, tally.stable
            )
        elif seen is not None and finding.evidence is not None:  # by pod-hours
            now, then = _factor(finding), _of(before, finding.metric)
            came = (
                now.tally.canary_bad - then.tally.canary_bad,
                now.pod_hours[0] - then.pod_hours[0],
                now.tally.stable_bad - then.tally.stable_bad,
                now.pod_hours[1] - then.pod_hours[1],
            )
            evidence[finding.metric] = seen if min(came) < 0 else seen.look(*came)
    return replace(gathered, evidence=evidence)


def _of(look: Look, metric: str) -> Factor:
    """What was known of it then."""
    kept = [finding for finding in look.findings if finding.metric == metric]
    return _factor(kept[0]) if kept and kept[0].evidence is not None else Factor(weight=0)


def _factor(finding: Finding) -> Factor:
    """Of the step that bakes."""
    return finding.carried.factors[-1]
