"""Sign a published release: each image, the chart, and last the release itself, in the home registry."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ci import platform, tools
from ci.concurrency import together
from ci.environments import TrustedSigner, read_environments
from ci.errors import BadInput, PolicyBlocked
from ci.registry import Bundle, Registry, push
from ci.release import Release
from ci.reporting import Reporter
from ci.supply.attestations import RELEASES, release_bundle
from ci.supply.signing import (
    KeyPair,
    Signer,
    key_signer,
    keyless_signer,
    kms_signer,
    sign,
    signature,
    signature_of,
)

__all__ = ["Signed", "sign_at_home", "sign_release", "signer_of"]


@dataclass(frozen=True, kw_only=True)
class Signed:
    """One signature: `digest` is that of the artifact that holds it."""

    name: str
    subject: str
    digest: str
    by: str
    cached: bool


async def signer_of(setting: str, estate: str, trusted: Sequence[TrustedSigner] = ()) -> Signer:
    """Who signs what that estate gets: `local` (the key that `va up` makes), `azurekms://<vault>/<key>`, or
    `keyless`, by the public Sigstore or by the one of a signing configuration (`keyless:<file>`).

    Who signs keyless is one of those that are `trusted`, or else that the estate's environments trust.
    """
    if setting == "local":
        return key_signer(KeyPair(folder=platform.addresses().signing))
    if setting == "keyless" or setting.startswith("keyless:"):
        trusted = trusted or [one for each in read_environments(estate) for one in each.trust.signers]
        services = Path(setting.removeprefix("keyless:")) if ":" in setting else None
        return keyless_signer(trusted, services=services)
    if setting.startswith("azurekms://"):
        return await kms_signer(setting, cosign=tools.path("cosign"))
    raise BadInput(
        f"{setting!r} is nothing to sign with",
        hint="local, keyless, keyless:<signing config>, or azurekms://<vault>.vault.azure.net/<key>",
    )


async def sign_release(
    home: Registry, release: Release, *, signer: Signer, reporter: Reporter
) -> tuple[Signed, ...]:
    """Have all that a release names, and the release, signed by that signer in the home registry.

    What is signed there is not signed again. The release's own signature goes last, so that a registry that
    has it has all of them. Replication brings them to the other regions.
    """

    async def one(name: str, digest: str) -> Signed:
        with reporter.step(f"sign {name}") as step:
            held, cached = await sign_at_home(home, name, digest, signer=signer, say=step.say)
            if cached:
                step.cached("signed before")
            return Signed(
                name=name, subject=digest, digest=held.digest, by=str(signer.verified_by), cached=cached
            )

    subjects = [(image.name, image.digest) for image in release.images]
    signed = await together(
        one(*subject) for subject in [*subjects, (release.chart.name, release.chart.digest)]
    )
    return (*signed, await one(RELEASES, release_bundle(release).digest))


async def sign_at_home(
    home: Registry, name: str, digest: str, *, signer: Signer, say: Callable[[str], None]
) -> tuple[Bundle, bool]:
    """Have an artifact of that registry signed there; the signature, and whether it was there before."""
    try:
        found = await signature_of(home, name, digest, [signer.verified_by])
        return found.artifact, True
    except PolicyBlocked:
        subject = (await home.manifest(name, digest)).descriptor
        say(f"with {signer.name}")
        held = signature(await sign(signer, digest, cosign=tools.path("cosign")), subject)
        await push(home, name, held)
        # A run that was killed in between may have left the manifest, but not on its subject's list.
        if not any(one.digest == held.digest for one in await home.referrers(name, digest)):
            await home.put_manifest(name, held.root)
        return held, False
