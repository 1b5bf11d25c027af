"""A home registry in memory with two releases in it, the events of their pushes, and an empty replica."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from fake_registry import FakeRegistry
from oci import layer, write_image

from ci.registry import Bundle, Registry, artifact, digest_of, open_archive, push
from ci.release import Chart, Commit, Image, Release, ScanSummary, TestSummary
from ci.supply.attestations import release_bundle, sbom, scan_report
from ci.supply.replication import Event

__all__ = ["Regions", "a_release", "two_releases"]

_TIME = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass
class Regions:
    """A home registry with two releases of one image, and an empty replica."""

    releases: tuple[Release, Release]
    events: tuple[Event, ...]
    home: FakeRegistry
    away: FakeRegistry = field(default_factory=FakeRegistry)

    def clients(self) -> tuple[Registry, Registry]:
        async def no_wait(_: float) -> None:
            pass

        return (
            Registry("127.0.0.1:5001", transport=self.home, sleep=no_wait),
            Registry("127.0.0.1:5002", transport=self.away, sleep=no_wait),
        )

    def fresh(self) -> Regions:
        return Regions(releases=self.releases, events=self.events, home=self.home)

    @property
    def repositories(self) -> set[str]:
        return {event.repository for event in self.events}

    def dangling(self) -> list[str]:
        """What the replica names and lacks: blobs of its manifests, and what its lists of referrers name."""
        lost = []
        for (repository, _), (_, raw) in self.away.manifests.items():
            fields = json.loads(raw)
            blobs = [*([fields["config"]] if "config" in fields else []), *fields.get("layers", [])]
            lost += [one["digest"] for one in blobs if (repository, one["digest"]) not in self.away.blobs]
            below = fields.get("manifests", [])
            lost += [one["digest"] for one in below if (repository, one["digest"]) not in self.away.manifests]
        return lost

    def same(self) -> bool:
        """Whether the replica has all manifests and blobs of home; each keeps its own lists of referrers."""

        def own(registry: FakeRegistry) -> dict[tuple[str, str], bytes]:
            lists = {at for at in registry.manifests if at[1].startswith("sha256-")}
            listed = {(name, digest_of(registry.manifests[name, tag][1])) for name, tag in lists}
            old = {at for at, (kind, raw) in registry.manifests.items() if b'"manifests":[' in raw}
            return {at: raw for at, (_, raw) in registry.manifests.items() if at not in lists | listed | old}

        return own(self.home) == own(self.away) and self.home.blobs == self.away.blobs


def two_releases(folder: Path) -> Regions:
    """A home registry to which two releases of one image were pushed, one after the other."""
    home = FakeRegistry()
    events: list[Event] = []

    async def ship(registry: Registry, name: str, text: str) -> Release:
        write_image(folder / f"{name}.tar", layer(base="x"), layer(a=text), env=text)
        image = open_archive(folder / f"{name}.tar")
        attached = [
            one.bundle(image.root.descriptor) for one in (sbom(text.encode()), scan_report(text.encode()))
        ]
        chart = artifact(artifact_type="x/chart", layers=(("x/y", text.encode(), {}),))
        await push(registry, "api", image, tags=[name, "newest"])
        for bundle in attached:
            await push(registry, "api", bundle)
        await push(registry, "chart", chart, tags=[name])
        release = a_release(name, image, chart, {str(n): one for n, one in enumerate(attached)})
        await push(registry, "releases", release_bundle(release), tags=[name])
        events.extend(
            Event(repository=at, reference=reference)
            for at, reference in [
                *(("api", one) for one in (image.digest, name, "newest", *(b.digest for b in attached))),
                ("chart", name),
                ("releases", name),
            ]
        )
        return release

    async def main() -> tuple[Release, Release]:
        async with Registry("127.0.0.1:5001", transport=home) as registry:
            return await ship(registry, "r1", "one"), await ship(registry, "r2", "two")

    releases = asyncio.run(main())
    return Regions(releases=releases, events=tuple(events), home=home)


def a_release(name: str, image: Bundle, chart: Bundle, attached: Mapping[str, Bundle]) -> Release:
    scan = ScanSummary(vulnerabilities=None, misconfigurations={}, secrets=0, licences={}, packages=1)
    return Release(
        name=name,
        created=_TIME,
        commit=Commit(sha="a" * 40, dirty=False, time=_TIME),
        engine="embedded",
        images=(
            Image(
                name="api",
                digest=image.digest,
                size=image.size,
                tests=TestSummary(passed=1, failed=0, skipped=0),
                scan=scan,
                attestations={kind: bundle.digest for kind, bundle in attached.items()},
            ),
        ),
        chart=Chart(name="chart", version="1.0.0", digest=chart.digest),
    )
