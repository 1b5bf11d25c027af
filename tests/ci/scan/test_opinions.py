from __future__ import annotations

import asyncio
import json
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ci.scan import (
    Database,
    Finding,
    Findings,
    Kind,
    Opinion,
    Package,
    Scanned,
    Severity,
    opinions,
    second_opinions,
)

_AUDIT = {
    "dependencies": [
        {"name": "fastapi", "version": "0.115.0", "vulns": []},
        {"name": "ours", "skip_reason": "Dependency not found on PyPI and could not be audited: ours (1.0)"},
        {
            "name": "requests",
            "version": "2.20.0",
            "vulns": [
                {
                    "id": "PYSEC-2023-74",
                    "fix_versions": ["2.31.0"],
                    "aliases": ["CVE-2023-32681", "GHSA-j8r2-6x86-q33q"],
                    "description": "leaks",
                },
                {"id": "PYSEC-2018-28", "fix_versions": [], "aliases": []},
            ],
        },
    ],
    "fixes": [],
}
_CANDIDATES = """openssl:
  Installed: 3.0.15-1~deb12u1
  Candidate: 3.0.17-1~deb12u3
  Version table:
     3.0.17-1~deb12u3 500
        500 http://deb.example/security bookworm-security/main amd64 Packages
 *** 3.0.15-1~deb12u1 100
        100 /tmp/status
tar:
  Installed: 2:1.34
  Candidate: 2:1.34
  Version table:
 *** 2:1.34 100
        100 /tmp/status
"""


def package(name: str, version: str, type: str = "python-pkg") -> Package:
    return Package(name=name, version=version, type=type)


_PYTHON = (package("fastapi", "0.115.0"), package("ours", "1.0"), package("requests", "2.20.0"))
_DEBIAN = (package("openssl", "3.0.15-1~deb12u1", "debian"), package("tar", "2:1.34", "debian"))


def found(*packages: Package, findings: tuple[Finding, ...] = ()) -> Findings:
    return Findings(
        of=Scanned.IMAGE,
        subject="sha256:" + "a" * 64,
        scanner="trivy 0",
        database=Database(version=2, updated=datetime.now(UTC)),
        findings=findings,
        packages=packages,
    )


def vulnerability(id: str, package: str, fixed: str = "") -> Finding:
    return Finding(
        kind=Kind.VULNERABILITY, id=id, severity=Severity.HIGH, target="t", package=package, fixed=fixed
    )


class Programs:
    """pip-audit and apt-get as small scripts; each call leaves a line in `calls`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, name: str, script: str) -> None:
        program = self.folder / name
        program.write_text(f'#!/bin/sh\necho "{name} $@" >> {self.folder}/calls\n{script}\n')
        program.chmod(0o755)

    def calls(self, name: str) -> list[str]:
        lines = (self.folder / "calls").read_text().splitlines() if (self.folder / "calls").exists() else []
        return [line for line in lines if line.startswith(name)]


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Programs:
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("VA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(opinions, "_PIP_AUDIT", folder / "pip-audit")
    sources = tmp_path / "sources.list"
    sources.write_text(
        "deb http://deb.example/debian bookworm main\n"
        "deb http://deb.example/security bookworm-security main\n"
    )
    monkeypatch.setenv("VA_DEBIAN_SOURCES", str(sources))
    made = Programs(folder)
    (folder / "answer.json").write_text(json.dumps(_AUDIT))
    made.write("pip-audit", f"cp $2 {folder}/asked; cat {folder}/answer.json; exit 1")
    made.write("apt-get", ":")
    made.write("apt-cache", f"cat <<'END'\n{_CANDIDATES}END")
    return made


def ask(findings: Findings) -> tuple[Opinion, ...]:
    return asyncio.run(second_opinions(findings))


def test_both_sources_say_what_they_find_and_what_they_do_not_know(programs: Programs) -> None:
    python, debian = ask(found(*_PYTHON, *_DEBIAN))
    assert python.line == (
        "PyPI (pip-audit): PYSEC-2023-74 in requests 2.20.0 (fixed in 2.31.0);"
        " PYSEC-2018-28 in requests 2.20.0 (3 packages, 1 unknown to it)"
    )
    assert debian.line == (
        "Debian security (apt): a security update in openssl 3.0.15-1~deb12u1 (fixed in 3.0.17-1~deb12u3)"
        " (2 packages)"
    )
    assert (programs.folder / "asked").read_text() == "fastapi==0.115.0\nours==1.0\nrequests==2.20.0\n"


def test_names_that_are_none_reach_no_program(programs: Programs) -> None:
    evil = (
        package("--index-url=http://evil.example", "1.0"),
        package("-r /etc/passwd", "1"),
        package("x @ file:///etc/passwd", "1"),
        package("good\n--extra-index-url http://evil.example", "1"),
        package("good", "1.0 --hash=x"),
        package("good", "1\n-e /tmp/evil"),
    )
    odd = (
        package("-o=Dir::Bin::apt=/tmp/evil", "1.0", "debian"),
        package("--config-file=/etc/passwd", "1", "debian"),
        package("tar\nPackage: evil", "1", "debian"),
        package("tar", "1.34\nStatus: x", "debian"),
        package("", "1", "debian"),
    )

    python, debian = ask(found(*_PYTHON, *evil, *_DEBIAN, *odd))

    assert (programs.folder / "asked").read_text() == "fastapi==0.115.0\nours==1.0\nrequests==2.20.0\n"
    (call,) = programs.calls("apt-cache")
    assert call.endswith(" policy -- openssl tar")
    assert set(python.unknown) == {"ours", *(one.name for one in evil)} and not python.problem
    assert debian.unknown == tuple(one.name for one in odd) and not debian.problem


def test_an_image_of_such_names_alone_asks_nobody(programs: Programs) -> None:
    python, debian = ask(found(package("--help", "1"), package("--help", "1", "debian")))

    assert "no package has a name" in python.problem and "no package has a name" in debian.problem
    assert programs.calls("pip-audit") == [] and programs.calls("apt") == []


def test_what_the_scan_found_too_is_no_news(programs: Programs) -> None:
    by_alias = vulnerability("CVE-2023-32681", "requests")
    by_package = vulnerability("CVE-2026-1", "openssl", fixed="3.0.17")
    findings = found(*_PYTHON, *_DEBIAN, findings=(by_alias, by_package))
    python, debian = ask(findings)
    assert [one.id for one in python.news(findings)] == ["PYSEC-2018-28"]
    assert debian.news(findings) == ()
    assert [one.package for one in debian.news(found())] == ["openssl"]


def test_only_sources_that_know_such_packages_are_asked(programs: Programs) -> None:
    assert [one.source for one in ask(found(*_PYTHON))] == ["PyPI (pip-audit)"]
    assert ask(found(package("left-pad", "1.0", "node-pkg"))) == ()
    assert not programs.calls("apt-get")


@pytest.mark.parametrize(
    ("script", "what"),
    [
        ("echo 'ERROR: no route to host' >&2; exit 1", "no route to host"),
        ("exit 3", "ended with 3 and said nothing"),
        ("echo '<html>log in</html>'", "Expecting value"),
        ("echo '[]'", "list indices"),
        ('echo \'{"dependencies": [{"name": "x", "vulns": [{}]}]}\'', "id"),
        ("exec sleep 30", "did not finish within"),
        (None, "is not installed"),
        ('echo \'{"dependencies": [{"name": "x", "skip_reason": "not found"}]}\'', "knows none of the 3"),
        ("echo '{\"dependencies\": []}'", "knows none of the 3"),
    ],
)
def test_a_source_that_does_not_answer_has_not_answered_and_found_nothing(
    programs: Programs, monkeypatch: pytest.MonkeyPatch, script: str | None, what: str
) -> None:
    if script is None:
        (programs.folder / "pip-audit").unlink()
    else:
        programs.write("pip-audit", script)
    monkeypatch.setattr(opinions, "_SECONDS", 0.5 if script and "sleep" in script else 20)
    (opinion,) = ask(found(*_PYTHON))
    assert what in opinion.problem
    assert opinion.line.startswith("PyPI (pip-audit) did not answer: ")
    assert "nothing found" not in opinion.line and opinion.found == ()


def test_an_apt_that_cannot_reach_its_mirror_has_not_answered(
    programs: Programs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    programs.write("apt-get", "echo 'E: Failed to fetch http://deb.example/security' >&2; exit 100")
    (opinion,) = ask(found(*_DEBIAN))
    assert "Failed to fetch" in opinion.line
    programs.write("apt-get", ":")
    (opinion,) = ask(found(*_DEBIAN, package("curl", "8", "debian")))
    assert opinion.problem == "apt speaks of 2 of the 3 packages"
    (tmp_path / "sources.list").write_text("deb http://deb.example/debian bookworm main\n")
    (opinion,) = ask(found(_DEBIAN[0]))
    assert "no source for bookworm-security" in opinion.problem


def test_an_answer_is_kept_for_the_day_and_a_silence_for_a_while(programs: Programs, tmp_path: Path) -> None:
    first = ask(found(*_PYTHON))
    assert ask(found(*_PYTHON)) == first
    assert len(programs.calls("pip-audit")) == 1
    ask(found(*_PYTHON[:2]))
    assert len(programs.calls("pip-audit")) == 2

    programs.write("pip-audit", "exit 3")
    silent = found(package("silent", "1"))
    ask(silent)
    ask(silent)
    assert len(programs.calls("pip-audit")) == 3
    for file in (tmp_path / "cache" / "opinions").iterdir():
        os.utime(file, (file.stat().st_mtime - 1000,) * 2)
    ask(silent)
    ask(found(*_PYTHON))
    assert len(programs.calls("pip-audit")) == 4


def test_a_damaged_answer_is_asked_for_again(programs: Programs, tmp_path: Path) -> None:
    first = ask(found(*_PYTHON))
    (file,) = (tmp_path / "cache" / "opinions").iterdir()
    file.write_text('{"source":')
    assert ask(found(*_PYTHON)) == first
