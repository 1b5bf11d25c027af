"""Signatures: cosign makes them, and whoever has an artifact's digest finds and verifies them.

    found = await signature_of(registry, "fastapi-backend", digest, trust.signers)   # or PolicyBlocked
    bundle = await sign(signer, digest, cosign=tools.path("cosign"))
    await push(registry, "fastapi-backend", signature(bundle, subject))

A signature is what `cosign sign` (version 3) attaches and `cosign verify` finds: a Sigstore bundle v0.3 as
an OCI 1.1 referrer of what it signs, with a DSSE envelope around an in-toto statement that names the digest.
Cosign never talks to a registry here: it turns a statement into a bundle, and `ci.registry` carries that. So
one signature goes to every region, with the credentials and the retries of everything else.

Whoever signs with a key asks nobody, neither for a time nor for a place in a log. Keyless signatures need
Sigstore's services when they are made. Both are verified in this process, and nobody is asked then: see
`ci.supply.keyless`.

Formats: https://docs.sigstore.dev/about/bundle/,
https://github.com/secure-systems-lab/dsse/blob/master/protocol.md,
https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key
from pydantic import Base64Bytes, BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from ci import entra, places
from ci.actions import gives_tokens, this_job
from ci.complaints import in_words
from ci.concurrency import together
from ci.environments import TrustedSigner
from ci.errors import BadInput, PolicyBlocked, StepFailed, SystemUnavailable
from ci.files import new_folder
from ci.process import run
from ci.registry import Blob, Bundle, Descriptor, Registry, Unusable, artifact
from ci.supply.keyless import Claims, NotBelieved, check_root, signed_as

__all__ = [
    "BUNDLE_TYPE",
    "KeyPair",
    "Signature",
    "Signer",
    "key_signer",
    "keyless_signer",
    "kms_signer",
    "make_key_pair",
    "sign",
    "signature",
    "signature_of",
]

BUNDLE_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
_PREDICATE = "https://sigstore.dev/cosign/sign/v1"
_STATEMENTS = ("https://in-toto.io/Statement/v1", "https://in-toto.io/Statement/v0.1")
_IN_TOTO = "application/vnd.in-toto+json"
_GITHUB_ISSUER = "https://token.actions.githubusercontent.com"
_LARGEST_MANIFEST = 64 * 2**10
_LARGEST_BUNDLE = 2**20
"""Bytes of a signature: a bundle with a certificate and an entry of a log has some ten thousand."""
_MOST = 32
"""Signatures of one artifact that are looked at: whoever may push could attach any number."""

# What cosign would otherwise ask Sigstore's servers for, before it signs with a key.
_NO_SERVICES = {"mediaType": "application/vnd.dev.sigstore.signingconfig.v0.2+json"}
_NO_ROOT = {"mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1"}

_CURVES: dict[str, hashes.HashAlgorithm] = {
    "secp256r1": hashes.SHA256(),
    "secp384r1": hashes.SHA384(),
    "secp521r1": hashes.SHA512(),
}


# Signing -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Signer:
    """Who signs: `arguments` say it to cosign, `verified_by` says it to whoever verifies.

    `password` is the file with that of a local key. `asks` names the service that is needed for it.
    """

    name: str
    arguments: tuple[str, ...]
    verified_by: TrustedSigner
    password: Path | None = None
    asks: str = ""


@dataclass(frozen=True, kw_only=True)
class KeyPair:
    """A key pair in a folder of its own, for its owner only (mode 700, files 600)."""

    folder: Path

    @property
    def private(self) -> Path:
        """Encrypted by cosign with the password."""
        return self.folder / "cosign.key"

    @property
    def public(self) -> Path:
        """PEM: this is what environments name."""
        return self.folder / "cosign.pub"

    @property
    def password(self) -> Path:
        """Drawn when the pair was made."""
        return self.folder / "password"


async def make_key_pair(pair: KeyPair, *, cosign: Path) -> bool:
    """Have that pair; False when it was there. One that is there is never replaced."""
    if pair.private.is_file() and pair.public.is_file() and pair.password.is_file():
        return False
    if pair.folder.exists():
        raise BadInput(
            f"{pair.folder} is there, but no whole key pair is in it",
            hint="bring the lost file back, or remove the folder: its signatures are then trusted no more",
        )
    with new_folder(pair.folder) as draft:
        draft.chmod(0o700)
        made = KeyPair(folder=draft)
        made.password.touch(mode=0o600)
        made.password.write_text(secrets.token_urlsafe(32))
        await run(
            cosign,
            "generate-key-pair",
            "--output-key-prefix",
            "cosign",
            cwd=draft,
            env=_password(made.password),
        )
        for file in (made.private, made.public):
            file.chmod(0o600)
    return True


def key_signer(pair: KeyPair) -> Signer:
    """The holder of a local key; BadInput when there is no such pair."""
    if not pair.private.is_file():
        raise BadInput(
            f"there is no signing key {pair.private}",
            hint="va up makes one; or sign with azurekms://… or keyless (--sign-with, VA_SIGN_WITH)",
        )
    return Signer(
        name=f"the key {pair.public}",
        arguments=("--key", str(pair.private)),
        verified_by=TrustedSigner(key=pair.public),
        password=pair.password,
    )


async def kms_signer(uri: str, *, cosign: Path) -> Signer:
    """A key that never leaves Azure Key Vault: `azurekms://<vault>.vault.azure.net/<key>`.

    Azure's usual environment (AZURE_TENANT_ID, a managed identity, …) says who asks. SystemUnavailable when
    the vault does not give its public key; BadInput when cosign cannot sign with that: it takes every
    signature of a vault for one of an elliptic curve (sigstore 1.10.8, kms/azure, SignMessage).
    """
    if not uri.removeprefix("azurekms://").strip("/") or "/" not in uri.removeprefix("azurekms://"):
        raise BadInput(f"{uri!r} names no key", hint="write azurekms://<vault>.vault.azure.net/<key>")
    public = places.cache() / "signing" / f"{uri.removeprefix('azurekms://').replace('/', '-')}.pub"
    public.parent.mkdir(parents=True, exist_ok=True)
    with entra.for_a_program() as who:
        await run(cosign, "public-key", "--key", uri, "--outfile", public, env=who, failure=SystemUnavailable)
    if not isinstance(load_pem_public_key(public.read_bytes()), ec.EllipticCurvePublicKey):
        raise BadInput(
            f"{uri} is no key of an elliptic curve, and cosign signs with no other in Key Vault",
            hint="make one: az keyvault key create --kty EC --curve P-256 --ops sign verify",
        )
    return Signer(
        name=uri, arguments=("--key", uri), verified_by=TrustedSigner(key=public), asks="Azure Key Vault"
    )


def keyless_signer(trusted: Sequence[TrustedSigner], *, services: Path | None = None) -> Signer:
    """The GitHub Actions workflow that runs now, by its OIDC token; BadInput anywhere else.

    It has to be one of those that are `trusted`: what nobody trusts could never be promoted, and the trusted
    root that is named there verifies what it signs. `services` says which Sigstore is asked (SigningConfig,
    JSON); None: the public one, which cosign knows. The job needs `permissions: {id-token: write}`.
    """
    job = this_job()
    if job is None or not gives_tokens():
        raise BadInput(
            "keyless signing needs the OIDC token of a GitHub Actions job, and there is none here",
            hint="in the workflow say `permissions: {id-token: write}`; elsewhere sign with a key",
        )
    identity = job.workflow
    known = next((one for one in trusted if one.is_called(identity, _GITHUB_ISSUER)), None)
    if known is None or known.trusted_root is None:
        raise BadInput(
            f"this workflow signs as {identity}, and no environment trusts that",
            hint=f"name it in `trust.signers`, with the issuer {_GITHUB_ISSUER} and a trusted_root "
            "(docs/releases.md), or run the workflow that is named there",
        )
    check_root(known.trusted_root)
    asked: tuple[str, ...] = ()
    if services is not None:
        if not services.is_file():
            raise BadInput(
                f"there is no signing configuration {services}",
                hint="cosign signing-config create makes one; without, the public Sigstore is asked",
            )
        asked = ("--signing-config", str(services), "--trusted-root", str(known.trusted_root))
    return Signer(
        name=identity,
        arguments=("--oidc-provider", "github-actions", *asked),
        verified_by=known.model_copy(update={"identity": identity}),
        asks="Sigstore (Fulcio and Rekor)",
    )


async def sign(signer: Signer, digest: str, *, cosign: Path) -> bytes:
    """Sign that digest; returns the bundle. StepFailed, or SystemUnavailable of a service it needs."""
    with tempfile.TemporaryDirectory(prefix="va-sign-") as name:
        folder = Path(name)
        words: list[str | Path] = ["attest-blob", "--yes", *signer.arguments]
        if "--key" in signer.arguments:
            (folder / "services.json").write_text(json.dumps(_NO_SERVICES))
            (folder / "root.json").write_text(json.dumps(_NO_ROOT))
            words += ["--signing-config", folder / "services.json", "--trusted-root", folder / "root.json"]
        (folder / "statement.json").write_text(json.dumps(_statement(digest)))
        bundle = folder / "bundle.json"
        in_vault = any(str(word).startswith("azurekms://") for word in signer.arguments)
        with ExitStack() as stack:
            who = stack.enter_context(entra.for_a_program()) if in_vault else {}
            await run(
                *(cosign, *words, "--statement", folder / "statement.json", "--bundle", bundle),
                env=_password(signer.password) | who,
                failure=SystemUnavailable if signer.asks else StepFailed,
                timeout=120,
            )
        content = bundle.read_bytes()
    try:
        await asyncio.to_thread(_who_signed, content, digest, signer.verified_by)
    except NotBelieved as error:
        raise StepFailed(f"cosign signed {digest} with {signer.name}, but {error}") from error
    return content


def signature(bundle: bytes, subject: Descriptor) -> Bundle:
    """The artifact that attaches a Sigstore bundle to what it signs, as cosign attaches it."""
    return artifact(
        artifact_type=BUNDLE_TYPE,
        layers=((BUNDLE_TYPE, bundle, {}),),
        subject=subject,
        annotations={
            "dev.sigstore.bundle.content": "dsse-envelope",
            "dev.sigstore.bundle.predicateType": _PREDICATE,
        },
    )


def _statement(digest: str) -> dict[str, Any]:
    algorithm, _, value = digest.partition(":")
    return {
        "_type": _STATEMENTS[0],
        "subject": [{"digest": {algorithm: value}}],
        "predicateType": _PREDICATE,
        "predicate": {},
    }


def _password(file: Path | None) -> dict[str, str]:
    # Cosign reads it from its environment only; of a terminal it would ask.
    return {"COSIGN_PASSWORD": file.read_text() if file else ""}


# Verifying -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Signature:
    """A signature that was found and verified: the artifact, ready to be pushed elsewhere, and its signer."""

    by: TrustedSigner
    """Whom we trust."""
    who: str
    """Who it was: the key with its id, or identity and issuer as the certificate has them."""
    artifact: Bundle
    claims: Claims | None = None
    """What the certificate says of the run that signed; None for a key, which says nothing."""


async def signature_of(
    registry: Registry, repository: str, digest: str, signers: Sequence[TrustedSigner]
) -> Signature:
    """The signature of that digest by one of these signers; PolicyBlocked says why there is none.

    SystemUnavailable when the registry does not answer; BadInput when the file of a signer cannot be used.
    """
    name = f"{registry.endpoint}/{repository}@{digest}"
    bundles = await registry.referrers(repository, digest, artifact_type=BUNDLE_TYPE)
    if not bundles:
        raise PolicyBlocked(f"{name} is not signed", hint=_HINT)
    reasons: dict[str, None] = {}

    async def read(descriptor: Descriptor) -> Bundle | None:
        try:
            return await whole(descriptor)
        except Unusable as error:  # anyone who may push attaches anything: it does not hide what is good
            reasons[error.message] = None
            return None

    async def whole(descriptor: Descriptor) -> Bundle | None:
        manifest = await registry.find_manifest(repository, descriptor.digest, most=_LARGEST_MANIFEST)
        # A list of referrers is anyone's who may push: what counts is what the manifest says, and its bundle.
        if manifest is None or manifest.subject is None or manifest.subject.digest != digest:
            return None
        if manifest.artifact_type != BUNDLE_TYPE or len(manifest.layers) != 1:
            return None
        contents = await together(
            registry.blob(repository, blob, most=_LARGEST_BUNDLE) for blob in manifest.blobs
        )
        blobs = (
            Blob(descriptor=blob, source=content)
            for blob, content in zip(manifest.blobs, contents, strict=True)
        )
        return Bundle(manifests=(manifest,), blobs=tuple(blobs))

    for found in await together(read(one) for one in bundles[:_MOST]):
        for signer in signers if found else ():
            assert found is not None
            content = found.blobs[-1].read()
            try:
                # In a thread: Sigstore's library is slow to load, and others are waited for meanwhile.
                who, claims = await asyncio.to_thread(_who_signed, content, digest, signer)
            except NotBelieved as error:
                reasons[str(error)] = None
            else:
                return Signature(by=signer, who=who, artifact=found, claims=claims)
    if len(bundles) > _MOST:
        reasons[f"only {_MOST} of its {len(bundles)} signatures were looked at"] = None
    why = "; ".join(reasons) or "what is listed as its signature is one of something else"
    raise PolicyBlocked(f"{name} has no signature that is trusted here: {why}", hint=_HINT)


_HINT = "va ship signs what it publishes; `trust:` of the environment says who may sign"


class _Json(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, frozen=True)


class _DsseSignature(_Json):
    sig: Base64Bytes


class _Envelope(_Json):
    payload: Base64Bytes
    payload_type: str
    signatures: tuple[_DsseSignature, ...] = Field(min_length=1, max_length=1)

    @property
    def signed(self) -> bytes:
        """What the signature is of: DSSE's pre-authentication encoding."""
        kind = self.payload_type.encode()
        return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(self.payload), self.payload)


class _Bundle(_Json):
    dsse_envelope: _Envelope


class _Subject(BaseModel):
    digest: dict[str, str]


class _Statement(BaseModel):
    type: str = Field(alias="_type")
    subject: tuple[_Subject, ...] = Field(min_length=1)
    predicate_type: str = Field(alias="predicateType")


def _who_signed(content: bytes, digest: str, signer: TrustedSigner) -> tuple[str, Claims | None]:
    """Who made this signature of the digest, and what a certificate says of the run that did.

    NotBelieved when it is none, or not by that signer.
    """
    if signer.key is not None:
        try:
            envelope = _Bundle.model_validate_json(content).dsse_envelope
        except ValidationError as error:
            raise NotBelieved(f"it is no Sigstore bundle with one signature ({in_words(error)})") from error
        if not (id_ := _signed_with(envelope, signer.key)):
            raise NotBelieved(f"it is not by {signer}")
        _is_about(digest, envelope.payload_type, envelope.payload)
        return f"the key {id_} ({signer.key.name})", None
    assert signer.trusted_root is not None
    try:
        signed = signed_as(content, signer.trusted_root)
    except NotBelieved as error:
        raise NotBelieved(f"it is not by {signer}: {error}") from error
    if not signer.is_called(signed.who.identity, signed.who.issuer):
        raise NotBelieved(f"it is by {signed.who}, not by {signer}")
    _is_about(digest, signed.payload_type, signed.payload)
    return str(signed.who), signed.claims


def _is_about(digest: str, payload_type: str, payload: bytes) -> None:
    """Returns when what a trusted signer said is a signature of that digest; else NotBelieved."""
    try:
        statement = _Statement.model_validate_json(payload)
    except ValidationError as error:
        raise NotBelieved(f"what it signs is no in-toto statement ({in_words(error)})") from error
    if payload_type != _IN_TOTO or statement.type not in _STATEMENTS:
        raise NotBelieved("what it signs is no in-toto statement")
    if statement.predicate_type != _PREDICATE:
        raise NotBelieved(f"it says {statement.predicate_type}, which is no signature of an artifact")
    if not any(one.digest.get("sha256") == digest.removeprefix("sha256:") for one in statement.subject):
        raise NotBelieved("it signs another digest")


def _signed_with(envelope: _Envelope, file: Path) -> str:
    """The id of that public key when its holder signed, else nothing; BadInput when the file is no key.

    The id begins the SHA-256 of the key in DER: `openssl pkey -pubin -in FILE -outform DER | sha256sum`.
    """
    try:
        key = load_pem_public_key(file.read_bytes())
    except OSError as error:
        raise BadInput(
            f"cannot read the public key {file} of those who may sign: {error.strerror}",
            hint="va up makes that of the embedded platform; `trust.signers` of the environment names it",
        ) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise BadInput(f"{file} is not a public key in PEM: {error}") from error
    sig, signed = envelope.signatures[0].sig, envelope.signed
    try:
        if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in _CURVES:
            key.verify(sig, signed, ec.ECDSA(_CURVES[key.curve.name]))
        elif isinstance(key, rsa.RSAPublicKey) and key.key_size >= 2048:
            key.verify(sig, signed, padding.PKCS1v15(), hashes.SHA256())
        elif isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(sig, signed)
        else:
            raise BadInput(f"{file} is a key of a kind that is not trusted", hint="use ECDSA on P-256")
    except InvalidSignature:
        return ""
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()[:16]
