from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from own_sigstore import COMMIT, IDENTITY, ISSUER, RUN, Sigstore

from ci.errors import BadInput
from ci.supply.keyless import Claims, Identity, NotBelieved, check_root, signed_as

_LONG_AGO = timedelta(hours=3)
_VERSIONS = pytest.mark.parametrize("version", [1, 2])


@pytest.fixture(scope="module")
def sigstore() -> Sigstore:
    return Sigstore()


@pytest.fixture
def root(sigstore: Sigstore, tmp_path: Path) -> Path:
    return sigstore.write_root(tmp_path / "trusted_root.json")


def why(bundle: bytes, root: Path) -> str:
    with pytest.raises(NotBelieved) as refused:
        signed_as(bundle, root)
    return str(refused.value)


def altered(bundle: bytes, change: Callable[[dict[str, Any]], None]) -> bytes:
    document = json.loads(bundle)
    change(document)
    return json.dumps(document).encode()


@_VERSIONS
def test_who_signed_is_what_the_issuer_said(sigstore: Sigstore, root: Path, version: int) -> None:
    said = signed_as(sigstore.bundle(b"{}", version=version), root)

    assert said.who == Identity(identity=IDENTITY, issuer=ISSUER)
    assert str(said.who) == f"{IDENTITY} (issuer {ISSUER})"
    assert (said.payload_type, said.payload) == ("application/vnd.in-toto+json", b"{}")


def test_what_the_certificate_says_of_the_run_is_read(sigstore: Sigstore, root: Path) -> None:
    said = signed_as(sigstore.bundle(b"{}", claims={13: COMMIT, 21: RUN}), root).claims
    assert said == Claims(
        signer=IDENTITY,
        runner="github-hosted",
        repository="https://github.com/o/r",
        commit=COMMIT,
        ref="refs/heads/main",
        run=RUN,
    )


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({12: "https://github.com/x/fork"}, f"one of {IDENTITY}, which https://github.com/x/fork called"),
        ({12: "https://github.com/o/r2"}, "which https://github.com/o/r2 called"),
        ({9: IDENTITY.replace("/o/", "/x/")}, f"one of {IDENTITY} and of"),
    ],
)
def test_a_workflow_that_another_repository_called_is_not_believed(
    sigstore: Sigstore, root: Path, claims: dict[int, str], reason: str
) -> None:
    assert reason in why(sigstore.bundle(b"{}", claims=claims), root)


@_VERSIONS
def test_a_certificate_that_has_run_out_since_does_no_harm(
    sigstore: Sigstore, root: Path, version: int
) -> None:
    bundle = sigstore.bundle(b"{}", version=version, signed=datetime.now(UTC) - _LONG_AGO)
    assert signed_as(bundle, root).who.identity == IDENTITY


@_VERSIONS
def test_what_was_signed_after_the_certificate_had_run_out_is_refused(
    sigstore: Sigstore, root: Path, version: int
) -> None:
    now = datetime.now(UTC)
    bundle = sigstore.bundle(b"{}", version=version, issued=now - _LONG_AGO, signed=now)
    assert "cert is not valid at validation time" in why(bundle, root)


@_VERSIONS
def test_without_anyones_word_on_the_time_it_is_refused(sigstore: Sigstore, root: Path, version: int) -> None:
    assert "must contain an inclusion promise or signed timestamp" in why(
        sigstore.bundle(b"{}", version=version, timed=False), root
    )


@_VERSIONS
def test_another_sigstore_is_not_believed(root: Path, version: int) -> None:
    said = why(Sigstore().bundle(b"{}", version=version), root)
    assert (
        "failed to build timestamp certificate chain" in said or "not enough sources of verified time" in said
    )


@pytest.mark.parametrize(
    ("part", "reason"),
    [
        ("ct", "failed to verify SCT"),
        ("rekor", "checkpoint: invalid signature"),
        ("tsa", "not enough sources of verified time"),
        ("fulcio_key", "signature does not match"),
    ],
)
def test_each_service_is_believed_by_its_own_key_only(
    sigstore: Sigstore, root: Path, part: str, reason: str
) -> None:
    """One of the services' keys is somebody else's; all the rest is as it should be."""
    forged = Sigstore()
    for name in ("ct", "rekor", "tsa", "fulcio_key", "fulcio", "tsa_certificate"):
        if name != part:
            setattr(forged, name, getattr(sigstore, name))
    assert reason in why(forged.bundle(b"{}", version=2), root)


def material(document: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = document["verificationMaterial"]
    return found


def another_payload(document: dict[str, Any]) -> None:
    document["dsseEnvelope"]["payload"] = base64.b64encode(b"{ }").decode()


def another_type(document: dict[str, Any]) -> None:
    document["dsseEnvelope"]["payloadType"] = "text/plain"


def no_entry(document: dict[str, Any]) -> None:
    material(document)["tlogEntries"] = []


def no_proof(document: dict[str, Any]) -> None:
    del material(document)["tlogEntries"][0]["inclusionProof"]


def another_place_in_the_tree(document: dict[str, Any]) -> None:
    proof = material(document)["tlogEntries"][0]["inclusionProof"]
    proof["hashes"] = [base64.b64encode(bytes(32)).decode() for _ in proof["hashes"]]


def another_tree(document: dict[str, Any]) -> None:
    proof = material(document)["tlogEntries"][0]["inclusionProof"]
    note = proof["checkpoint"]["envelope"].split("\n")
    note[2] = base64.b64encode(bytes(32)).decode()
    proof["checkpoint"]["envelope"] = "\n".join(note)


def another_time(document: dict[str, Any]) -> None:
    entry = material(document)["tlogEntries"][0]
    entry["integratedTime"] = str(int(entry["integratedTime"]) + 1)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (another_payload, "invalid signature"),
        (another_type, "invalid signature"),
        (no_entry, "not signed by a certificate that a log shows"),
        (no_proof, "not signed by a certificate that a log shows"),
        (another_place_in_the_tree, "inclusion proof contains invalid root hash"),
        (another_tree, "checkpoint: invalid signature"),
        (another_time, "invalid inclusion promise"),
    ],
)
def test_what_was_altered_afterwards_is_refused(
    sigstore: Sigstore, root: Path, change: Callable[[dict[str, Any]], None], reason: str
) -> None:
    assert reason in why(altered(sigstore.bundle(b"{}"), change), root)


@_VERSIONS
@pytest.mark.parametrize(
    ("part", "reason"),
    [("certificate", "invalid signature"), ("tlogEntries", r"does not match|is inconsistent")],
)
def test_parts_of_another_signature_are_refused(
    sigstore: Sigstore, root: Path, version: int, part: str, reason: str
) -> None:
    """Both are good ones of the same signer, about other things."""
    other = json.loads(sigstore.bundle(b'{"other": 1}', version=version))

    def change(document: dict[str, Any]) -> None:
        material(document)[part] = material(other)[part]

    assert re.search(reason, why(altered(sigstore.bundle(b"{}", version=version), change), root))


def test_the_time_of_another_signature_is_no_time_of_this_one(sigstore: Sigstore, root: Path) -> None:
    other = json.loads(sigstore.bundle(b"{}", version=2))

    def change(document: dict[str, Any]) -> None:
        part = "timestampVerificationData"
        material(document)[part] = material(other)[part]

    assert "not enough sources of verified time" in why(
        altered(sigstore.bundle(b"{}", version=2), change), root
    )


def test_only_what_was_verified_is_somebodys_word(sigstore: Sigstore, root: Path) -> None:
    """A second envelope beside the signed one, under the other name that parsers of this format know."""
    forged = {
        "payload": base64.b64encode(b"forged").decode(),
        "payloadType": "x/y",
        "signatures": [{"sig": "aa=="}],
    }
    bundle = altered(sigstore.bundle(b"{}"), lambda document: document.update(dsse_envelope=forged))
    try:
        said = signed_as(bundle, root)
    except NotBelieved:
        return
    assert said.payload == b"{}"


@pytest.mark.parametrize("bundle", [b"", b"half of a bun", b"{}", b"[]", b'{"mediaType": 3}', b"\xff\xfe"])
def test_garbage_is_refused_and_stops_nobody(root: Path, bundle: bytes) -> None:
    assert "not signed by a certificate that a log shows" in why(bundle, root)


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "cannot read the trusted root"), ("half", "is no trusted root"), ("{}", "is no trusted root")],
)
def test_a_trusted_root_that_is_none_is_said_so(
    sigstore: Sigstore, tmp_path: Path, content: str | None, said: str
) -> None:
    file = tmp_path / "root.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(BadInput, match=said) as refused:
        check_root(file)
    assert "cosign trusted-root create" in refused.value.hint
    with pytest.raises(BadInput, match=said):
        signed_as(sigstore.bundle(b"{}"), file)


@pytest.mark.parametrize("part", ["tlogs", "certificateAuthorities"])
def test_a_trusted_root_without_anyone_in_it_is_none(sigstore: Sigstore, tmp_path: Path, part: str) -> None:
    file = tmp_path / "root.json"
    file.write_text(json.dumps(sigstore.trusted_root() | {part: []}))
    with pytest.raises(BadInput, match="is no trusted root"):
        check_root(file)
