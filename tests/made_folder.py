"""A folder as the first half of a ship leaves it: two small images, made by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from oci import layer, write_image

from ci.registry import digest_of
from ci.release import Commit, TestSummary
from ci.supply.handover import MANIFEST, Maker, Ready, leave

__all__ = ["IMAGES", "edit", "made_folder", "named_anew"]

IMAGES = ("fastapi-backend", "livekit-agent")


def made_folder(folder: Path) -> str:
    """Leave it there; returns the digest of its manifest."""
    source = folder.parent / f"{folder.name}-source"
    source.mkdir()

    def findings(of: str, subject: str) -> Path:
        file = source / f"{subject[-8:]}.json"
        said = {
            "of": of,
            "subject": subject,
            "scanner": "x",
            "database": None,
            "findings": [],
            "packages": [],
        }
        file.write_text(json.dumps(said))
        return file

    def ready(name: str) -> Ready:
        archive, sbom = source / f"{name}.tar", source / f"{name}.cdx.json"
        digest = write_image(archive, layer(name=name))
        sbom.write_text('{"bomFormat": "CycloneDX"}')
        return Ready(
            name=name,
            digest=digest,
            archive=archive,
            tests=TestSummary(passed=1, failed=0, skipped=0),
            findings=findings("image", digest),
            sbom=sbom,
        )

    chart = "sha256:" + "1" * 64
    return leave(
        folder,
        maker=Maker(by="urn:test"),
        commit=Commit(sha="c" * 40, dirty=False, time=datetime(2026, 1, 1, tzinfo=UTC)),
        engine="fake",
        fault=None,
        images=[ready(name) for name in IMAGES],
        chart=(chart, findings("manifests", chart)),
    )


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change what the manifest says."""
    file = folder / MANIFEST
    document = json.loads(file.read_text())
    change(document)
    file.write_text(json.dumps(document))


def named_anew(folder: Path, digest: str) -> None:
    """Have the manifest, and the findings, name what is now in the first image's tarball."""
    file = folder / "reports" / IMAGES[0] / "findings.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"subject": digest}))
    content = file.read_bytes()

    def change(said: dict[str, Any]) -> None:
        size = (folder / f"images/{IMAGES[0]}.tar").stat().st_size
        said["images"][0] |= {"digest": digest, "archive": size}
        said["images"][0]["findings"] = {"digest": digest_of(content), "size": len(content)}

    edit(folder, change)
