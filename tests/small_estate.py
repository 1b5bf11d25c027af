"""An estate on a small cluster, and `va` for it as a process: what proves a release stands in."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

import yaml
from promotion_world import release

from ci import places
from ci.release import Release

__all__ = ["va", "whole", "write_environment", "write_release"]

_ROOT = places.checkout()
_ENVIRONMENT = """\
extends: ../base.yaml
waves: [[{regions}]]
wave_bake: 0s
watch: 0s
targets:
{targets}
registries: {{home: registry.example}}
trust: {{signers: [{{key: {key}}}], builders: ["*"]}}
canary:
  steps:
    - {{weight: 30, bake: 1s}}
    - {{weight: 60, bake: 1s}}
  follow: 20s
  drain: {drain}
  install: {install}
gates:
  look: 300ms
  deadline: 60s
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
    registry: registry.example
    metrics: {gateway}
    gateway: {gateway}
    hostname: {namespace}.voice.localhost
"""
_CHILD = """\
import sys
from pathlib import Path
from promotion_world import AnyRegistry
from ci import environments
from ci.commands.cli import main
from pipelines import before, permission, plan, promote, status
from pipelines.verify import Verification
root, chart = Path(sys.argv.pop(1)), Path(sys.argv.pop(1))
async def pulled(*_):
    return chart
async def proven(wanted, environments):
    return Verification(release=wanted.name, digest=wanted.chart.digest, places=())
def read(estate, through=None):
    return environments.read_environments(estate, through, root)
for flow in (before, permission, plan, promote, status):
    told = {"read_environments": read, "registry_at": AnyRegistry, "survey": AnyRegistry.known,
            "prove": AnyRegistry.has, "pull_chart": pulled, "verify": proven,
            "read_environment": lambda estate, name: environments.read_environment(estate, name, root)}
    for name, stands in told.items():
        if hasattr(flow, name):
            setattr(flow, name, stands)
main()
"""


def whole(name: str) -> Release:
    """With all images that the chart wants."""
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
) -> None:
    """An environment of the estate `test`: each region a namespace, and a kubeconfig of its own."""
    (root / "test").mkdir(parents=True, exist_ok=True)
    shutil.copy(_ROOT / "environments" / "base.yaml", root)
    key = root / "signer.pub"
    key.write_text("a key that nobody asks")
    known = yaml.safe_load(kubeconfig.read_text())
    targets = ""
    for region, namespace in regions.items():
        own = root / f"{name}-{region}.kubeconfig"
        own.write_text(yaml.safe_dump(known))
        targets += _TARGET.format(region=region, kubeconfig=own, namespace=namespace, gateway=gateway)
    text = _ENVIRONMENT.format(
        regions=", ".join(regions), targets=targets, key=key, install=install, drain=drain
    )
    (root / "test" / f"{name}.yaml").write_text(text)


def va(root: Path, state: Path, *words: str) -> tuple[list[str], dict[str, str]]:
    """The command line and the variables of `va` on a machine with that state, for the estate in `root`."""
    chart = _ROOT / "helm" / "voice-assistant"
    return (
        [sys.executable, "-c", _CHILD, str(root), str(chart), *words, "--estate", "test"],
        {**os.environ, "PYTHONPATH": f"{_ROOT}:{_ROOT / 'tests'}", "VA_STATE": str(state)},
    )
