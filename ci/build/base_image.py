"""The root file systems that our images stand on: Debian by mmdebstrap, each wrapped as an OCI archive.

Made on this machine and not by a Dagger engine, because it takes chroot to unpack Debian. The mirror is the
one that this machine's own apt uses. An archive is made anew when the packages or the script that cleans up
change, and once a week for Debian's security updates; the same packages give the same bytes.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import itertools
import json
import os
import re
import shlex
import shutil
import tarfile
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from ci import places, tools
from ci.errors import StepFailed
from ci.locks import locked
from ci.process import run
from ci.registry.platforms import this_machine
from ci.reporting import Reporter

__all__ = ["SUITE", "Recipe", "debian_lines", "debian_sources", "oci_archive", "root_archive"]

SUITE = "bookworm"

_EPOCH = 1686355200
"""2023-06-10, the day of Debian 12: no file is younger, so that the same packages give the same bytes."""
_VERSION = 1
"""To be raised when the way an archive is made changes."""
_FRESH_SECONDS = 7 * 86400.0
_KEPT = 3
_APT = Path("/etc/apt")
_DOCUMENTATION = ("doc", "info", "lintian", "locale", "man")
_LIST_PACKAGES = "dpkg-query --admindir=\"$1\"/var/lib/dpkg --show --showformat='${Package}=${Version}\\n'"
_LAYER = "application/vnd.oci.image.layer.v1.tar"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_INDEX = "application/vnd.oci.image.index.v1+json"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What to make: Debian's essential packages and those named in a file, cleaned up by a script."""

    name: str
    packages: Path
    customize: Path

    def names(self) -> tuple[str, ...]:
        """The packages, sorted; what follows a # is a comment."""
        lines = self.packages.read_text().splitlines()
        return tuple(sorted({name for line in lines if (name := line.partition("#")[0].strip())}))


async def root_archive(recipe: Recipe, reporter: Reporter) -> Path:
    """The recipe's root file system as an OCI archive; made when there is none for its present state.

    Beside it lies a .packages file: `name=version`, one a line. Safe to interrupt and to call from several
    processes. Raises ToolMissing, or StepFailed when mmdebstrap fails.
    """
    sources = debian_sources()
    folder = places.cache() / "base"
    folder.mkdir(parents=True, exist_ok=True)
    archive = folder / f"{recipe.name}-{_key(recipe, sources)}.tar"
    if _fresh(archive):
        return archive
    await tools.ensure(["mmdebstrap"], reporter)
    # Each build and each test asks for it: who makes it says so, the others wait silently.
    async with locked(folder / f"{recipe.name}.lock", lambda: None):
        if _fresh(archive):
            return archive
        with reporter.step(f"base image {recipe.name}") as step:
            try:
                await _make(recipe, archive, sources, say=step.say)
            except StepFailed as error:
                if not archive.is_file():
                    raise
                reporter.note(f"{recipe.name}: kept the one of last week, because {error}")
            step.say(_size(archive))
    _forget_old(folder, recipe.name)
    return archive


async def _make(recipe: Recipe, archive: Path, sources: str, *, say: Callable[[str], None]) -> None:
    for left in archive.parent.glob(f".draft-{recipe.name}-*"):  # by one that was killed: we are alone here
        shutil.rmtree(left)
    with tempfile.TemporaryDirectory(dir=archive.parent, prefix=f".draft-{recipe.name}-") as scratch:
        rootfs, listed = Path(scratch) / "rootfs.tar", Path(scratch) / "packages"
        await run(
            *_mmdebstrap(recipe, rootfs, listed, sources),
            env={"SOURCE_DATE_EPOCH": str(_EPOCH), "LC_ALL": "C"},
            on_line=lambda line: say(line.removeprefix("I: ")),
        )
        draft = Path(scratch) / "archive.tar"
        await asyncio.to_thread(oci_archive, rootfs, draft)
        listed.replace(archive.with_suffix(".packages"))
        draft.replace(archive)


def _mmdebstrap(recipe: Recipe, rootfs: Path, listed: Path, sources: str) -> list[str | Path]:
    excluded = (f"path-exclude=/usr/share/{part}/*" for part in _DOCUMENTATION)
    arguments: list[str | Path] = [
        tools.path("mmdebstrap"),
        "--format=tar",
        "--variant=essential",
        f"--include={','.join(recipe.names())}",
        *(f"--dpkgopt={option}" for option in excluded),
        # Licences stay: the scan reads them.
        "--dpkgopt=path-include=/usr/share/doc/*/copyright",
        f'--customize-hook={shlex.quote(str(recipe.customize.absolute()))} "$1"',
        f"--customize-hook={_LIST_PACKAGES} >{shlex.quote(str(listed))}",
        SUITE,
        rootfs,
    ]
    if sources:
        mirrors = rootfs.with_name("mirrors.list")
        mirrors.write_text(sources)
        arguments.append(mirrors)
    return arguments


def debian_sources() -> str:
    """This machine's own Debian sources as lines for apt; none if it is no Debian: mmdebstrap knows one.

    $VA_DEBIAN_SOURCES may name a file of apt's to use instead.
    """
    if given := os.environ.get("VA_DEBIAN_SOURCES"):
        files = [Path(given)]
    else:
        files = [_APT / "sources.list", *sorted((_APT / "sources.list.d").glob("*"))]
    lines = {line for file in files if file.is_file() for line in debian_lines(file.read_text())}
    return "".join(f"{line}\n" for line in sorted(lines))


def debian_lines(text: str) -> list[str]:
    """One-line sources for what a file of apt (sources.list(5), either format) takes from Debian itself.

    Exactly Debian's own suites and component `main`: other archives name theirs differently.
    """
    found: list[tuple[str, str, str]] = []
    for stanza in re.split(r"\n\s*\n", re.sub(r"^\s*#.*\n?", "", text, flags=re.MULTILINE)):
        fields = dict(re.findall(r"^([A-Za-z-]+):[ \t]*(.*)$", stanza, flags=re.MULTILINE))
        if "deb" in fields.get("Types", "").split() and fields.get("Enabled", "yes") != "no":
            found += itertools.product(
                *(fields.get(key, "").split() for key in ("URIs", "Suites", "Components"))
            )
        for site, suite, components in re.findall(
            r"^\s*deb\s+(?:\[[^]]*\]\s+)?(\S+)\s+(\S+)\s+(.+)$", stanza, flags=re.MULTILINE
        ):
            found += [(site, suite, component) for component in components.split()]
    ours = (SUITE, f"{SUITE}-updates", f"{SUITE}-security")
    return [f"deb {site} {suite} main" for site, suite, part in found if suite in ours and part == "main"]


def _fresh(archive: Path) -> bool:
    return archive.is_file() and time.time() - archive.stat().st_mtime < _FRESH_SECONDS


def _key(recipe: Recipe, sources: str) -> str:
    digest = hashlib.sha256()
    for part in (
        f"{_VERSION} {_EPOCH}".encode(),
        "\n".join(recipe.names()).encode(),
        recipe.customize.read_bytes(),
        sources.encode(),
    ):
        digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()[:16]


def _forget_old(folder: Path, name: str) -> None:
    archives = sorted(folder.glob(f"{name}-*.tar"), key=lambda file: file.stat().st_mtime, reverse=True)
    for archive in archives[_KEPT:]:
        archive.unlink(missing_ok=True)
        archive.with_suffix(".packages").unlink(missing_ok=True)


def _size(file: Path) -> str:
    return f"{file.stat().st_size / 2**20:.0f} MiB"


def oci_archive(rootfs: Path, target: Path) -> None:
    """Write a root file system (a tar) as an OCI image archive with this one layer; same tar, same bytes.

    Format: OCI Image Layout 1.0 in a tar. The layer is not compressed: an engine unpacks it at once.
    """
    layer_digest = _file_digest(rootfs)
    config = _json(
        {
            **this_machine().as_json(),
            "config": {
                "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"]
            },
            "rootfs": {"type": "layers", "diff_ids": [layer_digest]},
        }
    )
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": _MANIFEST,
            "config": _descriptor(_CONFIG, config),
            "layers": [{"mediaType": _LAYER, "digest": layer_digest, "size": rootfs.stat().st_size}],
        }
    )
    index = _json({"schemaVersion": 2, "mediaType": _INDEX, "manifests": [_descriptor(_MANIFEST, manifest)]})
    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as tar:

        def add(name: str, content: IO[bytes], size: int) -> None:
            member = tarfile.TarInfo(name)
            member.size, member.mtime, member.mode = size, _EPOCH, 0o644
            tar.addfile(member, content)

        for name, content in (
            ("oci-layout", _json({"imageLayoutVersion": "1.0.0"})),
            ("index.json", index),
            (_blob_path(_digest(config)), config),
            (_blob_path(_digest(manifest)), manifest),
        ):
            add(name, io.BytesIO(content), len(content))
        with rootfs.open("rb") as layer:
            add(_blob_path(layer_digest), layer, rootfs.stat().st_size)


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _file_digest(file: Path) -> str:
    with file.open("rb") as content:
        return f"sha256:{hashlib.file_digest(content, 'sha256').hexdigest()}"


def _blob_path(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"


def _descriptor(kind: str, content: bytes) -> dict[str, object]:
    return {"mediaType": kind, "digest": _digest(content), "size": len(content)}
