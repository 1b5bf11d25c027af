"""A key of a test's own, and what cosign makes with one: Sigstore bundles around in-toto statements."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from ci.environments import TrustedSigner
from ci.supply.signing import Signer

__all__ = ["SIGN", "Key", "statement"]

SIGN = "https://sigstore.dev/cosign/sign/v1"


def statement(digest: str, *, predicate: str = SIGN, **change: Any) -> bytes:
    """What is signed: that this digest is."""
    made = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"digest": {"sha256": digest.removeprefix("sha256:")}}],
        "predicateType": predicate,
        "predicate": {},
    }
    return json.dumps(made | change).encode()


@dataclass(frozen=True)
class Key:
    """`file` is where its public half is written to."""

    file: Path
    curve: ec.EllipticCurve = field(default_factory=ec.SECP256R1)
    hash: hashes.HashAlgorithm = field(default_factory=hashes.SHA256)
    private: ec.EllipticCurvePrivateKey = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "private", ec.generate_private_key(self.curve))
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.write_bytes(
            self.private.public_key().public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
        )

    @property
    def id(self) -> str:
        der = self.private.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        return hashlib.sha256(der).hexdigest()[:16]

    @property
    def trusted(self) -> TrustedSigner:
        return TrustedSigner(key=self.file)

    @property
    def signer(self) -> Signer:
        return Signer(name="a test's key", arguments=("--key", "x"), verified_by=self.trusted)

    def bundle(self, digest: str, *, predicate: str = SIGN, **change: Any) -> bytes:
        payload = statement(digest, predicate=predicate, **change)
        kind = b"application/vnd.in-toto+json"
        signed = b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)
        sig = self.private.sign(signed, ec.ECDSA(self.hash))
        envelope = {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": kind.decode(),
            "signatures": [{"sig": base64.b64encode(sig).decode()}],
        }
        return json.dumps(
            {
                "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
                "verificationMaterial": {"publicKey": {"hint": "x"}},
                "dsseEnvelope": envelope,
            }
        ).encode()
