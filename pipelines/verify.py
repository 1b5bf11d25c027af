"""Verify a release where it would be pulled from: who signed it, and whether it proves what is asked of it.

Nothing is believed that was not read from that registry now, by digest: the release's own artifact, which
names all the rest, its signature, those of images and chart, and the documents attached to the images. An
environment may run LiveKit's server beside: its image is in no release, and its signature is verified too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from ci import dates, places
from ci.concurrency import both, together
from ci.environments import Environment, Trust
from ci.environments.chart_values import declared_values
from ci.errors import PipelineError, PolicyBlocked
from ci.layout import Column, Page, Table, page, words
from ci.registry import Registry, parse_reference, registry_at
from ci.release import Release
from ci.scan import Policy, read_policy
from ci.supply.attestations import RELEASES, named, release_bundle
from ci.supply.keyless import Claims
from ci.supply.signing import signature_of
from ci.supply.verification import Check, checks

__all__ = ["Verification", "Verified", "show_verification", "verify"]

_CHART, _RELEASE, _SIGNATURE = "chart", "release", "signature"
_SHOWN = 8


@dataclass(frozen=True, kw_only=True)
class Verified:
    """What one registry proves of a release, to the environments that pull from it and trust the same."""

    endpoint: str
    environments: tuple[str, ...]
    checks: tuple[Check, ...]


@dataclass(frozen=True, kw_only=True)
class Verification:
    """All of it; `error` says what refuses the release."""

    release: str
    digest: str
    places: tuple[Verified, ...]

    @property
    def error(self) -> PipelineError | None:
        grouped: dict[str, list[str]] = {}
        for place in self.places:
            unsigned = {check.subject for check in place.checks if check.what == _SIGNATURE and check.reason}
            for check in place.checks:
                # What is attached to something that nobody signed says nothing.
                if check.passes or (check.what != _SIGNATURE and check.subject in unsigned):
                    continue
                line = f"{_subject(check)}: {check.reason.replace(f'{place.endpoint}/', '')}"
                grouped.setdefault(line, []).append(place.endpoint)
        if not grouped:
            return None
        lines = [f"  {line} ({', '.join(dict.fromkeys(where))})" for line, where in grouped.items()]
        shown = lines[:_SHOWN]
        if len(lines) > _SHOWN:
            shown.append(f"  and {len(lines) - _SHOWN} more")
        return PolicyBlocked(
            "\n".join([f"the release {self.release} is refused:", *shown]),
            hint="nothing was touched; va ship makes, scans and signs a release that can be promoted",
        )


async def verify(release: Release, environments: Sequence[Environment]) -> Verification:
    """Verify a release in every registry that these environments pull from, by what each of them asks.

    All questions are asked at once. What refuses it is in the result; SystemUnavailable when a registry does
    not answer or sends bytes that are not those of their digest.
    """
    policy = read_policy(places.checkout() / "policy.yaml")
    today = dates.today()
    wanted: dict[tuple[str, str], tuple[Trust, list[str], set[str]]] = {}
    for environment in environments:
        for target in environment.targets.values():
            key = (target.registry, environment.trust.model_dump_json())
            _, names, others = wanted.setdefault(key, (environment.trust, [], set()))
            if environment.name not in names:
                names.append(environment.name)
            others.update(_livekit(environment))

    async def one(endpoint: str, trust: Trust, names: Sequence[str], others: set[str]) -> Verified:
        async with registry_at(endpoint) as registry:
            found = await _verify(registry, release, sorted(others), trust, policy, today)
        return Verified(endpoint=endpoint, environments=tuple(names), checks=tuple(found))

    found = await together(one(endpoint, *asked) for (endpoint, _), asked in sorted(wanted.items()))
    return Verification(release=release.name, digest=release_bundle(release).digest, places=tuple(found))


def _livekit(environment: Environment) -> list[str]:
    """The image of LiveKit's server that the environment's values name; none where it runs none of ours."""
    named = set()
    for target in environment.targets.values():
        values: Any = declared_values(environment, target)
        server = values.get("livekit", {}).get("server", {})
        image = server.get("image") or {}
        if server.get("enabled") and image:
            named.add(f"{image.get('repository', '')}@{image.get('digest', '')}")
    return sorted(named)


async def _verify(
    registry: Registry, release: Release, others: Sequence[str], trust: Trust, policy: Policy, today: date
) -> list[Check]:
    async def signed(subject: str, repository: str, digest: str) -> tuple[Check, Claims | None]:
        """The artifact itself is fetched too, and its bytes are checked."""

        def refused(reason: str) -> tuple[Check, None]:
            return Check(subject=subject, what=_SIGNATURE, reason=reason), None

        if await registry.find_manifest(repository, digest) is None:
            return refused(_lost(registry, subject, repository, digest))
        try:
            found = await signature_of(registry, repository, digest, trust.signers)
        except PolicyBlocked as error:
            return refused(error.message)
        return Check(subject=subject, what=_SIGNATURE, said=f"by {found.who}"), found.claims

    async def other(image: str) -> tuple[Check, Claims | None]:
        reference = parse_reference(image)
        if reference.digest is None or reference.registry != registry.endpoint:
            reason = f"{image} is not named by digest in this registry"
            return Check(subject=reference.repository, what=_SIGNATURE, reason=reason), None
        return await signed(reference.repository, reference.repository, reference.digest)

    signatures, documents = await both(
        together(
            [
                signed(_RELEASE, RELEASES, release_bundle(release).digest),
                signed(_CHART, release.chart.name, release.chart.digest),
                *(signed(image.name, image.name, image.digest) for image in release.images),
                *(other(image) for image in others),
            ]
        ),
        together(named(registry, image) for image in release.images),
    )
    (_, claims), *_ = signatures  # of who signed the release, which names all the documents
    found = [check for check, _ in signatures]
    for image, attached in zip(release.images, documents, strict=True):
        found += checks(release, image, attached, trust=trust, policy=policy, today=today, claims=claims)
    return found


def _lost(registry: Registry, subject: str, repository: str, digest: str) -> str:
    lost = f"{registry.endpoint}/{repository}@{digest} is not there"
    if subject == _RELEASE:
        return f"{lost}: it was not published there, or its file was altered since"
    return lost


def _subject(check: Check) -> str:
    the = "the " if check.subject in (_CHART, _RELEASE) else ""
    return f"{check.what} of {the}{check.subject}"


def show_verification(result: Verification) -> Page:
    """A line for each check and a column for each registry, for people."""
    # Who signed is never cut: the end of an identity tells main from a branch.
    table = Table(
        "subject",
        "check",
        *(Column(name=place.endpoint, rank=1, below=True) for place in result.places),
        Column(name="what it says", rank=2, below=True, prose=True),
    )
    rows: dict[tuple[str, str], list[Check]] = {}
    for place in result.places:
        for check in place.checks:
            rows.setdefault((check.subject, check.what), []).append(check)
    for (subject, what), found in rows.items():
        says = next((check.said for check in found if check.passes), "-")
        marks = [("✓", "green") if check.passes else ("✗ refused", "red") for check in found]
        table.add(subject, what, *marks, says)
    verdict = ("refused", "bold red") if result.error else ("verified in every registry", "green")
    return page(words((result.release, "bold"), f"  {result.digest}"), table, verdict)
