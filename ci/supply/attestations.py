"""What a release says of each image, as OCI artifacts attached to it: SBOM, scan report, provenance, tests.

Each is a referrer (OCI 1.1 `subject`) in the image's own repository, so whoever has the image's digest finds
them without asking us. Provenance and tests are in-toto statements: SLSA v1, and in-toto's test-result v0.1.
None holds a time or a host's name: what is built twice is attested by the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from ci.concurrency import together
from ci.errors import SystemUnavailable
from ci.registry import Bundle, Descriptor, Registry, Unusable, artifact
from ci.release import Commit, Image, Release, TestSummary

__all__ = [
    "RELEASES",
    "RELEASE_TYPE",
    "Attestation",
    "Kind",
    "attached",
    "named",
    "provenance",
    "release_bundle",
    "sbom",
    "scan_report",
    "tests",
]

RELEASES = "releases"
"""The repository of the releases themselves."""
RELEASE_TYPE = "application/vnd.voice-assistant.release.v1+json"
_LARGEST = 32 * 2**20
"""Bytes of a document: an image of thousands of packages has a list of some megabytes."""
_IN_TOTO = "application/vnd.in-toto+json"
_STATEMENT = "https://in-toto.io/Statement/v1"
_KIND_ANNOTATION = "dev.va.attestation"
_PREDICATE_ANNOTATION = "in-toto.io/predicate-type"
_BUILD_TYPE = "https://github.com/voice-assistant/pipelines/ship@v2"


class Kind(StrEnum):
    """The kinds of attestation; the value is how a Release names it."""

    SBOM = "sbom"
    SCAN = "scan"
    PROVENANCE = "provenance"
    TESTS = "tests"


@dataclass(frozen=True, kw_only=True)
class Attestation:
    """One document about an image. `type` is its media type, `predicate` that of an in-toto statement."""

    kind: Kind
    type: str
    content: bytes
    predicate: str = ""

    def bundle(self, subject: Descriptor) -> Bundle:
        """The artifact that attaches it to `subject`."""
        annotations = {_PREDICATE_ANNOTATION: self.predicate} if self.predicate else {}
        return artifact(
            artifact_type=self.type,
            layers=((self.type, self.content, annotations),),
            subject=subject,
            annotations={_KIND_ANNOTATION: self.kind.value, **annotations},
        )


def sbom(document: bytes) -> Attestation:
    """The packages of the image, as CycloneDX."""
    return Attestation(kind=Kind.SBOM, type="application/vnd.cyclonedx+json", content=document)


def scan_report(document: bytes) -> Attestation:
    """The scanner's findings, in the form that `ci.scan` reads back."""
    return Attestation(kind=Kind.SCAN, type="application/vnd.voice-assistant.scan.v1+json", content=document)


def provenance(
    *,
    name: str,
    digest: str,
    commit: Commit,
    engine: str,
    options: Mapping[str, Any],
    builder: str,
    repository: str | None = None,
    runner: str = "",
    made: Mapping[str, Any] | None = None,
    handover: str = "",
) -> Attestation:
    """SLSA v1 provenance: which commit of which repository the image was built from, how, and by what.

    `builder` is a URI: who says this, and signs it, on a `runner` of a kind. `made` is what it was told of
    the job that built, tested and scanned, by the manifest with the digest `handover`: those are that job's
    claims, and its `run` is the invocation. A dirty work tree is said to be one: its commit alone does not
    make this image.
    """
    source: dict[str, Any] = {"digest": {"gitCommit": commit.sha}}
    if repository:
        source["uri"] = f"git+{repository}"
    materials: list[dict[str, Any]] = [source]
    run: dict[str, Any] = {"builder": {"id": builder}}
    internal: dict[str, Any] = {"engine": engine}
    if runner:
        internal["runner"] = runner
    if made is not None:
        algorithm, _, value = handover.partition(":")
        materials.append({"name": "manifest.json", "digest": {algorithm: value}})
        internal["made"] = dict(made)
        if made.get("run"):
            run["metadata"] = {"invocationId": made["run"]}
    predicate: dict[str, Any] = {
        "buildDefinition": {
            "buildType": _BUILD_TYPE,
            "externalParameters": {
                "source": source,
                "uncommittedChanges": commit.dirty,
                "image": name,
                **options,
            },
            "internalParameters": internal,
            "resolvedDependencies": materials,
        },
        "runDetails": run,
    }
    return _statement(Kind.PROVENANCE, "https://slsa.dev/provenance/v1", predicate, name, digest)


def tests(*, name: str, digest: str, summary: TestSummary) -> Attestation:
    """The outcome of the image's own tests, run in a container of its test stage."""
    predicate: dict[str, Any] = {
        "result": "PASSED" if summary.passed and not summary.failed else "FAILED",
        "configuration": [],
        "counts": summary.model_dump(),
    }
    return _statement(Kind.TESTS, "https://in-toto.io/attestation/test-result/v0.1", predicate, name, digest)


def release_bundle(release: Release) -> Bundle:
    """The release itself as an artifact; its digest is the release's identity everywhere."""
    content = release.model_dump_json().encode()
    return artifact(
        artifact_type=RELEASE_TYPE,
        layers=((RELEASE_TYPE, content, {"org.opencontainers.image.title": f"{release.name}.json"}),),
        annotations={
            "org.opencontainers.image.revision": release.commit.sha,
            "org.opencontainers.image.version": release.name,
        },
    )


async def attached(registry: Registry, repository: str, digest: str) -> dict[Kind, Attestation]:
    """What is attached to an image in that registry, every byte checked against its digest.

    Referrers of other people are left out. SystemUnavailable when the registry lists one that is not its.
    """
    found: dict[Kind, Attestation] = {}
    for descriptor in await registry.referrers(repository, digest):
        try:
            manifest = await registry.manifest(repository, descriptor.digest)
        except Unusable:
            continue
        kind = manifest.annotations.get(_KIND_ANNOTATION, "")
        if kind not in list(Kind) or len(manifest.layers) != 1:
            continue
        if manifest.subject is None or manifest.subject.digest != digest:
            raise SystemUnavailable(
                f"{registry.endpoint}/{repository}: {descriptor.digest} is listed as attached to {digest}, "
                "but says of itself that it is not",
                hint="that list of referrers is wrong: trust nothing on it, find out why, and publish again",
            )
        (layer,) = manifest.layers
        found[Kind(kind)] = Attestation(
            kind=Kind(kind),
            type=layer.media_type,
            content=await registry.blob(repository, layer, most=_LARGEST),
            predicate=manifest.annotations.get(_PREDICATE_ANNOTATION, ""),
        )
    return found


async def named(registry: Registry, image: Image) -> dict[Kind, Attestation]:
    """What a release names as attached to an image, by those digests and nothing else.

    What that registry has not got, does not list as attached, or has attached to something else, is left out.
    """
    listed = {one.digest for one in await registry.referrers(image.name, image.digest)}

    async def one(kind: str, digest: str) -> Attestation | None:
        manifest = await registry.find_manifest(image.name, digest) if digest in listed else None
        if manifest is None or len(manifest.layers) != 1:
            return None
        if manifest.subject is None or manifest.subject.digest != image.digest:
            return None
        (layer,) = manifest.layers
        if await registry.blob_size(image.name, layer.digest) is None:
            return None
        return Attestation(
            kind=Kind(kind),
            type=layer.media_type,
            content=await registry.blob(image.name, layer, most=_LARGEST),
            predicate=manifest.annotations.get(_PREDICATE_ANNOTATION, ""),
        )

    known = [(kind, digest) for kind, digest in image.attestations.items() if kind in list(Kind)]
    found = await together(one(kind, digest) for kind, digest in known)
    return {document.kind: document for document in found if document is not None}


def _statement(kind: Kind, predicate_type: str, predicate: object, name: str, digest: str) -> Attestation:
    algorithm, _, value = digest.partition(":")
    statement = {
        "_type": _STATEMENT,
        "subject": [{"name": name, "digest": {algorithm: value}}],
        "predicateType": predicate_type,
        "predicate": predicate,
    }
    content = json.dumps(statement, sort_keys=True, separators=(",", ":")).encode()
    return Attestation(kind=kind, type=_IN_TOTO, content=content, predicate=predicate_type)
