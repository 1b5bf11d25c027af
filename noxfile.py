"""The sessions a person types: `./nox -s NAME` needs nothing but Python 3.11 and installs the rest.

All run in the one environment that `./nox` makes of the lock, .venv: none waits for one of its own, and none
compiles 30 MB of Azure's models again.

    ./nox -s demo      set this machine up and show the main job on it, act by act: build, test, scan,
                       publish, promote dev -> staging -> prod behind canary gates, with a kill -9 in the
                       middle; then a bad release that the gates catch; both are undone
    ./nox -s tests     the unit suite, then the end-to-end suite on the embedded platform
    ./nox -s lint      ruff, mypy --strict, import-linter, bandit, zizmor, actionlint, helm lint, kubeconform
    ./nox -s bench     the speed claims: ratios against a peer in the same run, or bounds
    ./nox -s ship      build, test, scan and publish: one release        (what follows -- goes to `va ship`)
    ./nox -s promote   move a release to its targets                    (what follows -- goes to `va promote`)

Tests take pytest's arguments: `./nox -s unit -- -k gates`. A session brings the tools that it needs: commands
of `va` and benches do so themselves, for pytest it is `va doctor --install`.
"""

from __future__ import annotations

import sys

import nox

nox.needs_version = ">=2025.2"
nox.options.default_venv_backend = "none"


@nox.session(default=False)
def demo(session: nox.Session) -> None:
    """Set this machine up and show the main job on it, act by act: a good release and a bad one."""
    session.run("va", "demo", *session.posargs, stderr=sys.stderr)


@nox.session(requires=["unit", "e2e"], default=False)
def tests(session: nox.Session) -> None:
    """Run the unit suite, then the end-to-end suite on the embedded platform."""
    session.log("unit and e2e passed")


@nox.session
def unit(session: nox.Session) -> None:
    """Run the unit suite: no network, no platform, some minutes."""
    session.run("va", "doctor", "--install", "git")
    chosen = ("-m", "not e2e and not conformance", "--ignore=tests/e2e", "--ignore=tests/helm")
    session.run("pytest", *chosen, "-n", "auto", "--dist", "worksteal", *session.posargs)


@nox.session(default=False)
def e2e(session: nox.Session) -> None:
    """Run the end-to-end suite; sets the embedded platform up where it is not."""
    session.run("va", "doctor", "--install")  # a test whose tool is missing is skipped, and shows nothing
    session.run("va", "up")
    session.run("pytest", "-m", "e2e", "-n", "2", "--dist", "loadfile", *session.posargs)


@nox.session(default=False)
def conformance(session: nox.Session) -> None:
    """Compare the embedded session with a real Dagger engine; under `dagger run`."""
    session.run("va", "doctor", "--install", "runc", "busybox", "buildah", "ip")
    session.run("pytest", "-m", "conformance", "tests/conformance", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, types, floors, workflows and the chart."""
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("mypy")
    session.run("lint-imports", "--no-logo")
    session.run("python", "docs/draw_floors.py", "--check")
    session.run(
        "bandit", "--quiet", "--recursive", "--configfile", "pyproject.toml", "ci", "pipelines", "images"
    )
    session.run("zizmor", "--offline", "--no-progress", ".github")
    session.run("va", "lint")


@nox.session(default=False)
def bench(session: nox.Session) -> None:
    """Measure the speed claims: ratios against a peer in the same run, or bounds."""
    session.run("python", "-m", "benches", *session.posargs)


@nox.session(default=False)
def ship(session: nox.Session) -> None:
    """Build, test, scan and publish: one release."""
    session.run("va", "ship", *session.posargs, stderr=sys.stderr)


@nox.session(default=False)
def promote(session: nox.Session) -> None:
    """Move a release to its targets, wave after wave, behind canary gates."""
    session.run("va", "promote", *session.posargs, stderr=sys.stderr)
