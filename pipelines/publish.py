"""Push images and chart to the home registry: exactly the bytes that were scanned, proven there by digest.

From there replication brings them to the other regions; `pipelines.registries` proves that it has.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from rich.table import Table

from ci.concurrency import together
from ci.delivery.chart import PackagedChart
from ci.registry import Bundle, Registry, open_archive, push
from ci.reporting import Reporter
from ci.supply.attestations import RELEASES
from pipelines.build import BuiltImage

__all__ = ["Published", "found_in_home", "publish", "show_published"]


@dataclass(frozen=True, kw_only=True)
class Published:
    """One artifact in the home registry: `reference` names it by digest."""

    name: str
    reference: str
    digest: str
    tag: str
    sent: int
    mounted: int
    bytes_sent: int
    found: frozenset[str] = field(default=frozenset(), repr=False)
    """`repository@digest` of all that the home was found to have after it, by digest."""


async def publish(
    home: Registry,
    images: Sequence[BuiltImage],
    chart: PackagedChart,
    *,
    tag: str,
    reporter: Reporter,
    attached: Mapping[str, Sequence[Bundle]] = MappingProxyType({}),
    release: Bundle | None = None,
) -> tuple[Published, ...]:
    """Push all of it to the home registry, everything at the same time, only what is missing there.

    `attached` are the attestations of each image; `release` goes last, so that a registry that has it has all
    that it names. The tag is for people: nothing deploys by it. SystemUnavailable when the registry is down,
    full, or lacks something after the push.
    """

    async def one(name: str, *bundles: Bundle) -> Published:
        """`bundles`: the artifact itself, then what is attached to it."""
        with reporter.step(f"publish {name} to {home.endpoint}") as step:
            pushed = [await push(home, name, bundles[0], tags=[tag])]
            pushed += await together(push(home, name, bundle) for bundle in bundles[1:])
            total = Published(
                name=name,
                reference=f"{home.endpoint}/{name}@{bundles[0].digest}",
                digest=bundles[0].digest,
                tag=tag,
                sent=sum(each.sent for each in pushed),
                mounted=sum(each.mounted for each in pushed),
                bytes_sent=sum(each.bytes_sent for each in pushed),
                found=frozenset().union(*(each.found for each in pushed)),
            )
            if total.sent or total.mounted:
                step.say(_said(total))
            else:
                step.cached("all of it was there")
            return total

    work = [one(image.name, open_archive(image.archive), *attached.get(image.name, ())) for image in images]
    done = await together([*work, one(chart.name, chart.bundle)])
    return (*done, await one(RELEASES, release)) if release else tuple(done)


def found_in_home(published: Iterable[Published]) -> frozenset[str]:
    """`repository@digest` of all that a push has just found in the home registry."""
    return frozenset().union(*(one.found for one in published))


def show_published(published: Sequence[Published]) -> Table:
    """What is where, for people."""
    table = Table("reference", "blobs sent", "bytes sent", title="published", title_justify="left")
    for one in published:
        table.add_row(one.reference, str(one.sent), f"{one.bytes_sent:,}")
    return table


def _said(published: Published) -> str:
    mounted = f", {published.mounted} mounted" if published.mounted else ""
    return f"{published.sent} blobs sent ({published.bytes_sent / 2**20:.1f} MiB){mounted}"
