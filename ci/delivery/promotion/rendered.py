"""What a manifest is, and what another one would change: objects, replicas, images. Pure.

The fence is of the run that installed a release (ci.delivery.fence), and no part of what it is. Secrets are
compared, and not shown (ci.delivery.masked).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict

from ci.delivery.fence import ANNOTATION
from ci.delivery.masked import masked
from ci.delivery.promotion.facts import scaled, things
from ci.registry import digest_of

__all__ = ["Became", "ObjectChange", "differences", "digest", "images", "object_changes", "replicas"]

_Dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
_CONTEXT = 2
_SCALED = ("Deployment", "StatefulSet")


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Became(StrEnum):
    """What becomes of an object."""

    ADDED = "added"
    REMOVED = "removed"
    CHANGED = "changed"


class ObjectChange(_Model):
    """An object that another manifest changes."""

    thing: str
    """`Deployment voice-api`."""
    became: Became
    diff: str
    """Unified, of YAML with its keys in order; secrets masked."""


def object_changes(before: str, after: str) -> tuple[ObjectChange, ...]:
    """What differs between two manifests, in the order of the second one; what goes comes last."""
    return tuple(_changed(_objects(before), _objects(after)))


def replicas(manifest: str) -> dict[str, str]:
    """How many pods each workload gets: `3`, or `2 to 10` where an autoscaler decides."""
    objects = _objects(manifest)
    bounds = dict(filter(None, map(scaled, objects.values())))
    found = {}
    for one in objects.values():
        kind, name = one["kind"], one["metadata"]["name"]
        if kind in _SCALED:
            between = bounds.get((kind, name))
            asked = str((one.get("spec") or {}).get("replicas", 1))
            found[name] = f"{between[0]} to {between[1]}" if between else asked
    return found


def images(values: Mapping[str, Any]) -> dict[str, str]:
    """The digest of each image that the chart's values name."""
    named = values.get("images")
    return {
        name: str(one.get("digest", ""))
        for name, one in (named.items() if isinstance(named, Mapping) else ())
        if isinstance(one, Mapping)
    }


def digest(manifest: str) -> str:
    """The same for manifests that install the same."""
    text = "\n".join(line for _, one in sorted(_objects(manifest).items()) for line in _yaml(one))
    return digest_of(text.encode())


def differences(before: Mapping[str, str], after: Mapping[str, str]) -> tuple[str, ...]:
    """`name: old -> new`, of what differs; `nothing` for what is on one side alone."""
    return tuple(
        f"{key}: {before.get(key) or 'nothing'} -> {after.get(key) or 'nothing'}"
        for key in sorted({*before, *after})
        if before.get(key) != after.get(key)
    )


def _objects(manifest: str) -> dict[str, dict[str, Any]]:
    """By `Deployment voice-api`; with the namespace where it is said."""
    found = {}
    for one in things(manifest):
        meta = dict(one["metadata"])
        place = f"{meta['namespace']}/" if meta.get("namespace") else ""
        if ANNOTATION in (meta.get("annotations") or {}):
            rest = {key: value for key, value in meta["annotations"].items() if key != ANNOTATION}
            meta = {key: value for key, value in meta.items() if key != "annotations"}
            meta |= {"annotations": rest} if rest else {}
        found[f"{one['kind']} {place}{meta['name']}"] = {**one, "metadata": meta}
    return found


def _changed(
    before: Mapping[str, dict[str, Any]], after: Mapping[str, dict[str, Any]]
) -> Iterator[ObjectChange]:
    for thing, new in after.items():
        old = before.get(thing)
        if old is None:
            yield ObjectChange(thing=thing, became=Became.ADDED, diff=_diff([], _yaml(masked(new))))
        elif old != new:
            diff = _diff(_yaml(masked(old)), _yaml(masked(new, was=old)))
            yield ObjectChange(thing=thing, became=Became.CHANGED, diff=diff)
    for thing, old in before.items():
        if thing not in after:
            yield ObjectChange(thing=thing, became=Became.REMOVED, diff=_diff(_yaml(masked(old)), []))


def _yaml(thing: Mapping[str, Any]) -> list[str]:
    text: str = yaml.dump(thing, Dumper=_Dumper, sort_keys=True, width=10_000, allow_unicode=True)
    return text.splitlines()


def _diff(before: list[str], after: list[str]) -> str:
    _, _, *found = [*difflib.unified_diff(before, after, lineterm="", n=_CONTEXT)] or ["", ""]
    return "\n".join(found)
