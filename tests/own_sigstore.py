"""A Sigstore of a test's own: who issues certificates, shows signatures in a log, and tells the time.

`Sigstore` plays Fulcio with its certificate log, Rekor in both versions of its API, and an authority of time
stamps. `trusted_root()` is what whoever verifies has to know of it. `bundle()` makes what cosign would, with
mistakes on request. `serve()` speaks to the real cosign on a port of 127.0.0.1, and issues the token that a
job of GitHub Actions gets.

Formats: RFC 6962 (promises of certificate logs, Merkle trees), RFC 3161 and RFC 5652 (time stamps),
https://github.com/transparency-dev/formats/blob/main/log/README.md (checkpoints), and what cosign 3 sends.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import struct
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jwt
from cryptography import x509
from cryptography.hazmat import asn1
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from signing_key import statement

from ci.environments import TrustedSigner
from ci.supply.signing import Signer

__all__ = ["COMMIT", "IDENTITY", "ISSUER", "RUN", "WORKFLOW", "Served", "Sigstore", "Workflow"]

ISSUER = "https://token.actions.githubusercontent.com"
WORKFLOW = "o/r/.github/workflows/release.yml@refs/heads/main"
IDENTITY = f"https://github.com/{WORKFLOW}"
COMMIT = "c" * 40
RUN = "https://github.com/o/r/actions/runs/7/attempts/1"
_SHA256 = ec.ECDSA(hashes.SHA256())
_LIFE = timedelta(minutes=10)


def _der(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def _b64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


class Sigstore:
    """Its keys, and the log that it keeps in memory. `host` is where its services are."""

    def __init__(self, host: str = "sigstore.test") -> None:
        self.host = host
        self.token, self.ct, self.rekor, self.tsa = (ec.generate_private_key(ec.SECP256R1()) for _ in "1234")
        self.fulcio_key, self.fulcio = _authority("fulcio")
        tsa_root_key, self.tsa_root = _authority("timestamps")
        self.tsa_certificate = _certificate(
            "timestamp authority", self.tsa.public_key(), tsa_root_key, self.tsa_root, datetime.now(UTC)
        )
        # The first entry is somebody else's: a tree of one leaf would prove nothing about proofs.
        self.leaves = [hashlib.sha256(b"\0somebody else's").digest()]

    # Fulcio ---------------------------------------------------------------------------------------------

    def certificate(
        self,
        key: ec.EllipticCurvePublicKey,
        identity: str = IDENTITY,
        issuer: str = ISSUER,
        *,
        at: datetime | None = None,
        claims: Mapping[int, str] = MappingProxyType({}),
    ) -> x509.Certificate:
        """A certificate of ten minutes, with the promise of the certificate log in it.

        `claims` are extensions below Fulcio's number, laid over those that follow from the identity.
        """
        now = at or datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(self.fulcio.subject)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(seconds=5))
            .not_valid_after(now + _LIFE)
            .add_extension(_signs(), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.fulcio_key.public_key()),
                critical=False,
            )
            .add_extension(
                x509.SubjectAlternativeName([x509.UniformResourceIdentifier(identity)]), critical=True
            )
        )
        for number, value in ({8: issuer} | _claims_of(identity) | dict(claims)).items():
            oid = x509.ObjectIdentifier(f"1.3.6.1.4.1.57264.1.{number}")
            extension = x509.UnrecognizedExtension(oid, asn1.encode_der(value))
            builder = builder.add_extension(extension, critical=False)
        before = builder.sign(self.fulcio_key, hashes.SHA256())
        return builder.add_extension(
            x509.UnrecognizedExtension(
                x509.ObjectIdentifier("1.3.6.1.4.1.11129.2.4.2"),
                asn1.encode_der(self._promise(before.tbs_certificate_bytes, now)),
            ),
            critical=False,
        ).sign(self.fulcio_key, hashes.SHA256())

    def _promise(self, certificate: bytes, now: datetime) -> bytes:
        time = struct.pack(">Q", int(now.timestamp() * 1000))
        signed = b"\0\0" + time + b"\0\1" + hashlib.sha256(_der(self.fulcio_key.public_key())).digest()
        signed += len(certificate).to_bytes(3, "big") + certificate + b"\0\0"
        sig = self.ct.sign(signed, _SHA256)
        promise = b"\0" + hashlib.sha256(_der(self.ct.public_key())).digest() + time + b"\0\0"
        promise += b"\4\3" + len(sig).to_bytes(2, "big") + sig
        one = len(promise).to_bytes(2, "big") + promise
        return len(one).to_bytes(2, "big") + one

    # Rekor ----------------------------------------------------------------------------------------------

    def entry_v1(
        self, envelope: dict[str, Any], certificate: str, at: datetime | None = None
    ) -> dict[str, Any]:
        """`dsse` 0.0.1: the log says when it took the signature in."""
        content = _canonical(envelope)
        payload = base64.b64decode(envelope["payload"])
        body = _canonical(
            {
                "apiVersion": "0.0.1",
                "kind": "dsse",
                "spec": {
                    "envelopeHash": {"algorithm": "sha256", "value": hashlib.sha256(content).hexdigest()},
                    "payloadHash": {"algorithm": "sha256", "value": hashlib.sha256(payload).hexdigest()},
                    "signatures": [{"signature": envelope["signatures"][0]["sig"], "verifier": certificate}],
                },
            }
        )
        entry = self._include(body, "dsse", "0.0.1")
        time = int((at or datetime.now(UTC)).timestamp())
        promise = _canonical(
            {
                "body": entry["canonicalizedBody"],
                "integratedTime": time,
                "logID": self.log_id.hex(),
                "logIndex": int(entry["logIndex"]),
            }
        )
        return entry | {
            "integratedTime": str(time),
            "inclusionPromise": {"signedEntryTimestamp": _b64(self.rekor.sign(promise, _SHA256))},
        }

    def entry_v2(self, digest: bytes, signature: bytes, certificate: bytes) -> dict[str, Any]:
        """`hashedrekord` 0.0.2: somebody else has to tell the time."""
        verifier = {
            "keyDetails": "PKIX_ECDSA_P256_SHA_256",
            "x509Certificate": {"rawBytes": _b64(certificate)},
        }
        record = {
            "data": {"algorithm": "SHA2_256", "digest": _b64(digest)},
            "signature": {"content": _b64(signature), "verifier": verifier},
        }
        body = _canonical(
            {"apiVersion": "0.0.2", "kind": "hashedrekord", "spec": {"hashedRekordV002": record}}
        )
        return self._include(body, "hashedrekord", "0.0.2")

    @property
    def log_id(self) -> bytes:
        return hashlib.sha256(_der(self.rekor.public_key())).digest()

    def _include(self, body: bytes, kind: str, version: str) -> dict[str, Any]:
        index = len(self.leaves)
        self.leaves.append(hashlib.sha256(b"\0" + body).digest())
        root, size = _tree(self.leaves), len(self.leaves)
        name = self.host.partition(":")[0]
        # The first API's origin names the tree, and that is how verifiers know it.
        origin = f"{name} - 1" if version == "0.0.1" else name
        note = f"{origin}\n{size}\n{_b64(root)}\n"
        sig = self.rekor.sign(note.encode(), _SHA256)
        return {
            "logIndex": str(index),
            "logId": {"keyId": _b64(self.log_id)},
            "kindVersion": {"kind": kind, "version": version},
            "canonicalizedBody": _b64(body),
            "inclusionProof": {
                "logIndex": str(index),
                "treeSize": str(size),
                "rootHash": _b64(root),
                "hashes": [_b64(each) for each in _path(index, self.leaves)],
                "checkpoint": {"envelope": f"{note}\n— {name} {_b64(self.log_id[:4] + sig)}\n"},
            },
        }

    # The timestamp authority ----------------------------------------------------------------------------

    def timestamp(self, digest: bytes, at: datetime | None = None) -> bytes:
        """A response of RFC 3161 about the SHA-256 of a signature, with the authority's certificate in it."""
        info = _sequence(
            _integer(1),
            _oid("1.3.6.1.4.1.57264.2"),
            _sequence(_sequence(_oid(_SHA256_OID)), _tlv(0x04, digest)),
            _integer(secrets.randbits(63)),
            _tlv(0x18, (at or datetime.now(UTC)).strftime("%Y%m%d%H%M%SZ").encode()),
        )
        certificate = self.tsa_certificate.public_bytes(serialization.Encoding.DER)
        essential = _sequence(_sequence(_sequence(_tlv(0x04, hashlib.sha256(certificate).digest()))))
        attributes = sorted(
            _sequence(_oid(oid), _tlv(0x31, value))
            for oid, value in (
                ("1.2.840.113549.1.9.3", _oid(_TST_INFO)),
                ("1.2.840.113549.1.9.4", _tlv(0x04, hashlib.sha256(info).digest())),
                ("1.2.840.113549.1.9.16.2.47", essential),
            )
        )
        signer = _sequence(
            _integer(1),
            _sequence(
                self.tsa_certificate.issuer.public_bytes(), _integer(self.tsa_certificate.serial_number)
            ),
            _sequence(_oid(_SHA256_OID)),
            _tlv(0xA0, *attributes),
            _sequence(_oid("1.2.840.10045.4.3.2")),
            _tlv(0x04, self.tsa.sign(_tlv(0x31, *attributes), _SHA256)),
        )
        signed = _sequence(
            _integer(3),
            _tlv(0x31, _sequence(_oid(_SHA256_OID))),
            _sequence(_oid(_TST_INFO), _tlv(0xA0, _tlv(0x04, info))),
            _tlv(0xA0, certificate),
            _tlv(0x31, signer),
        )
        return _sequence(_sequence(_integer(0)), _sequence(_oid("1.2.840.113549.1.7.2"), _tlv(0xA0, signed)))

    # What whoever verifies and whoever signs has to know ------------------------------------------------

    def trusted_root(self) -> dict[str, Any]:
        start = {"start": "2020-01-01T00:00:00Z"}

        def log(key: ec.EllipticCurvePrivateKey) -> dict[str, Any]:
            der = _der(key.public_key())
            return {
                "baseUrl": f"http://{self.host}",
                "hashAlgorithm": "SHA2_256",
                "publicKey": {
                    "rawBytes": _b64(der),
                    "keyDetails": "PKIX_ECDSA_P256_SHA_256",
                    "validFor": start,
                },
                "logId": {"keyId": _b64(hashlib.sha256(der).digest())},
            }

        def authority(*chain: x509.Certificate) -> dict[str, Any]:
            ders = [{"rawBytes": _b64(one.public_bytes(serialization.Encoding.DER))} for one in chain]
            return {
                "subject": {"organization": "test", "commonName": "test"},
                "uri": f"http://{self.host}",
                "certChain": {"certificates": ders},
                "validFor": start,
            }

        return {
            "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
            "tlogs": [log(self.rekor)],
            "certificateAuthorities": [authority(self.fulcio)],
            "ctlogs": [log(self.ct)],
            "timestampAuthorities": [authority(self.tsa_certificate, self.tsa_root)],
        }

    def write_root(self, file: Path) -> Path:
        file.write_text(json.dumps(self.trusted_root()))
        return file

    def bundle(
        self,
        payload: bytes,
        identity: str = IDENTITY,
        issuer: str = ISSUER,
        *,
        version: int = 1,
        issued: datetime | None = None,
        signed: datetime | None = None,
        timed: bool = True,
        claims: Mapping[int, str] = MappingProxyType({}),
    ) -> bytes:
        """What cosign makes with these services.

        `version` is that of Rekor's API. `issued` and `signed` are the times of certificate and signature;
        without `timed`, nobody says when it was signed.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self.certificate(key.public_key(), identity, issuer, at=issued or signed, claims=claims)
        kind = b"application/vnd.in-toto+json"
        pae = b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)
        signature = key.sign(pae, _SHA256)
        envelope = {
            "payload": _b64(payload),
            "payloadType": kind.decode(),
            "signatures": [{"sig": _b64(signature)}],
        }
        der = certificate.public_bytes(serialization.Encoding.DER)
        material: dict[str, Any] = {"certificate": {"rawBytes": _b64(der)}}
        if version == 1:
            pem = _b64(certificate.public_bytes(serialization.Encoding.PEM))
            entry = self.entry_v1(envelope, pem, signed)
            if not timed:
                del entry["inclusionPromise"]
        else:
            entry = self.entry_v2(hashlib.sha256(pae).digest(), signature, der)
            if timed:
                stamp = _b64(self.timestamp(hashlib.sha256(signature).digest(), signed))
                material["timestampVerificationData"] = {"rfc3161Timestamps": [{"signedTimestamp": stamp}]}
        material["tlogEntries"] = [entry]
        return json.dumps(
            {
                "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
                "verificationMaterial": material,
                "dsseEnvelope": envelope,
            }
        ).encode()

    # Served ---------------------------------------------------------------------------------------------

    @contextmanager
    def serve(self, folder: Path, *, version: int = 1, workflow: str = WORKFLOW) -> Iterator[Served]:
        """The services on a port of 127.0.0.1, for a job of that workflow; their files go to `folder`."""
        sigstore, secret = self, secrets.token_urlsafe(16)

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                """Not on a test's output."""

            def answer(self, code: int, content: bytes, kind: str = "application/json", **more: str) -> None:
                self.send_response(code)
                for name, value in {
                    "Content-Type": kind,
                    "Content-Length": str(len(content)),
                    **more,
                }.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            def do_GET(self) -> None:
                """The token of a job, as GitHub's runner hands it out."""
                scheme, _, said = self.headers["Authorization"].partition(" ")
                if (scheme.lower(), said) != ("bearer", secret) or "audience=sigstore" not in self.path:
                    return self.answer(401, b"{}")
                return self.answer(200, _canonical({"value": sigstore.job_token(workflow)}))

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                served.asked.append(self.path)
                match self.path:
                    case "/api/v2/signingCert":
                        token = self.headers["Authorization"].removeprefix("Bearer ")
                        self.answer(200, sigstore.answer_certificate(token, json.loads(body)))
                    case "/api/v1/log/entries":
                        uuid, content = sigstore.answer_v1(json.loads(body))
                        self.answer(201, content, ETag=uuid, Location=f"/api/v1/log/entries/{uuid}")
                    case "/api/v2/log/entries":
                        self.answer(201, sigstore.answer_v2(json.loads(body)))
                    case "/timestamp":
                        # The digest is the one OCTET STRING of 32 bytes in the request.
                        start = body.index(b"\x04\x20") + 2
                        stamp = sigstore.timestamp(body[start : start + 32])
                        self.answer(201, stamp, "application/timestamp-reply")
                    case _:
                        self.answer(404, b"{}")

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.host = f"127.0.0.1:{server.server_port}"
        url = f"http://{self.host}"

        def service(path: str, major: int) -> dict[str, Any]:
            return {
                "url": url + path,
                "majorApiVersion": major,
                "operator": "test",
                "validFor": {"start": "2020-01-01T00:00:00Z"},
            }

        services = folder / "signing_config.json"
        services.write_text(
            json.dumps(
                {
                    "mediaType": "application/vnd.dev.sigstore.signingconfig.v0.2+json",
                    "caUrls": [service("", 1)],
                    "rekorTlogUrls": [service("", version)],
                    "rekorTlogConfig": {"selector": "ANY"},
                    "tsaUrls": [service("/timestamp", 1)],
                    "tsaConfig": {"selector": "ANY"},
                }
            )
        )
        served = Served(
            services=services,
            root=self.write_root(folder / "trusted_root.json"),
            environment={
                "GITHUB_ACTIONS": "true",
                "GITHUB_WORKFLOW_REF": workflow,
                "ACTIONS_ID_TOKEN_REQUEST_URL": f"{url}/token?api-version=2.0",
                "ACTIONS_ID_TOKEN_REQUEST_TOKEN": secret,
            },
            asked=[],
        )
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield served
        finally:
            server.shutdown()
            server.server_close()
            thread.join()

    def job_token(self, workflow: str) -> str:
        """What GitHub says of a job."""
        now = datetime.now(UTC)
        claims = {
            "iss": ISSUER,
            "aud": "sigstore",
            "sub": "repo:o/r:ref:refs/heads/main",
            "job_workflow_ref": workflow,
            "sha": COMMIT,
            "run": RUN,
            "iat": now,
            "exp": now + _LIFE,
        }
        return jwt.encode(claims, self.token, algorithm="ES256")

    def answer_certificate(self, token: str, asked: dict[str, Any]) -> bytes:
        """Fulcio: who holds the token and the key gets a certificate of what the token says."""
        claims = jwt.decode(
            token, self.token.public_key(), algorithms=["ES256"], audience="sigstore", issuer=ISSUER
        )
        request = asked["publicKeyRequest"]
        key = serialization.load_pem_public_key(request["publicKey"]["content"].encode())
        assert isinstance(key, ec.EllipticCurvePublicKey)
        key.verify(base64.b64decode(request["proofOfPossession"]), claims["sub"].encode(), _SHA256)
        said = {13: claims["sha"], 21: claims["run"]}
        identity = f"https://github.com/{claims['job_workflow_ref']}"
        made = self.certificate(key, identity, claims["iss"], claims=said)
        chain = [one.public_bytes(serialization.Encoding.PEM).decode() for one in (made, self.fulcio)]
        return _canonical({"signedCertificateEmbeddedSct": {"chain": {"certificates": chain}}})

    def answer_v1(self, asked: dict[str, Any]) -> tuple[str, bytes]:
        """Rekor: the entry as its first API shows it."""
        proposed = asked["spec"]["proposedContent"]
        entry = self.entry_v1(json.loads(proposed["envelope"]), proposed["verifiers"][0])
        proof = entry["inclusionProof"]
        uuid = secrets.token_hex(40)
        shown = {
            "body": entry["canonicalizedBody"],
            "integratedTime": int(entry["integratedTime"]),
            "logID": self.log_id.hex(),
            "logIndex": int(entry["logIndex"]),
            "verification": {
                "inclusionProof": {
                    "checkpoint": proof["checkpoint"]["envelope"],
                    "hashes": [base64.b64decode(each).hex() for each in proof["hashes"]],
                    "logIndex": int(proof["logIndex"]),
                    "rootHash": base64.b64decode(proof["rootHash"]).hex(),
                    "treeSize": int(proof["treeSize"]),
                },
                **entry["inclusionPromise"],
            },
        }
        return uuid, _canonical({uuid: shown})

    def answer_v2(self, asked: dict[str, Any]) -> bytes:
        """Rekor: the entry as its second API shows it."""
        request = asked["hashedRekordRequestV002"]
        signature = request["signature"]
        certificate = base64.b64decode(signature["verifier"]["x509Certificate"]["rawBytes"])
        content = base64.b64decode(signature["content"])
        return _canonical(self.entry_v2(base64.b64decode(request["digest"]), content, certificate))


@dataclass(frozen=True, kw_only=True)
class Served:
    """The files and the environment of a job that signs with these services, and what they were asked."""

    services: Path
    root: Path
    environment: dict[str, str]
    asked: list[str]


@dataclass(frozen=True, kw_only=True)
class Workflow:
    """Who signs without a key: as `signing_key.Key`, but by an identity of that Sigstore."""

    sigstore: Sigstore
    root: Path
    identity: str = IDENTITY
    issuer: str = ISSUER
    claims: Mapping[int, str] = field(default_factory=dict)

    @property
    def trusted(self) -> TrustedSigner:
        return TrustedSigner(identity=self.identity, issuer=self.issuer, trusted_root=self.root)

    @property
    def signer(self) -> Signer:
        return Signer(name="a workflow", arguments=("--oidc-provider", "x"), verified_by=self.trusted)

    def bundle(self, digest: str, **more: Any) -> bytes:
        said = statement(digest, **more)
        return self.sigstore.bundle(said, self.identity, self.issuer, claims=self.claims)


# Certificates --------------------------------------------------------------------------------------------


def _claims_of(identity: str) -> dict[int, str]:
    """What Fulcio says of a workflow's run beside its address; nothing of anybody else."""
    workflow, at, ref = identity.partition("@")
    if not at or "/.github/workflows/" not in workflow:
        return {}
    return {9: identity, 11: "github-hosted", 12: workflow.partition("/.github/")[0], 14: ref}


def _authority(name: str) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    key = ec.generate_private_key(ec.SECP256R1())
    called = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(called)
        .issuer_name(called)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=365))
        .not_valid_after(now + timedelta(days=365))
        .add_extension(x509.BasicConstraints(ca=True, path_length=1), critical=True)
        .add_extension(_signs(certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return key, made


def _certificate(
    name: str,
    key: ec.EllipticCurvePublicKey,
    authority_key: ec.EllipticCurvePrivateKey,
    authority: x509.Certificate,
    now: datetime,
) -> x509.Certificate:
    """That of a timestamp authority: its only use, and said to be critical."""
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(authority.subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=30))
        .not_valid_after(now + timedelta(days=30))
        .add_extension(_signs(), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.TIME_STAMPING]), critical=True)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False
        )
        .sign(authority_key, hashes.SHA256())
    )


def _signs(*, certificates: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not certificates,
        key_cert_sign=certificates,
        crl_sign=certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


# Merkle trees (RFC 6962, section 2.1) --------------------------------------------------------------------


def _tree(leaves: list[bytes]) -> bytes:
    if len(leaves) == 1:
        return leaves[0]
    half = 1 << (len(leaves) - 1).bit_length() - 1
    return hashlib.sha256(b"\1" + _tree(leaves[:half]) + _tree(leaves[half:])).digest()


def _path(index: int, leaves: list[bytes]) -> list[bytes]:
    if len(leaves) == 1:
        return []
    half = 1 << (len(leaves) - 1).bit_length() - 1
    if index < half:
        return [*_path(index, leaves[:half]), _tree(leaves[half:])]
    return [*_path(index - half, leaves[half:]), _tree(leaves[:half])]


# DER -----------------------------------------------------------------------------------------------------

_SHA256_OID = "2.16.840.1.101.3.4.2.1"
_TST_INFO = "1.2.840.113549.1.9.16.1.4"


def _tlv(tag: int, *parts: bytes) -> bytes:
    content = b"".join(parts)
    if len(content) < 0x80:
        return bytes([tag, len(content)]) + content
    length = len(content).to_bytes((len(content).bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + content


def _sequence(*parts: bytes) -> bytes:
    return _tlv(0x30, *parts)


def _integer(value: int) -> bytes:
    return asn1.encode_der(value)


def _oid(dotted: str) -> bytes:
    return asn1.encode_der(x509.ObjectIdentifier(dotted))
