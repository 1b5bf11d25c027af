"""A release in the registries of two regions, and who signs it: for tests of signing and of verifying."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from fake_registry import FakeRegistry
from oci import layer, write_image
from own_sigstore import Workflow
from promotion_world import environment
from signing_key import Key

from ci import places
from ci.environments import Environment, Trust
from ci.registry import Registry, artifact, open_archive, push
from ci.release import Chart, Commit, Image, Release, ScanSummary, TestSummary
from ci.reporting import SilentReporter
from ci.supply import attestations
from ci.supply.attestations import provenance, release_bundle, sbom, scan_report
from ci.supply.replication import reconcile
from pipelines import sign as signing
from pipelines import verify as verifying
from pipelines.sign import Signed, sign_release
from pipelines.verify import Verification, verify

__all__ = ["COMMIT", "ENDPOINTS", "World", "signed", "signed_world", "verified"]

_POLICY = "vulnerabilities: {block: [HIGH]}\nmisconfigurations: {block: []}\nlicences: {block: []}\n"
COMMIT = Commit(sha="c" * 40, dirty=False, time=datetime(2026, 1, 1, tzinfo=UTC))
_TESTS = TestSummary(passed=3, failed=0, skipped=0)
ENDPOINTS = ("127.0.0.1:5501", "127.0.0.1:5502")


@dataclass
class World:
    """Two regions' registries with a release in them, and who signs it."""

    key: Key | Workflow
    folder: Path
    servers: dict[str, FakeRegistry] = field(default_factory=lambda: {at: FakeRegistry() for at in ENDPOINTS})
    calls: list[str] = field(default_factory=list)
    """The digests that were signed."""
    builder: str = "urn:ci"

    def registry(self, endpoint: str) -> Registry:
        async def no_wait(_: float) -> None:
            pass

        return Registry(endpoint, transport=self.servers[endpoint], sleep=no_wait)

    @property
    def prod(self) -> Environment:
        made = environment("prod", "eastus", "westeurope")
        targets = {
            region: target.model_copy(update={"registry": at})
            for (region, target), at in zip(made.targets.items(), ENDPOINTS, strict=True)
        }
        trust = Trust(signers=(self.key.trusted,), builders=("urn:ci", "https://github.com/o/*"))
        return made.model_copy(update={"targets": targets, "trust": trust})

    async def publish(self, *findings: str) -> Release:
        digest = write_image(self.folder / "image.tar", layer(a="1"))
        image = open_archive(self.folder / "image.tar")
        found = {
            "of": "image", "subject": digest, "scanner": "x", "database": None,
            "findings": [{"kind": "secret", "id": one, "severity": "LOW", "target": "t"} for one in findings],
            "packages": [{"name": "p", "version": "1", "type": "debian"}],
        }  # fmt: skip
        facts: dict[str, Any] = {"name": "api", "digest": digest}
        said = [
            sbom(b'{"bomFormat": "CycloneDX"}'),
            scan_report(json.dumps(found).encode()),
            provenance(**facts, commit=COMMIT, engine="e", options={}, builder=self.builder),
            attestations.tests(**facts, summary=_TESTS),
        ]
        bundles = {one.kind: one.bundle(image.root.descriptor) for one in said}
        chart = artifact(layers=(("application/x", b"chart", {}),))
        scan = ScanSummary(vulnerabilities=None, misconfigurations={}, secrets=0, licences={}, packages=1)
        release = Release(
            name="r1",
            created=COMMIT.time,
            commit=COMMIT,
            engine="e",
            images=(
                Image(
                    name="api",
                    digest=digest,
                    size=image.size,
                    tests=_TESTS,
                    scan=scan,
                    attestations={kind.value: bundle.digest for kind, bundle in bundles.items()},
                ),
            ),
            chart=Chart(name="voice", version="1.0.0", digest=chart.digest),
        )
        for endpoint in ENDPOINTS:
            async with self.registry(endpoint) as registry:
                for bundle in (image, *bundles.values()):
                    await push(registry, "api", bundle)
                await push(registry, "voice", chart)
                await push(registry, "releases", release_bundle(release), tags=[release.name])
        return release

    async def sign(self, release: Release) -> tuple[Signed, ...]:
        """At home, and have it replicated."""
        home, far = (self.registry(endpoint) for endpoint in ENDPOINTS)
        async with home, far:
            signed = await sign_release(home, release, signer=self.key.signer, reporter=SilentReporter())
            await reconcile(home, far)
        return signed


def signed_world(folder: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """It signs with a key of its own, in this process."""
    made = World(Key(folder / "cosign.pub"), folder)

    async def sign(signer: object, digest: str, **_: object) -> bytes:
        made.calls.append(digest)
        return made.key.bundle(digest)

    (folder / "policy.yaml").write_text(_POLICY)
    monkeypatch.setattr(places, "checkout", lambda: folder)
    monkeypatch.setattr(signing, "sign", sign)
    monkeypatch.setattr(signing.tools, "path", lambda name: folder / name)
    monkeypatch.setattr(verifying, "registry_at", made.registry)
    return made


def signed(world: World, *findings: str) -> Release:
    async def main() -> Release:
        release = await world.publish(*findings)
        await world.sign(release)
        return release

    return asyncio.run(main())


def verified(world: World, release: Release, *environments: Environment) -> Verification:
    return asyncio.run(verify(release, environments or [world.prod]))
