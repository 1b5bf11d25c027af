"""`python -m benches [NAME...]`: run these benches (all of them when none is named) and print their figures.

    help      `va --help` answers at once
    ship      a warm `ship` against plain buildah build and push; its memory
    line      one changed source line of one image
    publish   a push to three regions against `skopeo copy --all` to each; the rounds that proving it takes
    parallel  two images at once, cold, against the slower one alone
    steps     the embedded engine's own: a program of one image against buildah, steps at once, lines, layers
    estate    checking and rendering the Azure architecture, ours and one of fifty regions
    list      10,000 tags and 2,000 referrers of a registry, a hundred a page
    scan      an image whose digest was scanned before, as a step of `va ship`
    names     DNS answers of what sends users to regions, by time of a core
    promotion what a promotion costs beside what it waits for; status, plan; 200 targets in one process
    gates     simulated promotions: false alarms, errors until one fails, verdicts; the speed of a look

Exit code 1 when a claim does not hold, else as `va` has them. Figures of a busy machine mean little: nothing
else should run.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import typer

from benches import gates
from benches.answering import answering
from benches.measure import (
    Figure,
    built,
    promoted,
    published,
    registry,
    replicated,
    ship,
    stepped,
    timed,
    timed_at_once,
    unpacked,
)
from benches.peer import peer, small_peer
from ci import dates, places, tools
from ci.commands.answers import failing
from ci.engine import session
from ci.errors import BadInput, RootNeeded, StepFailed
from ci.layout import Column, Table, show
from ci.reporting import SilentReporter, console_reporter
from ci.scan import read_policy
from pipelines.build import BUILD_TOOLS, build
from pipelines.database import databases
from pipelines.scan import scan_built
from pipelines.ship import SHIP_TOOLS
from pipelines.tools import taken_from_shelf
from tests.tiny_image import write_tiny_image

_MOUNTED = ("tools", "base")
"""What a cold run keeps: programs and root file systems are no part of a build."""
_COLD_RUNS = 3
_COLD_PAIRS = 5
_WARM_RUNS = 5


def clone(folder: Path) -> Path:
    """A checkout that nobody else works in."""
    root = folder / "checkout"
    timed("git", "clone", "--quiet", places.checkout(), root)
    return root


def help_() -> list[Figure]:
    """The first thing a person types."""
    va = Path(sys.executable).with_name("va")
    seconds = min(timed(va, "--help") for _ in range(5))
    return [Figure(claim="va --help", value=seconds, limit=0.3, unit="s", detail="the best of 5")]


def ship_() -> list[Figure]:
    """Everything is there already: how much does it cost to find that out?"""
    with tempfile.TemporaryDirectory(prefix="va-bench-") as folder, registry() as address:
        root, state = clone(Path(folder)), Path(folder) / "state"
        first = ship(address, state, checkout=root)
        warm = min((ship(address, state, checkout=root) for _ in range(3)), key=lambda run: run.seconds)
        with peer(Path(folder)) as buildah:
            cold = buildah.build_and_push(address)
            theirs = min(buildah.build_and_push(address) for _ in range(3))
    return [
        Figure(
            claim="warm ship / warm buildah build --layers and push",
            value=warm.seconds / theirs,
            limit=1.5,
            unit="x",
            detail=f"{warm.seconds:.2f} s / {theirs:.2f} s; the first: {first.seconds:.1f} s, {cold:.1f} s",
        ),
        Figure(claim="bytes that a warm ship sends", value=warm.bytes_sent, limit=0, unit="bytes"),
        Figure(
            claim="tests and builds that a warm ship runs again",
            value=sum(not cached for cached in [*warm.tested.values(), *warm.built.values()]),
            limit=0,
            unit="",
        ),
        Figure(
            claim="peak memory of ship itself",
            value=max(first.peak_mib, warm.peak_mib),
            limit=200,
            unit="MiB",
        ),
    ]


def line() -> list[Figure]:
    """One changed line of the api: it is built and tested again, the agent is not."""
    with tempfile.TemporaryDirectory(prefix="va-bench-") as folder, registry() as address:
        root, state = clone(Path(folder)), Path(folder) / "state"
        ship(address, state, checkout=root)
        source = max((root / "images/api/src").rglob("*.py"), key=os.path.getsize)
        source.write_text(source.read_text() + f"\n# {time.time_ns()}, so that nobody has seen it\n")
        changed = ship(address, state, checkout=root)
    again = {name for name, same in changed.built.items() if not same}
    again |= {name for name, cached in changed.tested.items() if not cached}
    return [
        Figure(
            claim="images wrongly built and tested again, or wrongly not, after one line of the api changed",
            value=len(again ^ {"fastapi-backend"}),
            limit=0,
            unit="",
            detail=f"{', '.join(again)}: {changed.seconds:.1f} s, {changed.bytes_sent:,} bytes sent",
        )
    ]


def parallel() -> list[Figure]:
    """Cold, without an engine's cache: both images at once against the slower one alone, in pairs."""

    def cold(*names: str) -> float:
        with tempfile.TemporaryDirectory(prefix="va-bench-") as folder:
            cache = Path(folder) / "cache"
            cache.mkdir()
            for name in _MOUNTED:
                (cache / name).symlink_to(places.cache() / name)
            return ship("127.0.0.1:1", Path(folder), cache=cache, to="built", images=names).seconds

    first = {name: cold(name) for name in ("fastapi-backend", "livekit-agent")}
    slower = max(first, key=lambda name: first[name])
    # One after the other, so that a machine that changes its speed changes it for both of a pair.
    pairs = [(cold(slower), cold(*first)) for _ in range(_COLD_PAIRS)]
    ratios = [both / alone for alone, both in pairs]
    alone, both = (statistics.median(column) for column in zip(*pairs, strict=True))
    return [
        Figure(
            claim=f"both images at once, cold / {slower} alone: median of {_COLD_PAIRS} pairs",
            value=statistics.median(ratios),
            limit=1.15,
            unit="x",
            detail=f"{min(ratios):.2f} to {max(ratios):.2f}; alone {alone:.1f} s, both {both:.1f} s",
        )
    ]


def steps() -> list[Figure]:
    """The embedded engine alone, on an image of 2 MB; a whole program with Python's start and imports."""
    with tempfile.TemporaryDirectory(prefix="va-bench-") as name:
        folder = Path(name)
        write_tiny_image(folder / "tiny.tar")
        (folder / "source").mkdir()
        for number in range(20):
            (folder / "source" / str(number)).write_text(f"{number}\n")
        pairs: list[tuple[float, float]] = []
        with small_peer(folder) as buildah:
            for _ in range(_WARM_RUNS + 1):  # the first of each is cold
                pairs.append((stepped(folder, "program")[1], buildah()))
        at_once, lines, layers = (stepped(folder, part)[0] for part in ("parallel", "lines", "layers"))
    del pairs[0]
    ours, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
    slots = max(4, 2 * (os.cpu_count() or 1))
    allowed = at_once["steps"] / slots
    return [
        Figure(
            claim="warm program of one image / buildah build --layers and push to an archive",
            value=statistics.median(our / their for our, their in pairs),
            limit=1.5,
            unit="x",
            detail=f"median of {_WARM_RUNS} pairs; {ours:.2f} s / {theirs:.2f} s",
        ),
        Figure(
            claim=f"{at_once['steps']} steps of one second / what {slots} at a time allow",
            value=at_once["seconds"] / allowed,
            limit=1.1,
            unit="x",
            detail=f"{at_once['seconds']:.1f} s / {allowed:.1f} s",
        ),
        Figure(
            claim="50 MB of lines of two bytes / of a hundred",
            value=lines["short"] / lines["long"],
            limit=2,
            unit="x",
            detail=f"the best of 3; {lines['short']:.2f} s / {lines['long']:.2f} s",
        ),
        Figure(
            claim="a small step in 300 layers / in one",
            value=layers["many"] / layers["one"],
            limit=1.25,
            unit="x",
            detail=f"medians of 20; {layers['many'] * 1000:.0f} ms / {layers['one'] * 1000:.0f} ms",
        ),
    ]


def estate() -> list[Figure]:
    """The architecture's files to findings and to templates, the start of the program with it."""
    va = Path(sys.executable).with_name("va")
    with tempfile.TemporaryDirectory(prefix="va-bench-") as folder:
        render = (va, "infra", "render", "--env", "prod", "--out", folder)
        checked = min(timed(va, "env", "check") for _ in range(5))
        rendered = min(timed(*render) for _ in range(5))
    seconds: dict[int, float] = {}
    resources: dict[int, int] = {}
    for count in (10, 50):
        done = subprocess.run(
            [sys.executable, "-m", "benches.estate", str(count)],
            cwd=places.checkout(),
            env={**os.environ, "PYTHONPATH": str(places.checkout())},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise StepFailed(f"the estate of {count} regions failed:\n{done.stderr[-3000:]}")
        seconds[count], resources[count] = json.loads(done.stdout)
    each = {count: seconds[count] / resources[count] for count in seconds}
    detail = ", ".join(
        f"{count} regions: {seconds[count]:.2f} s for {resources[count]:,}" for count in seconds
    )
    return [
        Figure(
            claim="va env check, all environments", value=checked, limit=0.7, unit="s", detail="the best of 5"
        ),
        Figure(claim="va infra render, prod", value=rendered, limit=1.5, unit="s", detail="the best of 5"),
        Figure(claim="fifty regions, files to templates", value=seconds[50], limit=20, unit="s"),
        Figure(
            claim="time a resource, fifty regions / ten regions",
            value=each[50] / each[10],
            limit=1.5,
            unit="x",
            detail=f"{detail} resources (every pair of regions is peered)",
        ),
    ]


def publish() -> list[Figure]:
    """Push once, have it replicated, and prove every region; against a copy to each registry by skopeo.

    Both sides have three registries of the same configuration and the same images: theirs unpacked layouts,
    ours the tarballs that a build leaves. Ours is what `va ship` does after its tests, from reading the
    tarballs to the last region's proof, in a process that runs already, and the replicator in another one.
    Theirs is a script: a process for each image and registry, one after the other, each of which sends the
    layers of its image at the same time. Told beside it: all nine processes at once, and ours with Python's
    start. Cold, both begin with empty registries each time; of each, the best run counts.
    """
    copy = (tools.path("skopeo"), "copy", "--all", "--quiet", "--dest-tls-verify=false")
    ours: list[dict[str, Any]] = []
    theirs: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory(prefix="va-bench-") as folder:
        archives = built(Path(folder))
        layouts = {name: unpacked(archive, Path(folder) / name) for name, archive in archives.items()}

        def copied(*, at_once: bool) -> tuple[float, float]:
            """Seconds to three empty registries, and to the same again."""
            with registry() as one, registry() as two, registry() as three:
                words = [
                    (*copy, f"oci:{layout}", f"docker://{address}/{name}:bench")
                    for address in (one, two, three)
                    for name, layout in layouts.items()
                ]

                def run() -> float:
                    return timed_at_once(words) if at_once else sum(timed(*each) for each in words)

                return run(), min(run() for _ in range(_WARM_RUNS))

        for _ in range(_COLD_RUNS):
            cold, warm = copied(at_once=False)
            cold_at_once, warm_at_once = copied(at_once=True)
            theirs.append(
                {"cold": cold, "warm": warm, "cold at once": cold_at_once, "warm at once": warm_at_once}
            )
            with replicated(Path(folder)) as regions:
                (first,), whole = published(regions, 1, archives)
                again, _ = published(regions, _WARM_RUNS, archives)
                proof, _ = published(regions, "rounds", archives)
            ours.append(
                {
                    "cold": first["seconds"],
                    "whole": whole,
                    "warm": min(run["seconds"] for run in again),
                    "blobs": max(run["blobs"] for run in again),
                    "sent": first["bytes"],
                    **proof,
                }
            )
    us = {name: min(run[name] for run in ours) for name in ("cold", "whole", "warm")}
    them = {name: min(run[name] for run in theirs) for name in theirs[0]}
    return [
        Figure(
            claim="push to three regions, cold, proven / skopeo copy --all to each",
            value=us["cold"] / them["cold"],
            limit=0.8,
            unit="x",
            detail=f"{us['cold']:.2f} s ({us['whole']:.2f} s with Python's start) / {them['cold']:.2f} s "
            f"(all at once {them['cold at once']:.2f} s); {len(archives)} images, "
            f"{max(run['sent'] for run in ours) / 2**20:.0f} MiB",
        ),
        Figure(
            claim="the same again, nothing changed",
            value=us["warm"] / them["warm"],
            limit=0.3,
            unit="x",
            detail=f"{us['warm']:.3f} s / {them['warm']:.3f} s (all at once {them['warm at once']:.3f} s)",
        ),
        Figure(claim="blobs that it sends then", value=max(run["blobs"] for run in ours), limit=0, unit=""),
        Figure(
            claim="rounds of requests that proving a release with its documents takes a region",
            value=max(run["rounds"] for run in ours),
            limit=1,
            unit="",
            detail=f"{ours[0]['asked']} requests to {len(regions)} regions",
        ),
    ]


def list_() -> list[Figure]:
    """Long lists of a registry on this machine, page after page."""
    words = [sys.executable, "-m", "benches.listing"]
    runs = [json.loads(subprocess.check_output(words, cwd=places.checkout())) for _ in range(3)]
    tags, referrers = (min(run[name] for run in runs) for name in ("tags", "referrers"))
    return [
        Figure(claim="10,000 tags, listed", value=tags, limit=3, unit="s", detail="the best of 3"),
        Figure(claim="2,000 referrers, listed", value=referrers, limit=3, unit="s", detail="the best of 3"),
        Figure(claim="memory of both lists", value=max(run["mib"] for run in runs), limit=16, unit="MiB"),
    ]


def scan_() -> list[Figure]:
    """The same digest, database and policy again: with verdict, reports and second sources."""

    async def again(reports: Path) -> tuple[float, str]:
        reporter = SilentReporter()
        policy = read_policy(places.checkout() / "policy.yaml")
        known = await databases(policy, reporter=reporter)
        today = dates.today()
        async with session(reporter) as (client, _):
            built = await build(client, reporter=reporter)
        slowest = 0.0
        for image in built:
            taken: list[float] = []
            for _ in range(4):
                started = time.perf_counter()
                scanned = await scan_built(
                    image, policy=policy, databases=known, today=today, reporter=reporter, reports=reports
                )
                taken.append(time.perf_counter() - started)
            assert scanned.cached
            slowest = max(slowest, min(taken[1:]))
        return slowest, ", ".join(image.name for image in built)

    with tempfile.TemporaryDirectory(prefix="va-bench-") as folder:
        seconds, names = asyncio.run(again(Path(folder)))
    return [
        Figure(
            claim="scan of an unchanged digest",
            value=seconds * 1000,
            limit=50,
            unit="ms",
            detail=f"the best of 3, the slowest of {names}",
        )
    ]


def promotion() -> list[Figure]:
    """On a real API server with Helm and the chart, whose pods are only said to run (tests/small_cluster.py).

    What proves a release stands in: nothing of registries and signatures is in these figures.
    """
    got = promoted()
    many = f"planned in {got['many_planned']:.1f} s, a look of the watch takes {got['many_looked']:.1f} s"
    return [
        Figure(
            claim="a promotion to one target, less bakes, Helm and gateway",
            value=got["overhead"],
            limit=1,
            unit="s",
            detail=f"until the gateway was seen to follow, three times: {got['followed']:.2f} s",
        ),
        Figure(claim="a bad verdict until stable has all the traffic", value=got["back"], limit=2, unit="s"),
        Figure(
            claim="facts of one target", value=got["facts"] * 1000, limit=150, unit="ms", detail="the median"
        ),
        Figure(
            claim="va status of 3 x 3 targets",
            value=got["status"],
            limit=1.5,
            unit="s",
            detail=f"the best of 3; {got['status_worked']:.2f} s of a processor",
        ),
        Figure(
            claim="va plan of 3 x 3 targets",
            value=got["plan"],
            limit=3,
            unit="s",
            detail=f"the best of 3; {got['plan_worked']:.2f} s of a processor",
        ),
        Figure(
            claim="peak memory of a process that plans and watches 200 targets",
            value=got["many"],
            limit=500,
            unit="MiB",
            detail=many,
        ),
    ]


_REGISTRY = (*SHIP_TOOLS, "docker-registry")
BENCHES: dict[str, tuple[Callable[[], list[Figure]], Sequence[str]]] = {
    "help": (help_, ()),
    "ship": (ship_, _REGISTRY),
    "line": (line, _REGISTRY),
    "parallel": (parallel, SHIP_TOOLS),
    "steps": (steps, (*BUILD_TOOLS, "busybox")),
    "estate": (estate, ()),
    "publish": (publish, (*_REGISTRY, "skopeo")),
    "list": (list_, ()),
    "scan": (scan_, SHIP_TOOLS),
    "names": (answering, ()),
    "promotion": (promotion, ()),
    "gates": (gates.figures, ()),
}
"""Each with the tools that it needs; one that needs any builds images, as root."""


def main(names: list[str]) -> int:
    if unknown := [name for name in names if name not in BENCHES]:
        raise BadInput(f"no bench is called {unknown[0]}", hint=f"there are {', '.join(BENCHES)}")
    needed = {name: BENCHES[name][1] for name in names or BENCHES}
    if os.geteuid() != 0 and (building := [name for name, programs in needed.items() if programs]):
        raise RootNeeded(f"root is needed, to build images: {', '.join(building)}; run: sudo ./nox -s bench")
    with tools.supplied_by(taken_from_shelf):
        asyncio.run(tools.ensure([tool for each in needed.values() for tool in each], console_reporter()))
    table = Table(
        "claim",
        Column(name="measured", right=True),
        Column(name="at most", right=True),
        "verdict",
        Column(name="detail", rank=1, below=True, prose=True),
    )
    figures: list[Figure] = []
    for name in names or BENCHES:
        for figure in BENCHES[name][0]():
            figures.append(figure)
            holds = ("holds", "green") if figure.holds else ("does not hold", "red")
            value = (
                f"{figure.value:.2f} {figure.unit}"
                if figure.unit in ("x", "s", "ms")
                else f"{figure.value:g} {figure.unit}"
            )
            table.add(figure.claim, value, f"{figure.limit:g} {figure.unit}", holds, figure.detail)
    load = os.getloadavg()[0]
    show(table, f"load of the machine at the end {load:.1f}, cores {os.cpu_count()}")
    return 0 if all(figure.holds for figure in figures) else 1


if __name__ == "__main__":
    try:
        with failing(json=False):
            sys.exit(main(sys.argv[1:]))
    except typer.Exit as ended:
        sys.exit(ended.exit_code)
