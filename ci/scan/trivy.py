"""Trivy, run as a program and never let near the network: on an image's tarball, and on rendered manifests.

It looks for misconfigurations, secrets and licences, and lists the packages (CycloneDX); for vulnerabilities
only when it is given a database (`ci.scan.database`). What it said of a digest is kept under `places.cache()`
by (digest, Trivy, database), so that the same question costs a few milliseconds. The policy is no part of
that key because it is no part of the answer: `judge` applies it anew each time, with the day's date.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
import tarfile
import tempfile
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ci import places
from ci.errors import BadInput, StepFailed, ToolMissing
from ci.files import extract, new_folder, write_whole
from ci.locks import locked
from ci.process import run
from ci.registry import digest_of
from ci.scan.database import JAVA, VULNERABILITIES, LocalDatabase
from ci.scan.findings import Database, Findings, Scanned, read_report
from ci.scan.sarif import for_github

__all__ = ["Scan", "scan_image", "scan_manifests"]

_FINDINGS, _REPORT, _SBOM, _SARIF = "findings.json", "trivy.json", "sbom.cdx.json", "findings.sarif"
_SEAL = "sha256.json"
"""The digests of the files above as they were written: what lay in a cache for weeks is checked."""
_VERSION = 6
"""Part of the cache's key: raise it when what is stored changes."""
_KEPT = 40
"""How many scans the cache holds, the newest; one takes a megabyte or two."""
_LAYERS_BYTES = 256 * 2**20
_IMAGE_SECONDS = 600.0
_NO_SECRETS_THERE = ("--skip-files", "**/__pycache__/*.pyc", "--skip-dirs", "var/lib/apt/lists")
"""Compiled Python whose source is scanned beside it, and Debian's package lists: nine tenths of the time."""
_OFFLINE = ("--skip-db-update", "--skip-java-db-update", "--skip-check-update", "--offline-scan")


@dataclass(frozen=True, kw_only=True)
class Scan:
    """What a scan found, and the files it left: kept in the cache, to be copied from there."""

    findings: Findings
    folder: Path
    cached: bool

    @property
    def document(self) -> Path:
        """`findings` as a file: what `Findings` reads back."""
        return self.folder / _FINDINGS

    @property
    def report(self) -> Path:
        """Trivy's own report, as JSON."""
        return self.folder / _REPORT

    @property
    def sbom(self) -> Path:
        """The packages, as a CycloneDX document; the same bytes for the same image and Trivy."""
        return self.folder / _SBOM

    @property
    def sarif(self) -> Path:
        """The findings for GitHub's code scanning."""
        return self.folder / _SARIF

    def copy_to(self, folder: Path) -> None:
        """Put the reports into a folder for people and CI systems."""
        folder.mkdir(parents=True, exist_ok=True)
        for file in (self.document, self.report, self.sbom, self.sarif):
            if file.is_file():
                write_whole(folder / file.name, file.read_bytes())


async def scan_image(
    archive: Path,
    digest: str,
    *,
    trivy: Path,
    database: LocalDatabase | None = None,
    java: LocalDatabase | None = None,
    name: str = "image",
    timeout: float = _IMAGE_SECONDS,
) -> Scan:
    """Scan the image in an OCI tarball whose digest is `digest`; from the cache when that was done before.

    The reports call it `name`. Without a `database` it is not scanned for vulnerabilities, and says so;
    `java` is the index that Trivy wants of an image with Java archives.

    StepFailed when Trivy crashes, takes longer than `timeout` seconds or answers with garbage.
    """
    known = database.database if database else None
    if known and java:
        known = known.model_copy(update={"java": java.database.digest})
    scanner = await _version(trivy)
    kept = _kept(digest, scanner, known)
    if scan := _read(kept):
        return scan
    scanners = ["misconfig", "secret", "license", *(["vuln"] if known else [])]
    with new_folder(kept) as draft, tempfile.TemporaryDirectory(prefix="va-scan-") as scratch:
        await asyncio.to_thread(_unpack, archive, Path(scratch) / name)
        words = ["image", "--input", name, "--scanners", ",".join(scanners)]
        words += ["--image-config-scanners", "misconfig,secret", "--list-all-pkgs", *_NO_SECRETS_THERE]
        async with _layers(name, database, java) as layers:
            await _trivy(trivy, words, draft / _REPORT, Path(scratch), timeout, cache=layers)
        findings = _understood(draft / _REPORT, Scanned.IMAGE, digest, scanner, known)
        await _convert(trivy, draft, "cyclonedx", draft / _SBOM, Path(scratch))
        write_whole(draft / _SBOM, _steady(draft / _SBOM, digest))
        await _convert(trivy, draft, "sarif", draft / _SARIF, Path(scratch))
        write_whole(draft / _SARIF, _for_github(draft / _SARIF, name))
        write_whole(draft / _FINDINGS, findings.model_dump_json())
        _seal(draft)
    _forget_old(kept.parent)
    return Scan(findings=findings, folder=kept, cached=False)


async def scan_manifests(text: str, *, trivy: Path, timeout: float = _IMAGE_SECONDS) -> Scan:
    """Scan manifests (a rendered chart) for misconfigurations and secrets; from the cache as images are."""
    digest = digest_of(text.encode())
    scanner = await _version(trivy)
    kept = _kept(digest, scanner, None)
    if scan := _read(kept):
        return scan
    with new_folder(kept) as draft, tempfile.TemporaryDirectory(prefix="va-scan-") as scratch:
        (Path(scratch) / "manifests").mkdir()
        (Path(scratch) / "manifests" / "chart.yaml").write_text(text)
        words = ["filesystem", "manifests", "--scanners", "misconfig,secret"]
        await _trivy(trivy, words, draft / _REPORT, Path(scratch), timeout)
        findings = _understood(draft / _REPORT, Scanned.MANIFESTS, digest, scanner, None)
        await _convert(trivy, draft, "sarif", draft / _SARIF, Path(scratch))
        write_whole(draft / _SARIF, _for_github(draft / _SARIF, "chart"))
        write_whole(draft / _FINDINGS, findings.model_dump_json())
        _seal(draft)
    _forget_old(kept.parent)
    return Scan(findings=findings, folder=kept, cached=False)


async def _trivy(
    trivy: Path,
    words: list[str],
    output: Path,
    scratch: Path,
    timeout: float,
    *,
    cache: Path | None = None,
) -> None:
    # In a folder of its own, where no trivy.yaml, .trivyignore or trivy-secret.yaml can change what it says.
    await run(
        trivy,
        *words,
        *_OFFLINE,
        *("--format", "json", "--output", output),
        *("--cache-dir", cache or scratch, "--cache-backend", "fs" if cache else "memory"),
        *("--timeout", f"{timeout:g}s", "--exit-code", "0", "--quiet", "--no-progress"),
        cwd=scratch,
        timeout=timeout,
        failure=StepFailed,
    )


@asynccontextmanager
async def _layers(name: str, *databases: LocalDatabase | None) -> AsyncIterator[Path]:
    """Trivy's own cache of what it saw in each layer: after a changed line it looks at the last layer only.

    One for each image, and for one Trivy at a time: two cannot share it, nor a database.
    """
    folder = places.cache() / "trivy-layers" / name
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(locked(folder / "lock", lambda: None))
        for kind in (VULNERABILITIES, JAVA):
            (folder / kind.folder).unlink(missing_ok=True)
        for database in databases:
            if database:
                lock = database.folder.with_name(f".{database.folder.name}.lock")
                await stack.enter_async_context(locked(lock, lambda: None))
                (folder / database.kind.folder).symlink_to(database.folder)
        seen = folder / "fanal" / "fanal.db"
        if seen.is_file() and seen.stat().st_size > _LAYERS_BYTES:
            seen.unlink()
        yield folder


async def _convert(trivy: Path, folder: Path, to: str, output: Path, scratch: Path) -> None:
    words = ("convert", "--quiet", "--format", to, "--output", output, folder / _REPORT)
    await run(trivy, *words, cwd=scratch, timeout=60, failure=StepFailed)
    if not output.is_file():
        raise StepFailed(f"{trivy} converted its report to {to}, but wrote nothing")


async def _version(trivy: Path) -> str:
    """`trivy 0.58.1`, remembered by the file's size and time: asking it takes longer than a cached scan."""
    try:
        stat = trivy.stat()
    except FileNotFoundError as error:
        raise ToolMissing(f"{trivy} is not there", hint="va doctor says how to get trivy") from error
    name = hashlib.sha256(f"{trivy} {stat.st_size} {stat.st_mtime_ns}".encode()).hexdigest()[:16]
    memo = places.cache() / "scans" / f"trivy-{name}"
    if memo.is_file():
        return memo.read_text()
    done = await run(trivy, "--version", "--format", "json", timeout=60, failure=StepFailed)
    try:
        version = f"trivy {json.loads(done.stdout)['Version']}"
    except (ValueError, KeyError, TypeError) as error:
        raise StepFailed(f"{trivy} does not say its version: {done.stdout.strip()[:200]!r}") from error
    write_whole(memo, version)
    return version


def _kept(digest: str, scanner: str, known: Database | None) -> Path:
    key = json.dumps([_VERSION, digest, scanner, known.model_dump(mode="json") if known else None])
    return places.cache() / "scans" / hashlib.sha256(key.encode()).hexdigest()


def _read(kept: Path) -> Scan | None:
    """What is kept there, if all of it is as it was written; what is not is thrown away."""
    try:
        sealed: dict[str, str] = json.loads((kept / _SEAL).read_bytes())
        if {file.name for file in kept.iterdir()} != {*sealed, _SEAL}:
            raise ValueError("a file is missing, or there is one too many")
        if any(digest_of((kept / name).read_bytes()) != digest for name, digest in sealed.items()):
            raise ValueError("a file was changed")
        findings = Findings.model_validate_json((kept / _FINDINGS).read_bytes())
    except (OSError, ValueError, AttributeError):
        shutil.rmtree(kept, ignore_errors=True)
        return None
    return Scan(findings=findings, folder=kept, cached=True)


def _seal(draft: Path) -> None:
    digests = {file.name: digest_of(file.read_bytes()) for file in sorted(draft.iterdir())}
    write_whole(draft / _SEAL, json.dumps(digests))


def _for_github(sarif: Path, name: str) -> bytes:
    try:
        return for_github(sarif.read_bytes(), name)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StepFailed(f"the SARIF of {name} cannot be understood: {error}") from error


def _forget_old(folder: Path) -> None:
    scans = [path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]
    for scan in sorted(scans, key=lambda path: path.stat().st_mtime, reverse=True)[_KEPT:]:
        shutil.rmtree(scan, ignore_errors=True)


def _unpack(archive: Path, folder: Path) -> None:
    try:
        with tarfile.open(archive, "r:") as tar:
            extract(tar, folder)
    except tarfile.TarError as error:
        raise BadInput(f"{archive} is not an image's tarball: {error}", hint="run va build again") from error


def _understood(report: Path, of: Scanned, digest: str, scanner: str, known: Database | None) -> Findings:
    try:
        return read_report(report.read_bytes(), of=of, subject=digest, scanner=scanner, database=known)
    except FileNotFoundError as error:
        raise StepFailed(f"{scanner} ended well, but wrote no report") from error
    except ValueError as error:
        raise StepFailed(
            f"the report of {scanner} on {digest} cannot be understood: {error}",
            hint="nothing is known of this image then, so nothing is let through; va doctor checks trivy",
        ) from error


def _steady(sbom: Path, digest: str) -> bytes:
    """The SBOM without what changes from run to run: random references, the serial number and the time."""
    try:
        document = json.loads(sbom.read_bytes())
        metadata = document["metadata"]
        components = [metadata["component"], *document.get("components", [])]
    except (ValueError, KeyError, TypeError) as error:
        raise StepFailed(f"the SBOM of {digest} cannot be understood: {error}") from error
    # A component without a package URL is known by a random reference: name it by what it is instead.
    names: dict[str, str] = {}
    for component in components:
        reference = str(component.get("bom-ref", ""))
        if not reference.startswith("pkg:"):
            what = json.dumps({key: component[key] for key in sorted(component) if key != "bom-ref"})
            names[reference] = str(uuid.uuid5(uuid.NAMESPACE_OID, f"{digest} {what}"))
    document = _renamed(document, names)
    document["serialNumber"] = f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, digest)}"
    document["metadata"].pop("timestamp", None)
    document["metadata"]["component"]["version"] = digest
    document["dependencies"] = sorted(document.get("dependencies", []), key=lambda one: str(one["ref"]))
    return json.dumps(document, indent=1, sort_keys=True).encode()


def _renamed(value: Any, names: Mapping[str, str]) -> Any:
    """The same JSON with each string that is a key of `names` replaced."""
    if isinstance(value, dict):
        return {key: _renamed(inner, names) for key, inner in value.items()}
    if isinstance(value, list):
        return [_renamed(inner, names) for inner in value]
    return names.get(value, value) if isinstance(value, str) else value
