"""The Helm chart as a package: the same files always give the same bytes, in Helm's OCI form.

Media types are those of Helm's OCI support (HIP 6): the config is Chart.yaml as JSON, the one layer a gzipped
tar whose entries lie below the chart's name.
"""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import BaseModel, Field

from ci import yamlfile
from ci.errors import BadInput, StepFailed
from ci.process import run
from ci.registry import Bundle, artifact

__all__ = ["PackagedChart", "lint", "package_chart", "render"]

_CONFIG_TYPE = "application/vnd.cncf.helm.config.v1+json"
_CONTENT_TYPE = "application/vnd.cncf.helm.chart.content.v1.tar+gzip"
_LONG_AGO = 315532800
"""1980-01-01: tar wants a time for each file, and a chart whose files did not change must not change."""


class _ChartYaml(BaseModel):
    api_version: str = Field(alias="apiVersion")
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    version: str = Field(pattern=r"^\d+\.\d+\.\d+([-+][0-9A-Za-z.+-]+)?$")


@dataclass(frozen=True, kw_only=True)
class PackagedChart:
    """A chart that is ready to be pushed to the repository `name`."""

    name: str
    version: str
    bundle: Bundle

    @property
    def digest(self) -> str:
        """The digest of its manifest."""
        return self.bundle.digest

    @property
    def archive(self) -> bytes:
        """The .tgz that `helm package` would have made."""
        return self.bundle.blobs[-1].read()


def package_chart(root: Path, files: Iterable[PurePosixPath], folder: PurePosixPath) -> PackagedChart:
    """Package the chart in `root/folder` from those of `files` (relative to `root`) that lie in it.

    BadInput names the line in Chart.yaml that is wrong.
    """
    document = yamlfile.load(root / folder / "Chart.yaml")
    chart = yamlfile.checked(_ChartYaml, document)
    inside = sorted(file for file in files if file.is_relative_to(folder))
    if folder / "Chart.yaml" not in inside:
        raise BadInput(f"git ignores {folder}/Chart.yaml", hint="take it out of .gitignore")
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for file in inside:
            content = (root / file).read_bytes()
            member = tarfile.TarInfo(f"{chart.name}/{file.relative_to(folder)}")
            member.size, member.mtime, member.mode = len(content), _LONG_AGO, 0o644
            tar.addfile(member, io.BytesIO(content))
    config = json.dumps(document.data, sort_keys=True, separators=(",", ":"), default=str).encode()
    bundle = artifact(
        config=(_CONFIG_TYPE, config),
        layers=((_CONTENT_TYPE, gzip.compress(out.getvalue(), mtime=0), {}),),
        annotations={
            "org.opencontainers.image.title": chart.name,
            "org.opencontainers.image.version": chart.version,
        },
    )
    return PackagedChart(name=chart.name, version=chart.version, bundle=bundle)


async def lint(folder: Path, values: Mapping[str, Any], *, helm: Path) -> None:
    """Helm's own check of the chart with these values, warnings included; StepFailed shows Helm's words."""
    await run(helm, "lint", "--strict", folder, "--values", "-", stdin=json.dumps(values), failure=StepFailed)


async def render(
    chart: Path,
    values: Mapping[str, Any],
    *,
    name: str,
    helm: Path,
    namespace: str = "default",
    hooks: bool = True,
) -> str:
    """The manifests of a chart (its folder, or its package) with these values, as YAML.

    Without `hooks` they are what Helm keeps as a release's manifest. StepFailed shows Helm's words.
    """
    done = await run(
        helm,
        *("template", name, chart, "--values", "-", "--kube-version", "1.34.0"),
        *("--namespace", namespace, *(() if hooks else ("--no-hooks",))),
        stdin=json.dumps(values),
        failure=StepFailed,
    )
    return done.stdout
