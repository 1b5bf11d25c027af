"""A checkout, two images and a registry, to ship in.

Images, trivy, helm and registry are small fakes, the rest is real.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import dagger
import pytest
from fake_registry import FakeRegistry
from oci import layer, write_image
from signing_key import Key

from ci import places, tools
from ci.registry import Registry
from ci.reporting import SilentReporter
from pipelines import make as making
from pipelines import publish as publishing
from pipelines import ship as shipping
from pipelines import sign as signing
from pipelines.make import Made
from pipelines.publish import PublishedRelease
from pipelines.registries import EstateRegistries
from pipelines.ship import Shipped

__all__ = ["POLICY", "FakeImage", "World", "client_of", "nothing", "run", "ship_world", "write_tools"]

T = TypeVar("T")
Hook = Callable[[], Awaitable[None]]

POLICY = """
vulnerabilities: {block: [CRITICAL], fixed_only: true}
misconfigurations: {block: [CRITICAL]}
licences: {block: [forbidden]}
"""


async def nothing() -> None:
    """A hook that does nothing."""


@dataclass
class FakeImage:
    """Stands for an image's description, its containers and the engine that runs them."""

    name: str
    layers: tuple[bytes, ...]
    cases: str = '<testcase classname="tests.test_a" name="test_ok"/>'
    ran: datetime = field(default_factory=lambda: datetime.now(UTC) + timedelta(seconds=1))
    on_export: Hook = nothing
    on_test: Hook = nothing
    faults: list[float | None] = field(default_factory=list)
    inputs: tuple[str, ...] = ("policy.yaml",)
    _exporting: str = ""

    async def build(self, client: object, *, reporter: object, fault: float | None = None) -> FakeImage:
        self.faults.append(fault)
        return self

    async def test(self, client: object, *, reporter: object) -> FakeImage:
        return self

    def directory(self, path: str) -> FakeReports:
        assert path == "/reports"
        return FakeReports(self)

    async def export(self, path: str, **how: Any) -> str:
        assert how == {
            "forced_compression": dagger.ImageLayerCompression.Gzip,
            "media_types": dagger.ImageMediaTypes.OCIMediaTypes,
        }
        Path(path).write_bytes(b"half of an image")
        await self.on_export()
        write_image(Path(path), *self.layers, env=f"FAULT={self.faults[-1]}")
        return path


@dataclass
class FakeReports:
    image: FakeImage

    async def export(self, path: str) -> str:
        await self.image.on_test()
        junit = f'<testsuite timestamp="{self.image.ran.isoformat()}">{self.image.cases}</testsuite>'
        (Path(path) / "junit.xml").write_text(junit)
        (Path(path) / "coverage.xml").write_text('<coverage line-rate="0.9"/>')
        return path


NONE: Mapping[str, FakeRegistry] = MappingProxyType({})


def client_of(server: FakeRegistry, port: int) -> Registry:
    async def no_wait(_: float) -> None:
        pass

    return Registry(f"127.0.0.1:{port}", transport=server, sleep=no_wait)


@dataclass
class World:
    """A checkout, two images and a registry."""

    root: Path
    api: FakeImage
    agent: FakeImage
    key: Key
    server: FakeRegistry = field(default_factory=FakeRegistry)

    def registry(self) -> Registry:
        return client_of(self.server, 5999)

    async def ship(self, replicas: Mapping[str, FakeRegistry] = NONE, **more: Any) -> Shipped:
        async with AsyncExitStack() as stack:
            home = await stack.enter_async_context(self.registry())
            others = {
                region: await stack.enter_async_context(client_of(server, 5001 + number))
                for number, (region, server) in enumerate(replicas.items())
            }
            return await shipping.ship(
                None,  # type: ignore[arg-type]
                engine="fake",
                registries=EstateRegistries(home=home, regions={"eastus": home, **others}, deadline=0.3),
                signer=self.key.signer,
                reporter=SilentReporter(),
                reports=self.root / "reports",
                images=(self.api, self.agent),  # type: ignore[arg-type]
                **more,
            )

    async def make(self, to: Path, **more: Any) -> Made:
        """The first half. Nothing of the registry is in its reach."""
        return await making.make(
            None,  # type: ignore[arg-type]
            engine="fake",
            to=to,
            reporter=SilentReporter(),
            images=(self.api, self.agent),  # type: ignore[arg-type]
            **more,
        )

    async def publish(self, folder: Path, digest: str | None = None) -> PublishedRelease:
        """The second half. Neither an engine nor an image's description is in its reach."""
        async with self.registry() as home:
            return await publishing.publish(
                folder,
                registries=EstateRegistries(home=home, regions={"eastus": home}, deadline=0.3),
                signer=self.key.signer,
                reporter=SilentReporter(),
                digest=digest,
                images=[self.api.name, self.agent.name],
            )

    @property
    def releases(self) -> list[Path]:
        return sorted((places.state() / "releases").glob("*.json"))


def ship_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """It signs with a key of its own, in this process; the checkout has one commit."""
    root = tmp_path / "checkout"
    (root / "helm/voice-assistant").mkdir(parents=True)
    (root / "helm/voice-assistant/Chart.yaml").write_text(
        "apiVersion: v2\nname: voice-assistant\nversion: 0.1.0\n"
    )
    (root / "policy.yaml").write_text(POLICY)
    (root / ".gitignore").write_text("reports/\n")
    for role in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{role}_NAME", "test")
        monkeypatch.setenv(f"GIT_{role}_EMAIL", "test@example.com")
        monkeypatch.setenv(f"GIT_{role}_DATE", "1700000000 +0000")
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run(["git", "-C", root, *words], check=True)
    monkeypatch.setenv("VA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("VA_STATE", str(tmp_path / "state"))
    monkeypatch.setattr(places, "checkout", lambda: root)
    monkeypatch.setattr(tools, "path", lambda name: tmp_path / "bin" / name)
    write_tools(tmp_path / "bin")
    shared = layer(base="x")
    key = Key(tmp_path / "cosign.pub")

    async def sign(signer: object, digest: str, **_: object) -> bytes:
        return key.bundle(digest)

    monkeypatch.setattr(signing, "sign", sign)
    return World(
        root=root,
        key=key,
        api=FakeImage("fastapi-backend", (shared, layer(a="1"))),
        agent=FakeImage("livekit-agent", (shared, layer(b="2"))),
    )


def write_tools(folder: Path, **report: Any) -> None:
    folder.mkdir(exist_ok=True)
    report.setdefault("Packages", [{"Name": "openssl", "Version": "3.0"}])
    (folder / "report.json").write_text(
        json.dumps({"SchemaVersion": 2, "ArtifactName": "x", "Results": [report]})
    )
    (folder / "sbom.json").write_text('{"metadata": {"component": {"bom-ref": "a"}}}')
    run = {"tool": {"driver": {"rules": []}}, "results": []}
    (folder / "findings.sarif").write_text(json.dumps({"version": "2.1.0", "runs": [run]}))
    (folder / "helm").write_text("#!/bin/sh\necho kind: Pod\n")
    (folder / "trivy").write_text(
        f"""#!/bin/sh
[ "$1" = --version ] && {{ echo '{{"Version":"1.0.0"}}'; exit; }}
while [ $# -gt 0 ]; do case $1 in --output) out=$2;; --format) format=$2;; esac; shift; done
case $format in
    json) cp {folder}/report.json "$out";;
    cyclonedx) cp {folder}/sbom.json "$out";;
    sarif) cp {folder}/findings.sarif "$out";;
esac
"""
    )
    for name in ("helm", "trivy"):
        (folder / name).chmod(0o755)


def run(work: Awaitable[T]) -> T:
    async def main() -> T:
        return await work

    return asyncio.run(main())
