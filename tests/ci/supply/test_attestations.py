from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import pytest
from fake_registry import FakeRegistry
from oci import layer, write_image

from ci.errors import SystemUnavailable
from ci.registry import Bundle, Registry, artifact, open_archive, push
from ci.release import Chart, Commit, Image, Release, ScanSummary, TestSummary
from ci.supply import attestations
from ci.supply.attestations import Attestation, Kind, attached, provenance, release_bundle, sbom, scan_report

T = TypeVar("T")
_COMMIT = Commit(sha="c" * 40, dirty=True, time=datetime(2026, 1, 1, tzinfo=UTC))
_TESTS = TestSummary(passed=3, failed=0, skipped=1, coverage=88.0)


def run(work: Awaitable[T]) -> T:
    async def main() -> T:
        return await work

    return asyncio.run(main())


@pytest.fixture
def image(tmp_path: Path) -> Bundle:
    write_image(tmp_path / "image.tar", layer(a="1"))
    return open_archive(tmp_path / "image.tar")


def all_of(image: Bundle) -> list[Attestation]:
    return [
        sbom(b'{"bomFormat": "CycloneDX"}'),
        scan_report(b'{"findings": []}'),
        provenance(
            name="api",
            digest=image.digest,
            commit=_COMMIT,
            engine="embedded",
            options={"fault": None},
            builder="urn:x:y",
        ),
        attestations.tests(name="api", digest=image.digest, summary=_TESTS),
    ]


def registry(server: FakeRegistry) -> Registry:
    return Registry("127.0.0.1:5999", transport=server)


@pytest.mark.parametrize("has_api", [False, True])
def test_what_is_attached_is_found_by_the_images_digest_alone(image: Bundle, has_api: bool) -> None:
    server = FakeRegistry(has_referrers=has_api)

    async def main() -> dict[Kind, Attestation]:
        async with registry(server) as client:
            await push(client, "api", image)
            for one in all_of(image):
                await push(client, "api", one.bundle(image.root.descriptor))
            foreign = artifact(artifact_type="x/y", layers=(), subject=image.root.descriptor)
            await push(client, "api", foreign)
            return await attached(client, "api", image.digest)

    found = run(main())
    assert found == {one.kind: one for one in all_of(image)}


def test_provenance_says_commit_options_builder_and_that_the_tree_was_dirty(image: Bundle) -> None:
    statement = json.loads(all_of(image)[2].content)
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["subject"] == [{"name": "api", "digest": {"sha256": image.digest[7:]}}]
    assert statement["predicateType"] == "https://slsa.dev/provenance/v1"
    definition = statement["predicate"]["buildDefinition"]
    assert definition["externalParameters"]["uncommittedChanges"] is True
    assert definition["resolvedDependencies"] == [{"digest": {"gitCommit": "c" * 40}}]
    assert statement["predicate"]["runDetails"]["builder"]["id"] == "urn:x:y"


@pytest.mark.parametrize(
    ("passed", "failed", "result"), [(3, 0, "PASSED"), (3, 1, "FAILED"), (0, 0, "FAILED")]
)
def test_the_test_result_is_passed_only_when_tests_ran_and_passed(
    passed: int, failed: int, result: str
) -> None:
    said = attestations.tests(
        name="a", digest="sha256:ab", summary=TestSummary(passed=passed, failed=failed, skipped=0)
    )
    assert json.loads(said.content)["predicate"]["result"] == result


def test_the_same_facts_give_the_same_bytes(image: Bundle) -> None:
    subject = image.root.descriptor
    assert [one.bundle(subject).digest for one in all_of(image)] == [
        one.bundle(subject).digest for one in all_of(image)
    ]


def test_a_list_of_referrers_that_lies_is_not_believed(image: Bundle, tmp_path: Path) -> None:
    server = FakeRegistry()
    write_image(tmp_path / "other.tar", layer(b="2"))
    other = open_archive(tmp_path / "other.tar")

    async def main() -> None:
        async with registry(server) as client:
            await push(client, "api", image)
            await push(client, "api", other)
            await push(client, "api", sbom(b"{}").bundle(other.root.descriptor))
            # Someone points the image's list of referrers at what was said of another image.
            tags = server.manifests
            tags["api", image.digest.replace(":", "-")] = tags["api", other.digest.replace(":", "-")]
            await attached(client, "api", image.digest)

    with pytest.raises(SystemUnavailable, match="says of itself that it is not"):
        run(main())


def test_the_release_is_an_artifact_whose_digest_is_of_its_content() -> None:
    scan = ScanSummary(vulnerabilities=None, misconfigurations={}, secrets=0, licences={}, packages=0)
    image = Image(name="api", digest="sha256:" + "a" * 64, size=1, tests=_TESTS, scan=scan)

    def make(**more: Any) -> Release:
        return Release(
            name="r1",
            created=datetime(2026, 1, 1, tzinfo=UTC),
            commit=_COMMIT,
            engine="embedded",
            images=(image,),
            chart=Chart(name="chart", version="1.0.0", digest="sha256:" + "b" * 64),
        ).model_copy(update=more)

    bundle = release_bundle(make())
    assert Release.model_validate_json(bundle.blobs[-1].read()) == make()
    assert bundle.root.artifact_type == attestations.RELEASE_TYPE
    assert release_bundle(make()).digest == bundle.digest
    assert release_bundle(make(engine="other")).digest != bundle.digest
