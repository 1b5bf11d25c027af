"""What second sources say of the packages that a scan found: beside the scan's own findings, never instead.

- Python packages: PyPI's advisories, asked by pip-audit, which is run as a program.
- Debian packages: apt, which of them have a newer version in Debian's security suite. It names no CVE.

A source that does not answer is said to have not answered; that is never taken for "nothing found". Nothing
here blocks: the policy judges the scan. An answer is kept for the day, a silence for a quarter of an hour.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from ci import dates, places
from ci.build.base_image import SUITE, debian_sources
from ci.concurrency import together
from ci.errors import PipelineError, StepFailed
from ci.files import write_whole
from ci.process import run
from ci.scan.findings import Finding, Findings, Kind, Package

__all__ = ["Advisory", "Opinion", "second_opinions"]

_PYTHON, _DEBIAN = "python-pkg", "debian"
_PIP_AUDIT = Path(sys.executable).with_name("pip-audit")
_SECONDS = 60.0
_SILENCE_SECONDS = 900.0
# Names and versions: packaging.python.org (name normalization, PEP 440); deb-control(5), deb-version(7).
_PYTHON_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")
_PYTHON_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9.!+_-]*")
_DEBIAN_NAME = re.compile(r"[a-z0-9][a-z0-9+.-]+")
_DEBIAN_VERSION = re.compile(r"[0-9][A-Za-z0-9.+~:-]*")
_POLICY = re.compile(r"^(\S+):\n  Installed: (\S+)\n  Candidate: (\S+)$", re.MULTILINE)


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Advisory(_Record):
    """What a second source has against a package. `id` is empty where it names none."""

    id: str
    aliases: tuple[str, ...] = ()
    package: str
    version: str
    fixed: str = ""

    @property
    def name(self) -> str:
        """One line for people: `PYSEC-2023-1 in requests 2.20.0 (fixed in 2.31.0)`."""
        fixed = f" (fixed in {self.fixed})" if self.fixed else ""
        return f"{self.id or 'a security update'} in {self.package} {self.version}{fixed}"


class Opinion(_Record):
    """What one source says of as many packages; with a `problem`, it did not answer."""

    source: str
    packages: int
    found: tuple[Advisory, ...] = ()
    unknown: tuple[str, ...] = ()
    """Packages that the source does not know: it says nothing of them."""
    problem: str = ""

    def news(self, findings: Findings) -> tuple[Advisory, ...]:
        """What the scan did not find: by id and aliases, else by package."""
        known = [one for one in findings.findings if one.kind is Kind.VULNERABILITY]
        return tuple(one for one in self.found if not any(_same(one, other) for other in known))

    @property
    def line(self) -> str:
        """One line for people."""
        if self.problem:
            return f"{self.source} did not answer: {self.problem}"
        unknown = f", {len(self.unknown)} unknown to it" if self.unknown else ""
        said = "; ".join(one.name for one in self.found) or "nothing found"
        return f"{self.source}: {said} ({self.packages} packages{unknown})"


async def second_opinions(findings: Findings) -> tuple[Opinion, ...]:
    """Ask each source that knows about some of the packages; never raises what a source does wrong."""
    packages = findings.packages
    sources = ((_PYTHON, "PyPI (pip-audit)", _ask_pypi), (_DEBIAN, "Debian security (apt)", _ask_debian))
    asked = [
        _remembered(name, [one for one in packages if one.type == type_], ask)
        for type_, name, ask in sources
        if any(one.type == type_ for one in packages)
    ]
    return tuple(await together(asked))


def _same(advisory: Advisory, finding: Finding) -> bool:
    if not advisory.id:
        return finding.package == advisory.package and bool(finding.fixed)
    return finding.id in (advisory.id, *advisory.aliases)


async def _remembered(
    source: str, packages: Sequence[Package], ask: Callable[[str, Sequence[Package]], Awaitable[Opinion]]
) -> Opinion:
    today = dates.today().isoformat()
    key = json.dumps([2, source, today, [(one.name, one.version) for one in packages]])
    file = places.cache() / "opinions" / hashlib.sha256(key.encode()).hexdigest()[:32]
    try:
        known = Opinion.model_validate_json(file.read_bytes())
        if not known.problem or time.time() - file.stat().st_mtime < _SILENCE_SECONDS:
            return known
    except (OSError, ValidationError):
        pass
    try:
        said = await ask(source, packages)
    except (PipelineError, ValueError, KeyError, TypeError, AttributeError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        said = Opinion(source=source, packages=len(packages), problem=lines[-1][-200:])
    file.unlink(missing_ok=True)  # its time is that of this answer, even when that is the same
    write_whole(file, said.model_dump_json())
    _forget_old(file.parent)
    return said


def _sound(packages: Sequence[Package], name: re.Pattern[str], version: re.Pattern[str]) -> list[Package]:
    """Those whose names and versions are such: an image may say anything, and other programs read it then."""
    return [one for one in packages if name.fullmatch(one.name) and version.fullmatch(one.version)]


async def _ask_pypi(source: str, packages: Sequence[Package]) -> Opinion:
    """Exactly these versions; without pip, so that nothing is resolved, downloaded or run."""
    sound = _sound(packages, _PYTHON_NAME, _PYTHON_VERSION)
    odd = [one.name for one in packages if one not in sound]
    if not sound:
        raise StepFailed("no package has a name and a version of Python's")
    with tempfile.TemporaryDirectory(prefix="va-opinion-") as folder:
        listed = Path(folder) / "requirements.txt"
        listed.write_text("".join(f"{one.name}=={one.version}\n" for one in sound))
        done = await run(
            *(_PIP_AUDIT, "--requirement", listed),
            *("--no-deps", "--disable-pip", "--format", "json", "--progress-spinner", "off"),
            *("--cache-dir", places.cache() / "pip-audit", "--timeout", "10"),
            timeout=_SECONDS,
            check=False,  # it ends with 1 when it found something, too
        )
    if not done.stdout.strip():
        raise StepFailed(done.stderr.strip() or f"pip-audit ended with {done.code} and said nothing")
    answer = json.loads(done.stdout)["dependencies"]
    unknown = (*(one["name"] for one in answer if "skip_reason" in one), *odd)
    if len(unknown) == len(answer) + len(odd):
        # pip-audit calls this "no known vulnerabilities"; so it is with a mirror that has no advisories.
        raise StepFailed(f"the index that was asked knows none of the {len(packages)} packages")
    return Opinion(
        source=source,
        packages=len(packages),
        found=tuple(
            Advisory(
                id=found["id"],
                aliases=tuple(found.get("aliases", ())),
                package=one["name"],
                version=one["version"],
                fixed=", ".join(found.get("fix_versions", ())),
            )
            for one in answer
            for found in one.get("vulns", ())
        ),
        unknown=unknown,
    )


async def _ask_debian(source: str, packages: Sequence[Package]) -> Opinion:
    """apt, told that exactly these are installed, which versions it would take from the security suite."""
    lines = [line for line in debian_sources().splitlines() if f" {SUITE}-security " in line]
    if not lines:
        raise StepFailed(f"this machine's apt has no source for {SUITE}-security")
    sound = _sound(packages, _DEBIAN_NAME, _DEBIAN_VERSION)
    if not sound:
        raise StepFailed("no package has a name and a version of Debian's")
    lists = places.cache() / "debian-security"
    (lists / "partial").mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="va-opinion-") as folder:
        sources, status = Path(folder) / "sources.list", Path(folder) / "status"
        sources.write_text("\n".join(lines) + "\n")
        status.write_text("".join(_installed(one) for one in sound))
        options = {
            "Dir::Etc::SourceList": sources,
            "Dir::Etc::SourceParts": "/dev/null",
            "Dir::State": folder,
            "Dir::State::Lists": lists,
            "Dir::State::status": status,
            "Dir::Cache": folder,
            "APT::Architecture": "amd64",
            "APT::Architectures::": "amd64",
            "APT::Sandbox::User": "root",
            "APT::Update::Error-Mode": "any",
            "Acquire::Retries": "0",
            "Acquire::http::Timeout": "10",
            "Acquire::https::Timeout": "10",
            "Debug::NoLocking": "1",
        }
        words = [word for key, value in options.items() for word in ("-o", f"{key}={value}")]
        await run("apt-get", *words, "-qq", "update", timeout=_SECONDS, env={"LC_ALL": "C"})
        names = (one.name for one in sound)
        done = await run("apt-cache", *words, "policy", "--", *names, timeout=_SECONDS, env={"LC_ALL": "C"})
    seen = _POLICY.findall(done.stdout)
    if len(seen) != len({one.name for one in sound}):
        raise StepFailed(f"apt speaks of {len(seen)} of the {len(sound)} packages")
    return Opinion(
        source=source,
        packages=len(packages),
        found=tuple(
            Advisory(id="", package=package, version=version, fixed=fixed)
            for package, version, fixed in seen
            if fixed != version
        ),
        unknown=tuple(one.name for one in packages if one not in sound),
    )


def _installed(package: Package) -> str:
    return (
        f"Package: {package.name}\nStatus: install ok installed\nArchitecture: amd64\n"
        f"Version: {package.version}\nMaintainer: x <x@example.com>\nDescription: x\n\n"
    )


def _forget_old(folder: Path) -> None:
    cutoff = time.time() - 7 * 86400
    for file in folder.iterdir():
        if file.stat().st_mtime < cutoff:
            file.unlink(missing_ok=True)
