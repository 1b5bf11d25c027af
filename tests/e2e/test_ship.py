"""Ship for real: the embedded engine, the api's image and tests, Trivy, and a registry of this test's own."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from real_registry import free_port, registry_on
from vulnerability_database import debian_advisory, made_of, python_advisory

from ci import engine, places, tools
from ci.errors import PolicyBlocked, StepFailed, ToolMissing
from ci.registry import Registry, push
from ci.reporting import SilentReporter
from ci.supply.attestations import attached
from ci.supply.availability import State, prove
from ci.supply.signing import KeyPair, key_signer, make_key_pair
from pipelines.images import IMAGES
from pipelines.registries import EstateRegistries
from pipelines.ship import Shipped, ship

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(os.geteuid() != 0, reason="the embedded engine needs root"),
]
_API = next(image for image in IMAGES if image.name == "fastapi-backend")


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clone of this checkout, to be broken."""
    try:
        for name in ("trivy", "helm", "buildah", "docker-registry", "cosign"):
            tools.path(name)
    except ToolMissing as missing:
        pytest.skip(str(missing))
    root = tmp_path / "checkout"
    subprocess.run(["git", "clone", "--quiet", places.checkout(), root], check=True)
    monkeypatch.setattr(places, "checkout", lambda: root)
    monkeypatch.setenv("VA_STATE", str(tmp_path / "state"))
    return root


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    with registry_on(tmp_path / "registry", free_port()) as found:
        yield found


async def ship_api(address: str, reports: Path) -> Shipped:
    async with (
        engine.session(SilentReporter()) as (client, name),
        Registry(address) as registry,
    ):
        pair = KeyPair(folder=reports.parent / "signing")
        await make_key_pair(pair, cosign=tools.path("cosign"))
        return await ship(
            client,
            engine=name,
            registries=EstateRegistries(home=registry, regions={"eastus": registry}),
            signer=key_signer(pair),
            reporter=SilentReporter(),
            reports=reports,
            images=[_API],
        )


async def pushed(address: str) -> bool:
    async with Registry(address) as registry:
        return bool(await registry.tags(_API.name) or await registry.tags("releases"))


def test_a_release_is_made_and_made_again_from_what_is_there(
    checkout: Path, address: str, tmp_path: Path
) -> None:
    first = asyncio.run(ship_api(address, tmp_path / "reports"))
    (image,) = first.release.images
    assert image.tests.passed > 10 and image.tests.failed == 0 and image.tests.coverage
    assert image.scan.packages > 50 and image.scan.vulnerabilities is None
    assert not first.release.commit.dirty and first.release.engine

    async def look() -> None:
        async with Registry(address) as registry:
            assert (await prove(registry, first.release)).state is State.THERE
            assert len(await attached(registry, image.name, image.digest)) == 4

    asyncio.run(look())
    for name in ("junit.xml", "coverage.xml", "sbom.cdx.json", "findings.sarif", "trivy.json"):
        assert (tmp_path / "reports" / image.name / name).is_file()

    again = asyncio.run(ship_api(address, tmp_path / "reports"))
    assert again.release == first.release
    assert again.built[0].unchanged and again.tested[0].cached and again.scanned[0].cached
    assert sum(one.bytes_sent for one in again.published) == 0
    assert not any(one.cached for one in first.signed) and all(one.cached for one in again.signed)


def test_what_a_database_knows_of_our_own_image_stops_its_release(
    checkout: Path, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    try:
        known = made_of(
            [
                debian_advisory("CVE-2026-90001", "HIGH", "glibc", "99"),
                python_advisory("CVE-2026-90002", "CRITICAL", "fastapi", ">=0.1", "999"),
                debian_advisory("CVE-2026-90003", "CRITICAL", "openssl", ""),
            ],
            tmp_path / "database",
        )
    except ToolMissing as missing:
        pytest.skip(str(missing))

    async def offer() -> None:
        async with Registry(address) as registry:
            await push(registry, "mirror/trivy-db", known, tags=["2"])

    asyncio.run(offer())
    monkeypatch.setenv("VA_DATABASE", f"{address}/mirror/trivy-db:2")
    with pytest.raises(PolicyBlocked) as caught:
        asyncio.run(ship_api(address, tmp_path / "reports"))
    said = str(caught.value)
    assert "CVE-2026-90001 in libc6" in said and "CVE-2026-90002 in fastapi" in said
    assert "CVE-2026-90003" not in said  # nobody has mended it
    assert not asyncio.run(pushed(address))

    policy = checkout / "policy.yaml"
    text = policy.read_text()
    for expires, passes in (("2026-01-01", False), ("2999-01-01", True)):
        allow = "".join(
            f"\n  - {{id: {id}, owner: me, reason: to see it pass, expires: {expires}}}"
            for id in ("CVE-2026-90001", "CVE-2026-90002")
        )
        policy.write_text(text.replace("\nallow:", f"\nallow:{allow}"))
        if passes:
            (image,) = asyncio.run(ship_api(address, tmp_path / "reports")).release.images
            found = image.scan.vulnerabilities
            assert found and found["CRITICAL"] >= 2 and found["HIGH"] >= 1
        else:
            with pytest.raises(PolicyBlocked, match="ran out on 2026-01-01"):
                asyncio.run(ship_api(address, tmp_path / "reports"))


def test_a_failing_test_is_named_with_its_place_and_nothing_is_pushed(
    checkout: Path, address: str, tmp_path: Path
) -> None:
    (checkout / _API.folder / "tests" / "test_broken.py").write_text(
        "def test_that_fails() -> None:\n    assert 1 + 1 == 3, 'arithmetic'\n"
    )
    with pytest.raises(StepFailed) as caught:
        asyncio.run(ship_api(address, tmp_path / "reports"))
    assert "1 test of fastapi-backend failed" in str(caught.value)
    assert "test_broken::test_that_fails (tests/test_broken.py:2): AssertionError: arithmetic" in str(
        caught.value
    )
    assert not asyncio.run(pushed(address))


def test_a_failing_build_step_shows_what_it_printed(checkout: Path, address: str, tmp_path: Path) -> None:
    locked = checkout / _API.folder / "requirements" / "runtime.txt"
    locked.write_text(locked.read_text() + "\nno-such-package==1.0 --hash=sha256:" + "0" * 64 + "\n")
    with pytest.raises(StepFailed) as caught:
        asyncio.run(ship_api(address, tmp_path / "reports"))
    assert "fastapi-backend" in str(caught.value) and "no-such-package" in str(caught.value)
    assert not asyncio.run(pushed(address))
