"""The chart: packaged, and as production gets it, rendered for every region and held to the rules."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

from ci import dates, places, tools
from ci.architecture import model
from ci.architecture.chart import checkable_values
from ci.architecture.check import Severity, check
from ci.architecture.names import name
from ci.architecture.rendered import rendered_workloads
from ci.azure.checkov import failed_checks
from ci.build.source import files
from ci.concurrency import together
from ci.delivery.chart import PackagedChart, lint, package_chart, render
from ci.delivery.site import CANARY, STABLE, Track, release_values
from ci.environments.chart_values import laid_over
from ci.errors import BadInput
from ci.release import Chart, Commit, Image, Release, ScanSummary, TestSummary
from ci.scan.waivers import sort_out
from pipelines.images import IMAGES

__all__ = [
    "CHART_FOLDER",
    "TRACKS",
    "hold_to_checkov",
    "hold_to_rules",
    "package_own_chart",
    "production_renderings",
    "rendered_chart",
    "rendered_for",
    "stand_in_release",
]

CHART_FOLDER = PurePosixPath("helm/voice-assistant")
_NAMESPACE = "voice"
"""Where the architecture's service accounts and alert rules expect the chart."""
TRACKS: Mapping[Track, str] = {"stable": STABLE, "canary": CANARY}
"""What the Helm release of each track is called."""
_PRODUCTION = "prod"
"""The architecture's environment whose rendering is scanned."""
_DIGEST = "sha256:" + "0" * 64


async def rendered_for(environment: str, region: str, track: Track, *, helm: Path) -> str:
    """The chart with what `va env values` says of a region's cluster, and helm's own check of it.

    Stand-ins take the place of a release and of what only Azure knows. StepFailed: Helm refuses the values.
    """
    chart = places.checkout() / CHART_FOLDER
    architecture = model.read(environment).architecture
    registry = f"{name(architecture, 'registry')}.azurecr.io"
    own = release_values(stand_in_release(), track, registry)
    values = laid_over(checkable_values(architecture, region), own)
    await lint(chart, values, helm=helm)
    return await render(chart, values, name=TRACKS[track], helm=helm, namespace=_NAMESPACE)


async def package_own_chart(root: Path) -> PackagedChart:
    """The checkout's chart, packaged."""
    return package_chart(root, await files(root, str(CHART_FOLDER)), CHART_FOLDER)


async def rendered_chart(root: Path) -> str:
    """The chart as Helm renders it, of its own values and of production's; for a release that stands for any.

    So that an unchanged chart is not scanned again because an image changed.
    """
    helm = tools.path("helm")
    own = release_values(stand_in_release(), "stable", "registry.example")
    small = await render(root / CHART_FOLDER, own, name=STABLE, helm=helm)
    region = model.read(_PRODUCTION).architecture.primary
    # A canary's own too: there is its guard, with rights that no other pod has.
    large = await together(rendered_for(_PRODUCTION, region, track, helm=helm) for track in TRACKS)
    return "\n".join([small, *large])


async def production_renderings(helm: Path) -> dict[str, str]:
    """Manifests by `prod/eastus stable`: of every environment, region and track of the architecture."""
    wanted = [
        (environment, region, track)
        for environment in model.environments()
        for region in model.read(environment).architecture.order
        for track in TRACKS
    ]
    texts = await together(
        rendered_for(environment, region, track, helm=helm) for environment, region, track in wanted
    )
    return {
        f"{where}/{region} {track}": text for (where, region, track), text in zip(wanted, texts, strict=True)
    }


def hold_to_rules(renderings: Mapping[str, str]) -> None:
    """BadInput when the stable track's workloads break the architecture's rules (`va env check --chart`)."""
    today = dates.today()
    wrong = []
    for said, text in renderings.items():
        place, _, track = said.partition(" ")
        if track != "stable":
            continue  # HPA-CANARY counts a canary's pods: it has stable's scaling
        declared = model.read(place.partition("/")[0])
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
            file.write(text)
            file.flush()
            fits = rendered_workloads(Path(file.name), declared.architecture)
        wrong += [
            f"  {place}: {one.code}: {one.reason}; {one.fix}"
            for one in check(declared, fits, today=today)
            if one.severity is Severity.ERROR or one.code.startswith("CHART-")
        ]
    if wrong:
        raise BadInput("the chart breaks rules of the architecture:\n" + "\n".join(wrong))


async def hold_to_checkov(renderings: Mapping[str, str], program: Path) -> int:
    """BadInput with what checkov finds in production's manifests and helm/waivers.yaml does not let through.

    Returns how many findings are let through.
    """
    with tempfile.TemporaryDirectory(prefix="va-checkov-") as name:
        folder = Path(name)
        for said, text in renderings.items():
            (folder / f"{re.sub(r'[^a-z]+', '-', said)}.yaml").write_text(text)
        found = await failed_checks(program, folder, "kubernetes")
    today = dates.today()
    done = sort_out(found, places.checkout() / "helm" / "waivers.yaml", today=today)
    wrong = [f"{one.file}: {one.resource}: {one.id} {one.title}" for one in done.left]
    # Production's renderings are all that there is: a waiver that covers nothing in them covers nothing.
    wrong += [f"{one.place}: {one.message}" for one in (*done.expired, *done.unused)]
    if wrong:
        lines = "\n".join(f"  {line}" for line in wrong)
        raise BadInput(
            f"checkov finds in the rendered chart:\n{lines}",
            hint="mend it, or add an entry with reason and expiry date to helm/waivers.yaml",
        )
    return len(done.waived)


def stand_in_release() -> Release:
    """A release that stands for any: the chart takes no image without a digest."""
    long_ago = datetime(2000, 1, 1, tzinfo=UTC)
    return Release(
        name="any",
        created=long_ago,
        commit=Commit(sha="0" * 40, dirty=False, time=long_ago),
        engine="none",
        images=tuple(
            Image(
                name=image.name,
                digest=_DIGEST,
                size=0,
                tests=TestSummary(passed=0, failed=0, skipped=0),
                scan=ScanSummary(
                    vulnerabilities=None, misconfigurations={}, secrets=0, licences={}, packages=0
                ),
            )
            for image in IMAGES
        ),
        chart=Chart(name="voice-assistant", version="0.0.0", digest=_DIGEST),
    )
