"""An estate on a small cluster, and `va` for it as a process: what proves a release stands in."""

from __future__ import annotations

import importlib
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ci import places
from ci.release import Release

if TYPE_CHECKING:
    from ci.environments import Environment

__all__ = ["stand_in", "va", "whole", "write_environment", "write_release"]

_ROOT = places.checkout()
_ENVIRONMENT = """\
extends: ../base.yaml
{after}waves: [[{regions}]]
wave_bake: 0s
watch: 0s
targets:
{targets}
registries: {{home: {registry}}}
trust: {{signers: [{{key: {key}}}], builders: ["{builder}"]}}
canary:
  steps:
    - {{weight: 30, bake: 1s}}
    - {{weight: 60, bake: 1s}}
  follow: 20s
  drain: {drain}
  install: {install}
gates:
  look: 300ms
  deadline: {deadline}
  stale: 3s
  errors: {{margin: 0, harm: 3, tolerated: 0.2}}
  latency: {{threshold: 1s, against: objective, share: 0.3, margin: 1, harm: 3}}
load: {{rate: 40, concurrency: 12, timeout: 30s}}
values:
  api: {{replicas: 2}}
  agent: {{replicas: 1}}
"""
_TARGET = """\
  {region}:
    kubeconfig: {kubeconfig}
    context: va-eastus
    namespace: {namespace}
    registry: {registry}
    metrics: {gateway}
    gateway: {gateway}
    hostname: {namespace}.voice.localhost
"""
_CHILD = """\
import sys
from pathlib import Path
from small_estate import stand_in
from ci.commands.cli import main
stand_in(Path(sys.argv.pop(1)), sys.argv[1])
main()
"""
_PROVEN_BY = ("before", "permission", "promote")
_FLOWS = {"promote": _PROVEN_BY, "plan": (*_PROVEN_BY, "plan"), "status": ("status",)}


def stand_in(root: Path, command: str) -> None:
    """In this process that command reads the estates in `root`, and what proves a release stands in.

    Only what the command imports by itself is imported for it.
    """
    from ci import environments

    def read(estate: str, through: str | None = None) -> tuple[Environment, ...]:
        return environments.read_environments(estate, through, root)

    def read_one(estate: str, name: str) -> Environment:
        return environments.read_environment(estate, name, root)

    told: dict[str, dict[str, object]] = {
        "before": {},
        "permission": {"read_environment": read_one},
        "promote": {"read_environment": read_one, "read_environments": read},
        "plan": {"read_environment": read_one},
        "status": {"read_environments": read},
    }
    if "before" in _FLOWS[command]:
        told["before"] = _proofs()
    for flow in _FLOWS[command]:
        module = importlib.import_module(f"pipelines.{flow}")
        for name, stands in told[flow].items():
            assert hasattr(module, name), f"{flow} has no {name} any more"
            setattr(module, name, stands)


def _proofs() -> dict[str, object]:
    from promotion_world import AnyRegistry

    from pipelines.verify import Verification

    async def pulled(*_: object) -> Path:
        return _ROOT / "helm" / "voice-assistant"

    async def proven(wanted: Release, _: object) -> Verification:
        return Verification(release=wanted.name, digest=wanted.chart.digest, places=())

    return {
        "registry_at": AnyRegistry, "survey": AnyRegistry.known, "prove": AnyRegistry.has,
        "pull_chart": pulled, "verify": proven,
    }  # fmt: skip


def whole(name: str) -> Release:
    """With all images that the chart wants."""
    from promotion_world import release

    made = release(name)
    (image,) = made.images
    names = ("fastapi-backend", "livekit-agent", "canary-guard")
    return made.model_copy(update={"images": tuple(image.model_copy(update={"name": one}) for one in names)})


def write_release(state: Path, name: str) -> None:
    """As if it had been shipped from that machine."""
    (state / "releases").mkdir(parents=True, exist_ok=True)
    (state / "releases" / f"{name}.json").write_text(whole(name).model_dump_json())


def write_environment(
    root: Path,
    name: str,
    kubeconfig: Path,
    gateway: str,
    regions: Mapping[str, str],
    *,
    install: str = "60s",
    drain: str = "1s",
    deadline: str = "60s",
    estate: str = "test",
    registry: str = "registry.example",
    after: str | None = None,
    builder: str = "*",
) -> None:
    """An environment of that estate: each region a namespace, and a kubeconfig of its own."""
    (root / estate).mkdir(parents=True, exist_ok=True)
    if not (root / "base.yaml").exists():
        shutil.copy(_ROOT / "environments" / "base.yaml", root)
    key = root / estate / "signer.pub"
    key.write_text("a key that nobody asks")
    targets = ""
    for region, namespace in regions.items():
        own = root / f"{name}-{region}.kubeconfig"
        shutil.copy(kubeconfig, own)
        targets += _TARGET.format(
            region=region, kubeconfig=own, namespace=namespace, gateway=gateway, registry=registry
        )
    text = _ENVIRONMENT.format(
        regions=", ".join(regions), targets=targets, key=key, install=install, drain=drain,
        deadline=deadline, registry=registry, after=f"after: {after}\n" if after else "", builder=builder,
    )  # fmt: skip
    (root / estate / f"{name}.yaml").write_text(text)


def va(root: Path, state: Path, *words: str) -> tuple[list[str], dict[str, str]]:
    """The command line and the variables of `va` on a machine with that state, for the estate in `root`."""
    return (
        [sys.executable, "-c", _CHILD, str(root), *words, "--estate", "test"],
        {**os.environ, "PYTHONPATH": f"{_ROOT}:{_ROOT / 'tests'}", "VA_STATE": str(state)},
    )
