"""What a look at the cluster means: whether the canary may keep its traffic. Nothing here asks or waits."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

__all__ = ["FENCE", "Look", "Names", "Seen", "canaries", "judged", "on_stable", "seen", "weight"]

FENCE = "va.dev/fence"
SEEN = 4.0
"""Seconds that the guard itself has to have seen a Lease unrenewed: an API server that was away for longer
than a Lease lasts comes back with an old one, and its promoter renews it in a moment."""
UNREADY = 3.0
"""Seconds without any pod that is ready; a restart of one of several is nothing."""
Json = dict[str, Any]


@dataclass(frozen=True)
class Names:
    """What things are called."""

    route: str = "voice"
    lease: str = "va-promotion"
    record: str = "va-guard"
    stable: str = "voice"
    canary: str = "voice-canary"

    def of_canary(self, service: str) -> bool:
        """Whether that is a Service of the canary."""
        return service.startswith(f"{self.canary}-")

    def beside(self, service: str) -> str:
        """The Service of stable beside one of the canary."""
        return self.stable + service.removeprefix(self.canary)


@dataclass(frozen=True)
class Look:
    """One look. `at` is this machine's steady clock, `now` the cluster's time; both in seconds."""

    at: float
    now: float
    weight: int
    lease: Json | None
    ready: Mapping[str, int]
    """Endpoints that are ready, by each Service of the canary that has a share."""


@dataclass(frozen=True)
class Seen:
    """What is remembered from look to look."""

    renewal: str = ""
    """Of the Lease, when last looked: who has it and when it was renewed."""
    renewal_since: float = 0.0
    unready_since: float | None = None


def weight(route: Json | None, names: Names) -> int:
    """Percent of the requests that the canary gets; the most that any rule gives it."""
    most = 0
    for rule in _rules(route):
        weights = [(one["name"], one.get("weight", 1)) for one in rule.get("backendRefs") or []]
        if whole := sum(share for _, share in weights):
            part = sum(share for name, share in weights if names.of_canary(name))
            # A share that rounds to nothing is one all the same.
            most = max(most, -(-100 * part // whole))
    return most


def canaries(route: Json | None, names: Names) -> list[str]:
    """The canary's Services that get a share."""
    found = {
        one["name"]
        for rule in _rules(route)
        for one in rule.get("backendRefs") or []
        if names.of_canary(one["name"]) and one.get("weight", 1)
    }
    return sorted(found)


def on_stable(route: Json, names: Names, fence: int | None) -> Json:
    """The route with everything to stable and the canary nowhere in it, under the fence of now."""
    changed = copy.deepcopy(route)
    for rule in _rules(changed):
        backends = rule.get("backendRefs") or []
        own = [one for one in backends if names.of_canary(one["name"])]
        if not own:
            continue
        others = [one for one in backends if one not in own]
        wanted = {names.beside(one["name"]): one for one in own}
        for name, model in wanted.items():
            there = next((one for one in others if one["name"] == name), None)
            if there is None:
                others.append({**model, "name": name, "weight": 100})
            else:
                there["weight"] = 100
        rule["backendRefs"] = others
    if fence is not None:
        meta = changed["metadata"]
        meta["annotations"] = {**(meta.get("annotations") or {}), FENCE: str(fence)}
    return changed


def seen(look: Look, before: Seen) -> Seen:
    """What there is to remember after this look."""
    now = _renewal(look.lease)
    after = replace(before, renewal=now)
    # Where the canary had no traffic, nobody had to watch it.
    if now != before.renewal:
        after = replace(after, renewal_since=look.at)
    if all(look.ready.values()):
        return replace(after, unready_since=None)
    return after if after.unready_since is not None else replace(after, unready_since=look.at)


def judged(look: Look, after: Seen) -> str:
    """Why the canary may not keep its traffic; empty when it may."""
    if not look.weight:
        return ""
    if after.unready_since is not None and look.at - after.unready_since >= UNREADY:
        without = ", ".join(name for name, count in sorted(look.ready.items()) if not count)
        return f"no pod of {without} is ready"
    spec = (look.lease or {}).get("spec") or {}
    lasts = float(spec.get("leaseDurationSeconds") or 12)
    watched = look.at - after.renewal_since
    if not spec.get("holderIdentity") or not spec.get("renewTime"):
        return "nobody is promoting" if watched >= lasts else ""
    late = look.now - _seconds(spec["renewTime"])
    if late >= lasts and watched >= SEEN:
        return f"{spec['holderIdentity']} has not renewed its lease for {late:.0f} s"
    return ""


def _rules(route: Json | None) -> list[Json]:
    return ((route or {}).get("spec") or {}).get("rules") or []


def _renewal(lease: Json | None) -> str:
    spec = (lease or {}).get("spec") or {}
    return f"{spec.get('holderIdentity') or ''} {spec.get('renewTime') or ''}"


def _seconds(time: str) -> float:
    return datetime.fromisoformat(time).timestamp()
