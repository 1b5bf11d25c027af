"""Sigstore: who signed a bundle, by its certificate, when nobody holds a key.

    said = signed_as(bundle, Path("environments/azure/trusted_root.json"))    # or NotBelieved says why not
    said.who.identity, said.who.issuer, said.claims.repository, said.payload

A certificate lives for ten minutes and says whom an OIDC issuer took the signer for. It is believed when a
CA of the trusted root issued it, a certificate log promised to show it, a transparency log shows this very
signature, and the signature was made while the certificate was valid, by the word of that log or of a
timestamp authority. All of that is in the bundle or in the file of the trusted root. Nobody is asked, so an
answer does not depend on a network.

Who is trusted is not known here: the caller compares. What the issuer said of a workflow's run (`Claims`) has
to agree with the identity: a workflow that another repository called signs under its own address. The
library (`sigstore`) takes 0.4 s to load, and is loaded at the first use.

Specification: https://github.com/sigstore/architecture-docs/blob/main/client-spec.md; the extensions of the
certificate: https://github.com/sigstore/fulcio/blob/main/docs/oid-info.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat import asn1

from ci.errors import BadInput

if TYPE_CHECKING:
    from sigstore.verify import Verifier

__all__ = ["Claims", "Identity", "NotBelieved", "Signed", "check_root", "signed_as"]

_FULCIO = "1.3.6.1.4.1.57264.1"
_ISSUER_V1 = x509.ObjectIdentifier(f"{_FULCIO}.1")
"""The issuer (8) as text without DER around it, in certificates of before 2023."""
_CLAIMS = {"signer": 9, "runner": 11, "repository": 12, "commit": 13, "ref": 14, "run": 21}
"""The extensions that tell of a run, by what they are called here."""


@dataclass(frozen=True, kw_only=True)
class Identity:
    """Whom the OIDC `issuer` (a URL) took the signer for: a URI or an address of e-mail."""

    identity: str
    issuer: str

    def __str__(self) -> str:
        return f"{self.identity} (issuer {self.issuer})"


@dataclass(frozen=True, kw_only=True)
class Claims:
    """What the issuer said of the run that signed; each is empty where it said nothing."""

    signer: str = ""
    """The workflow that signs, with its ref; empty for a person's address."""
    runner: str = ""
    """`github-hosted` or `self-hosted`."""
    repository: str = ""
    """`https://github.com/o/r`."""
    commit: str = ""
    ref: str = ""
    run: str = ""
    """`https://github.com/o/r/actions/runs/12/attempts/1`."""


@dataclass(frozen=True, kw_only=True)
class Signed:
    """What somebody signed: only these bytes are their word, whatever else a bundle holds."""

    who: Identity
    claims: Claims
    payload_type: str
    payload: bytes


class NotBelieved(Exception):
    """A bundle that proves nothing; its text is the reason."""


def signed_as(bundle: bytes, trusted_root: Path) -> Signed:
    """Who signed the DSSE envelope in that bundle, and what is in it.

    NotBelieved when the bundle does not prove it; BadInput when the file of the trusted root cannot be used.
    """
    verifier = _verifier(trusted_root)
    from sigstore.models import Bundle

    # Anyone who may push can attach anything, and five parsers are behind these calls. Whatever they make of
    # it, it is no signature, and it must not keep the others from being looked at.
    try:
        loaded = Bundle.from_json(bundle)
    except Exception as error:
        raise NotBelieved(f"it is not signed by a certificate that a log shows ({_said(error)})") from error
    who = _Who()
    try:
        payload_type, payload = verifier.verify_dsse(loaded, who)
    except Exception as error:
        raise NotBelieved(_said(error)) from error
    if who.found is None:  # never: a verifier that does not ask its policy has verified nothing
        raise NotBelieved("its certificate was not looked at")
    return Signed(who=who.found, claims=who.claims, payload_type=payload_type, payload=payload)


def check_root(trusted_root: Path) -> None:
    """BadInput when the file of the trusted root cannot be used: rather now than at the first signature."""
    _verifier(trusted_root)


class _Who:
    """The policy that the library asks once the certificate is verified: it takes down what that says."""

    def __init__(self) -> None:
        self.found: Identity | None = None
        self.claims = Claims()

    def verify(self, cert: x509.Certificate) -> None:
        names = cert.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        called = [
            *names.get_values_for_type(x509.UniformResourceIdentifier),
            *names.get_values_for_type(x509.RFC822Name),
        ]
        if len(called) != 1 or len(names) != 1:
            raise NotBelieved("its certificate does not name one subject, a URI or an address")
        (name,) = called
        said = {one: _said_in(cert, number) for one, number in _CLAIMS.items()}
        if said["signer"] not in ("", name):
            raise NotBelieved(f"its certificate is one of {name} and of {said['signer']}")
        if said["repository"] and not name.startswith(f"{said['repository']}/"):
            raise NotBelieved(f"its certificate is one of {name}, which {said['repository']} called")
        workflow = name if "://" in name else ""
        self.found = Identity(identity=name, issuer=_issuer(cert))
        self.claims = Claims(**said | {"signer": workflow})


def _issuer(cert: x509.Certificate) -> str:
    if issuer := _said_in(cert, 8):
        return issuer
    try:
        extension = cert.extensions.get_extension_for_oid(_ISSUER_V1).value
    except x509.ExtensionNotFound:
        raise NotBelieved("its certificate does not say which OIDC issuer knew the signer") from None
    assert isinstance(extension, x509.UnrecognizedExtension)
    return extension.value.decode()


def _said_in(cert: x509.Certificate, number: int) -> str:
    """An extension of Fulcio's, a DER-encoded UTF8String; empty when the certificate has none."""
    try:
        extension = cert.extensions.get_extension_for_oid(x509.ObjectIdentifier(f"{_FULCIO}.{number}")).value
    except x509.ExtensionNotFound:
        return ""
    assert isinstance(extension, x509.UnrecognizedExtension)
    return asn1.decode_der(str, extension.value)


def _verifier(trusted_root: Path) -> Verifier:
    from sigstore.errors import Error
    from sigstore.models import TrustedRoot
    from sigstore.verify import Verifier

    try:
        return Verifier(trusted_root=TrustedRoot.from_file(str(trusted_root)))
    except OSError as error:
        raise BadInput(
            f"cannot read the trusted root {trusted_root}: {error.strerror}",
            hint="cosign trusted-root create --with-default-services --out FILE gets the public Sigstore's",
        ) from error
    except (ValueError, Error) as error:
        raise BadInput(
            f"{trusted_root} is no trusted root: {_said(error)}",
            hint="cosign trusted-root create makes one, with a CA, a certificate log and a transparency log",
        ) from error


def _said(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:300]
