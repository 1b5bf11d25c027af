"""What an environment asks of a release before anything of it runs there, and whether the release proves it.

`checks` are pure: a release, what its registry has attached to each image, and what is asked give a list of
checks, each with its reason when it fails. Provenance says who built; where the release was signed by a
certificate, that has the word of the one who issued it, and the two have to agree. Who signed is for
`ci.supply.signing`; what a scan may find is for the scan policy, applied again with today's date, so that an
allowance that ran out since then blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from fnmatch import fnmatchcase
from typing import Any

from pydantic import BaseModel, Field, ValidationError
from pydantic.alias_generators import to_camel
from pydantic_core import from_json

from ci.actions import run_of
from ci.complaints import in_words
from ci.environments import Trust
from ci.release import Image, Release
from ci.scan import Findings, Policy, judge
from ci.supply.attestations import Attestation, Kind
from ci.supply.keyless import Claims

__all__ = ["Check", "checks"]

_SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that was asked of a release. `reason` says why it is refused; empty when it is not."""

    subject: str
    """An image's name, `chart` or `release`."""
    what: str
    """`signature`, or the kind of an attestation."""
    said: str = ""
    """What was found, in a few words."""
    reason: str = ""

    @property
    def passes(self) -> bool:
        return not self.reason


def checks(
    release: Release,
    image: Image,
    attached: Mapping[Kind, Attestation],
    *,
    trust: Trust,
    policy: Policy,
    today: date,
    claims: Claims | None = None,
) -> list[Check]:
    """What is attached to one image, kind by kind: the documents whose digests the release names.

    `claims` are those of the certificate that signed the release; None when a key did.
    """
    work: dict[Kind, Callable[[bytes], str]] = {
        Kind.PROVENANCE: lambda content: _provenance(content, release, image, trust, claims),
        Kind.TESTS: lambda content: _tests(content, image),
        Kind.SCAN: lambda content: _scan(content, image, policy, today),
        Kind.SBOM: lambda content: _sbom(content),
    }
    found = []
    for kind, look in work.items():
        document = attached.get(kind)
        if document is None:
            named = image.attestations.get(kind)
            lost = f"the registry lacks {named}, which the release names" if named else _ABSENT[kind]
            found.append(Check(subject=image.name, what=kind, reason=lost))
            continue
        try:
            said = look(document.content)
        except _Refused as refused:
            found.append(Check(subject=image.name, what=kind, reason=str(refused)))
        except ValueError as error:
            why = in_words(error) if isinstance(error, ValidationError) else str(error)
            found.append(Check(subject=image.name, what=kind, reason=f"it cannot be read: {why}"))
        else:
            found.append(Check(subject=image.name, what=kind, said=said))
    return found


_ABSENT = {
    Kind.PROVENANCE: "nothing says what it was built from",
    Kind.TESTS: "nothing says that its tests passed",
    Kind.SCAN: "it was not scanned",
    Kind.SBOM: "nothing says what is in it",
}


class _Refused(Exception):
    """A document that says what is not wanted."""


class _Subject(BaseModel):
    digest: dict[str, str]


class _Statement(BaseModel):
    subject: tuple[_Subject, ...]
    predicate_type: str = Field(alias="predicateType")
    predicate: dict[str, Any]


class _Camel(BaseModel, alias_generator=to_camel):
    pass


class _Source(_Camel):
    digest: dict[str, str]
    uri: str = ""


class _Parameters(_Camel):
    source: _Source
    uncommitted_changes: bool


class _Internal(_Camel):
    runner: str = ""


class _Definition(_Camel):
    external_parameters: _Parameters
    internal_parameters: _Internal = _Internal()


class _Builder(_Camel):
    id: str


class _Metadata(_Camel):
    invocation_id: str = ""


class _Run(_Camel):
    builder: _Builder
    metadata: _Metadata = _Metadata()


class _Provenance(_Camel):
    build_definition: _Definition
    run_details: _Run


def _statement(content: bytes, image: Image, predicate_type: str) -> Mapping[str, Any]:
    statement = _Statement.model_validate_json(content)
    if statement.predicate_type != predicate_type:
        raise _Refused(f"it is a {statement.predicate_type}, not a {predicate_type}")
    if not any(f"sha256:{one.digest.get('sha256')}" == image.digest for one in statement.subject):
        raise _Refused("it is about another image")
    return statement.predicate


def _provenance(content: bytes, release: Release, image: Image, trust: Trust, claims: Claims | None) -> str:
    predicate = _statement(content, image, "https://slsa.dev/provenance/v1")
    said = _Provenance.model_validate(predicate)
    builder = said.run_details.builder.id
    parameters = said.build_definition.external_parameters
    commit = parameters.source.digest.get("gitCommit")
    if not any(fnmatchcase(builder, pattern) for pattern in trust.builders):
        raise _Refused(f"it was built by {builder}; trusted are {', '.join(trust.builders)}")
    if commit != release.commit.sha:
        raise _Refused(f"it was built of commit {commit}, not of {release.commit.sha}")
    if parameters.uncommitted_changes and not trust.uncommitted_changes:
        raise _Refused("it was built with uncommitted changes")
    if claims is not None:
        _agrees(said, claims)
    return f"commit {release.commit.sha[:12]} by {builder}"


def _agrees(said: _Provenance, claims: Claims) -> None:
    """Returns when the certificate that signed the release says the same of builder, source and run."""
    builder = said.run_details.builder.id
    source = said.build_definition.external_parameters.source
    run = said.run_details.metadata.invocation_id
    if not claims.signer and "://" in builder:
        raise _Refused(f"it claims to be built by {builder}, and the certificate names no workflow")
    ref = builder.rpartition("@")[2] if "@" in builder else ""
    # What the issuer knows has to be what the document says; what it says nothing of proves nothing.
    for what, stated, known in (
        ("builder", builder, claims.signer),
        ("repository", source.uri.removeprefix("git+"), claims.repository),
        ("commit", source.digest.get("gitCommit", ""), claims.commit),
        ("ref", ref, claims.ref),
        ("run", run_of(run), run_of(claims.run)),
        ("runner", said.build_definition.internal_parameters.runner, claims.runner),
    ):
        if stated and known and stated != known:
            raise _Refused(f"its {what} is {stated}; the certificate that signed the release says {known}")


def _tests(content: bytes, image: Image) -> str:
    predicate = _statement(content, image, "https://in-toto.io/attestation/test-result/v0.1")
    if predicate.get("result") != "PASSED":
        raise _Refused(f"its tests: {predicate.get('result', 'no result')}")
    counts = predicate.get("counts")
    passed = counts.get("passed") if isinstance(counts, dict) else None
    return f"{passed} passed" if passed else "passed"


def _scan(content: bytes, image: Image, policy: Policy, today: date) -> str:
    findings = Findings.model_validate_json(content)
    if findings.subject != image.digest:
        raise _Refused("it is about another image")
    verdict = judge(findings, policy, name=image.name, today=today)
    if not verdict.passes:
        reasons = [
            *verdict.complaints,
            *(f"{one.severity} {one.kind} {one.name}" for one in verdict.blocking),
        ]
        reasons += [f"the entry for {one.id} ran out on {one.expires}" for one in verdict.expired]
        raise _Refused("the scan policy refuses it: " + "; ".join(_shortened(reasons)))
    allowed = f", {len(verdict.allowed)} allowed" if verdict.allowed else ""
    vulnerabilities = "" if findings.database else ", vulnerabilities were not looked for"
    return f"passes{allowed}{vulnerabilities}"


def _sbom(content: bytes) -> str:
    document = from_json(content)  # of any depth: json's own reader would run out of stack
    if not isinstance(document, dict) or document.get("bomFormat") != "CycloneDX":
        raise _Refused("it is no CycloneDX document")
    components = document.get("components") or ()
    return f"{len(components)} components"


def _shortened(reasons: list[str]) -> Iterator[str]:
    yield from reasons[:_SHOWN]
    if len(reasons) > _SHOWN:
        yield f"and {len(reasons) - _SHOWN} more"
