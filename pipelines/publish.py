"""The second half of a ship: push what was made, attest it, sign it, and prove in each region that it is
there.

It takes the folder that `pipelines.make` left, from a job that ran other people's code, and runs nothing of
it. What is pushed are exactly the bytes that were scanned, by their digests; the chart is packaged from the
checkout and has to be the one that was scanned; the scan policy is applied again, as it is here and today.
From the home registry replication brings all of it to the other regions; `pipelines.registries` proves that
it has.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType

from ci import dates, places
from ci.actions import run_of, this_job
from ci.build.source import read_commit
from ci.concurrency import together
from ci.delivery.chart import PackagedChart
from ci.errors import BadInput, Place
from ci.files import write_whole
from ci.layout import Column, Page, Table, page, words
from ci.registry import Bundle, Registry, push
from ci.release import Chart, Commit, Image, Release, read_release
from ci.reporting import Reporter
from ci.scan import judge, read_policy, summary
from ci.supply.attestations import (
    RELEASES,
    Kind,
    provenance,
    release_bundle,
    sbom,
    scan_report,
    tests,
)
from ci.supply.handover import MANIFEST, Taken, TakenImage, take
from ci.supply.signing import Signer
from pipelines.chart import package_own_chart
from pipelines.images import IMAGES
from pipelines.make import maker
from pipelines.registries import (
    AvailableIn,
    EstateRegistries,
    availability_line,
    available_in,
    show_regions,
)
from pipelines.scan import CHART, refuse_blocked
from pipelines.sign import Signed, sign_release

__all__ = [
    "PUBLISH_TOOLS",
    "Published",
    "PublishedRelease",
    "attested",
    "find_or_new",
    "found_in_home",
    "keep",
    "named",
    "publish",
    "push_all",
    "same_source",
    "show_published",
    "show_published_release",
]

PUBLISH_TOOLS = ("git", "cosign")
"""The programs that this half calls."""
_RELEASED = [image.name for image in IMAGES]
"""What a release consists of: no other name may be pushed to, and none may be left out."""


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


@dataclass(frozen=True, kw_only=True)
class PublishedRelease:
    """A release that was pushed and signed."""

    release: Release
    file: Path
    published: tuple[Published, ...]
    signed: tuple[Signed, ...]
    available: AvailableIn
    """The regions that it can be promoted in; the others follow when replication has reached them."""


async def publish(
    folder: Path,
    *,
    registries: EstateRegistries,
    signer: Signer,
    reporter: Reporter,
    digest: str | None = None,
    images: Sequence[str] = _RELEASED,
) -> PublishedRelease:
    """Make a release of what `va make` left in `folder`, and write its file.

    `digest` is what the digest of the folder's manifest has to be: of use where it came another way than the
    folder. It is pushed to the home registry, and there is a release when it is whole there; then each
    region's own endpoint is asked for it, and one that lags or is down is left behind. BadInput: the folder
    is not whole, was altered, or was made of something else than this checkout; PolicyBlocked: the scan
    policy refuses it; SystemUnavailable: the home registry. In each case there is no release; the same
    command goes on.
    """
    root = places.checkout()
    policy = read_policy(root / "policy.yaml")
    with reporter.step(f"read {folder}") as step:
        taken = await asyncio.to_thread(take, folder, images=images, digest=digest)
        step.say(f"{len(taken.images)} images, {taken.digest[:19]}")
    chart = await package_own_chart(root)
    commit = same_source(folder, taken, await read_commit(root), chart)
    today = dates.today()
    assert taken.chart is not None
    found = {image.said.name: image.findings for image in taken.images} | {CHART: taken.chart}
    refuse_blocked({name: judge(one, policy, name=name, today=today) for name, one in found.items()})

    attached = {image.said.name: attested(image, taken, commit) for image in taken.images}
    release = find_or_new(
        named(
            Release(
                name="unnamed",
                created=datetime.now(UTC),
                commit=commit,
                engine=taken.said.engine,
                images=tuple(_as_image(image, attached[image.said.name]) for image in taken.images),
                chart=Chart(name=chart.name, version=chart.version, digest=chart.digest),
            )
        )
    )
    await registries.home.ping()
    pushed = await push_all(
        registries.home,
        {image.said.name: image.bundle for image in taken.images},
        chart,
        tag=release.name,
        reporter=reporter,
        attached={name: list(bundles.values()) for name, bundles in attached.items()},
        release=release_bundle(release),
    )
    signed = await sign_release(registries.home, release, signer=signer, reporter=reporter)
    file = keep(release)
    bundles = [
        chart.bundle,
        *(image.bundle for image in taken.images),
        *(bundle for each in attached.values() for bundle in each.values()),
    ]
    available = await available_in(
        registries, release, reporter=reporter, bundles=bundles, found=found_in_home(pushed)
    )
    return PublishedRelease(release=release, file=file, published=pushed, signed=signed, available=available)


async def push_all(
    home: Registry,
    images: Mapping[str, Bundle],
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

    work = [one(name, image, *attached.get(name, ())) for name, image in images.items()]
    done = await together([*work, one(chart.name, chart.bundle)])
    return (*done, await one(RELEASES, release)) if release else tuple(done)


def attested(image: TakenImage, taken: Taken, commit: Commit) -> dict[Kind, Bundle]:
    """What is said of an image that was taken, ready to be attached to it: by whom, provenance says."""
    job, said, about = this_job(), taken.said, {"name": image.said.name, "digest": image.said.digest}
    documents = [
        sbom(image.sbom),
        scan_report(image.document),
        provenance(
            **about,
            commit=commit,
            engine=said.engine,
            options={"fault": said.fault},
            builder=maker().by,
            repository=job.repository if job else None,
            runner=job.runner if job else "",
            made=said.maker.model_dump(exclude_none=True),
            handover=taken.digest,
        ),
        tests(**about, summary=image.said.tests),
    ]
    return {one.kind: one.bundle(image.bundle.root.descriptor) for one in documents}


def named(release: Release) -> Release:
    """The same release under the name that its content gives it: `<commit time>-<short sha>-<short digest>`.

    Neither its name nor the time of its making are part of the content: what is made twice is one release.
    """
    content = release.model_dump_json(exclude={"name", "created"})
    digest = hashlib.sha256(content.encode()).hexdigest()
    time = release.commit.time.astimezone(UTC)
    name = f"{time:%Y%m%d-%H%M%S}-{release.commit.sha[:7]}-{digest[:8]}"
    return release.model_copy(update={"name": name})


def find_or_new(release: Release) -> Release:
    """That release as it was first made here, or this one: what is made twice was created once."""
    file = _file(release)
    return read_release(file) if file.is_file() else release


def keep(release: Release) -> Path:
    """Have the release's file; the newest file is the release that was shipped last."""
    file = _file(release)
    if file.is_file():
        file.touch()
    else:
        write_whole(file, release.model_dump_json(indent=2) + "\n")
    return file


def found_in_home(published: Iterable[Published]) -> frozenset[str]:
    """`repository@digest` of all that a push has just found in the home registry."""
    return frozenset().union(*(one.found for one in published))


def show_published(published: Sequence[Published]) -> Page:
    """What is where, for people."""
    table = Table(
        "reference",
        Column(name="blobs sent", rank=1, right=True),
        Column(name="bytes sent", rank=2, right=True),
        title="published",
    )
    for one in published:
        table.add(one.reference, str(one.sent), f"{one.bytes_sent:,}")
    return page(table)


def show_published_release(done: PublishedRelease) -> Page:
    """What is where, and the release's name, for people."""
    release = done.release
    dirty = " with uncommitted changes" if release.commit.dirty else ""
    return page(
        show_published(done.published),
        "",
        show_regions(done.available.regions),
        "",
        words("release ", (release.name, "bold"), f" of {release.commit.sha[:12]}{dirty}"),
        availability_line(done.available),
        (_signed_line(done.signed), "dim"),
        (f"engine {release.engine}, kept in {done.file}", "dim"),
    )


def same_source(folder: Path, taken: Taken, here: Commit, chart: PackagedChart | None = None) -> Commit:
    """The commit of what was taken; BadInput when that was made of another one, or by another run."""

    def wrong(key: str, what: str, hint: str) -> BadInput:
        place = Place(file=folder / MANIFEST, key=key)
        return BadInput(what, place=place, hint=f"nothing was pushed; {hint}")

    said, job = taken.said, this_job()
    if said.commit.sha != here.sha:
        what = f"it was made of commit {said.commit.sha[:40]}; this checkout is at {here.sha}"
        raise wrong("commit", what, "make it anew")
    if chart is not None and said.chart is not None and said.chart.digest != chart.digest:
        raise wrong(
            "chart", f"its chart is {said.chart.digest}; this checkout's is {chart.digest}", "make it anew"
        )
    if job is not None and (not said.maker.run or run_of(said.maker.run) != run_of(job.run)):
        raise wrong(
            "maker",
            f"it was made by {said.maker.run or said.maker.by}; this is {job.run}",
            "a job publishes what its own run made",
        )
    return here.model_copy(update={"dirty": here.dirty or said.commit.dirty})


def _as_image(taken: TakenImage, attached: Mapping[Kind, Bundle]) -> Image:
    return Image(
        name=taken.said.name,
        digest=taken.said.digest,
        size=taken.bundle.size,
        tests=taken.said.tests,
        scan=summary(taken.findings),
        attestations={kind.value: bundle.digest for kind, bundle in attached.items()},
    )


def _signed_line(signed: Sequence[Signed]) -> str:
    new = sum(not one.cached for one in signed)
    by = ", ".join(dict.fromkeys(one.by for one in signed))
    return f"{len(signed)} signatures by {by}, {new} of them new"


def _file(release: Release) -> Path:
    return places.state() / "releases" / f"{release.name}.json"


def _said(published: Published) -> str:
    mounted = f", {published.mounted} mounted" if published.mounted else ""
    return f"{published.sent} blobs sent ({published.bytes_sent / 2**20:.1f} MiB){mounted}"
