from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from fake_registry import FakeRegistry
from oci import layer, write_image
from own_sigstore import IDENTITY, ISSUER, WORKFLOW, Sigstore, Workflow
from signing_key import Key, statement

from ci.environments import TrustedSigner
from ci.errors import BadInput, PolicyBlocked, StepFailed, SystemUnavailable
from ci.registry import Bundle, Registry, artifact, open_archive, push
from ci.supply.signing import (
    BUNDLE_TYPE,
    KeyPair,
    Signature,
    key_signer,
    keyless_signer,
    kms_signer,
    make_key_pair,
    sign,
    signature,
    signature_of,
)

T = TypeVar("T")


def run(work: Awaitable[T]) -> T:
    async def main() -> T:
        return await work

    return asyncio.run(main())


@pytest.fixture
def key(tmp_path: Path) -> Key:
    return Key(tmp_path / "cosign.pub")


@pytest.fixture
def image(tmp_path: Path) -> Bundle:
    write_image(tmp_path / "image.tar", layer(a="1"))
    return open_archive(tmp_path / "image.tar")


def look(image: Bundle, signers: list[TrustedSigner], *artifacts: Bundle) -> Signature:
    """What is found in a registry with that image and those artifacts attached."""

    async def main() -> Signature:
        async with Registry("127.0.0.1:5999", transport=FakeRegistry()) as registry:
            await push(registry, "api", image)
            for one in artifacts:
                await push(registry, "api", one)
            return await signature_of(registry, "api", image.digest, signers)

    return run(main())


def why(image: Bundle, signers: list[TrustedSigner], *artifacts: Bundle) -> str:
    with pytest.raises(PolicyBlocked) as refused:
        look(image, signers, *artifacts)
    return str(refused.value)


def attach(image: Bundle, bundle: bytes) -> Bundle:
    return signature(bundle, image.root.descriptor)


# Verifying -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("curve", "algorithm"),
    [
        (ec.SECP256R1(), hashes.SHA256()),
        (ec.SECP384R1(), hashes.SHA384()),
        (ec.SECP521R1(), hashes.SHA512()),
    ],
)
def test_a_signature_is_found_by_the_digest_alone(
    image: Bundle, tmp_path: Path, curve: ec.EllipticCurve, algorithm: hashes.HashAlgorithm
) -> None:
    key = Key(tmp_path / "k.pub", curve, algorithm)
    made = attach(image, key.bundle(image.digest))

    found = look(image, [key.trusted], made)

    assert found.by == key.trusted
    assert found.artifact.digest == made.digest
    assert made.root.artifact_type == BUNDLE_TYPE


def test_any_of_the_trusted_signers_is_enough_and_others_do_no_harm(
    image: Bundle, key: Key, tmp_path: Path
) -> None:
    other, third = Key(tmp_path / "other.pub"), Key(tmp_path / "third.pub")
    artifacts = [attach(image, one.bundle(image.digest)) for one in (third, key)]

    assert look(image, [other.trusted, key.trusted], *artifacts).by == key.trusted


def test_what_nobody_signed_is_refused(image: Bundle, key: Key) -> None:
    other = artifact(artifact_type="application/x", layers=(), subject=image.root.descriptor)
    assert why(image, [key.trusted], other) == f"127.0.0.1:5999/api@{image.digest} is not signed"


def test_the_signature_of_another_key_is_refused(image: Bundle, key: Key, tmp_path: Path) -> None:
    other = Key(tmp_path / "other.pub")
    said = why(image, [key.trusted], attach(image, other.bundle(image.digest)))
    assert f"no signature that is trusted here: it is not by the key {key.file}" in said


def altered(bundle: bytes, change: Callable[[dict[str, Any]], None]) -> bytes:
    document = json.loads(bundle)
    change(document["dsseEnvelope"])
    return json.dumps(document).encode()


def another_payload(envelope: dict[str, Any]) -> None:
    envelope["payload"] = base64.b64encode(base64.b64decode(envelope["payload"]) + b" ").decode()


def another_type(envelope: dict[str, Any]) -> None:
    envelope["payloadType"] = "text/plain"


def two_signatures(envelope: dict[str, Any]) -> None:
    envelope["signatures"] *= 2


def no_signature(envelope: dict[str, Any]) -> None:
    envelope["signatures"] = []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (another_payload, "it is not by the key"),
        (another_type, "it is not by the key"),
        (two_signatures, "no Sigstore bundle with one signature"),
        (no_signature, "no Sigstore bundle with one signature"),
    ],
)
def test_an_altered_envelope_is_refused(
    image: Bundle, key: Key, change: Callable[[dict[str, Any]], None], reason: str
) -> None:
    assert reason in why(image, [key.trusted], attach(image, altered(key.bundle(image.digest), change)))


@pytest.mark.parametrize(
    ("bundle", "reason"),
    [
        (lambda key, image: key.bundle("sha256:" + "a" * 64), "it signs another digest"),
        (lambda key, image: key.bundle(image.digest, predicate="https://x/y"), "no signature of an artifact"),
        (lambda key, image: key.bundle(image.digest, _type="z"), "no in-toto statement"),
        (lambda key, image: key.bundle(image.digest, subject=[]), "no in-toto statement"),
        (lambda key, image: b"half of a bun", "no Sigstore bundle"),
    ],
)
def test_what_the_right_key_signed_must_be_a_signature_of_this_digest(
    image: Bundle, key: Key, bundle: Callable[[Key, Bundle], bytes], reason: str
) -> None:
    assert reason in why(image, [key.trusted], attach(image, bundle(key, image)))


def test_a_signature_of_another_image_that_is_listed_here_is_refused(
    image: Bundle, key: Key, tmp_path: Path
) -> None:
    write_image(tmp_path / "other.tar", layer(b="2"))
    other = open_archive(tmp_path / "other.tar")
    server = FakeRegistry()

    async def main() -> None:
        async with Registry("127.0.0.1:5999", transport=server) as registry:
            for one in (image, other):
                await push(registry, "api", one)
            await push(registry, "api", attach(other, key.bundle(other.digest)))
            lists = server.manifests
            lists["api", image.digest.replace(":", "-")] = lists["api", other.digest.replace(":", "-")]
            await signature_of(registry, "api", image.digest, [key.trusted])

    with pytest.raises(PolicyBlocked, match="one of something else"):
        run(main())


def test_a_flood_of_signatures_is_looked_at_in_part_only(image: Bundle, key: Key, tmp_path: Path) -> None:
    stranger = Key(tmp_path / "stranger.pub")
    flood = [attach(image, stranger.bundle(image.digest)) for _ in range(33)]
    assert "only 32 of its 33 signatures" in why(image, [key.trusted], *flood)


def test_a_public_key_that_is_none_is_said_so(image: Bundle, key: Key, tmp_path: Path) -> None:
    made = attach(image, key.bundle(image.digest))
    with pytest.raises(BadInput, match=r"cannot read the public key .*gone\.pub"):
        look(image, [TrustedSigner(key=tmp_path / "gone.pub")], made)
    (tmp_path / "no.pub").write_text("hello")
    with pytest.raises(BadInput, match=r"no\.pub is not a public key"):
        look(image, [TrustedSigner(key=tmp_path / "no.pub")], made)


# Cosign --------------------------------------------------------------------------------------------------


@pytest.fixture
def cosign(tmp_path: Path) -> Path:
    """Writes down what it is told, and answers with what a test has put beside it."""
    program = tmp_path / "bin" / "cosign"
    program.parent.mkdir()
    program.write_text(
        f"""#!/bin/sh
printf '%s\\n' "$@" > {tmp_path}/told
printf '%s' "$COSIGN_PASSWORD" > {tmp_path}/password-told
case $1 in
generate-key-pair)
  echo private > cosign.key; echo public > cosign.pub;;
public-key)
  [ -f {tmp_path}/vault ] || {{ echo 'no such vault' >&2; exit 1; }}
  cp {tmp_path}/cosign.pub "$5";;
attest-blob)
  while [ $# -gt 0 ]; do
    case $1 in --bundle) out=$2;; --statement) cp $2 {tmp_path}/statement;; esac; shift
  done
  cp {tmp_path}/made "$out";;
esac
"""
    )
    program.chmod(0o755)
    return program


def told(folder: Path) -> list[str]:
    return (folder / "told").read_text().splitlines()


def test_a_key_pair_is_made_once_and_is_its_owners_only(cosign: Path, tmp_path: Path) -> None:
    pair = KeyPair(folder=tmp_path / "state" / "signing")

    assert run(make_key_pair(pair, cosign=cosign))

    assert pair.folder.stat().st_mode & 0o777 == 0o700
    for file in (pair.private, pair.public, pair.password):
        assert file.stat().st_mode & 0o777 == 0o600
    password = pair.password.read_text()
    assert len(password) > 30 and (tmp_path / "password-told").read_text() == password
    assert password not in told(tmp_path)
    assert not run(make_key_pair(pair, cosign=cosign))
    assert pair.password.read_text() == password


def test_half_a_key_pair_is_never_replaced(cosign: Path, tmp_path: Path) -> None:
    pair = KeyPair(folder=tmp_path / "signing")
    run(make_key_pair(pair, cosign=cosign))
    pair.private.unlink()
    with pytest.raises(BadInput, match="no whole key pair"):
        run(make_key_pair(pair, cosign=cosign))
    with pytest.raises(BadInput, match="there is no signing key") as missing:
        key_signer(pair)
    assert "va up makes one" in missing.value.hint


def test_a_key_signs_without_asking_anyone(cosign: Path, key: Key, tmp_path: Path) -> None:
    digest = "sha256:" + "b" * 64
    made = key.bundle(digest)
    (tmp_path / "made").write_bytes(made)

    assert run(sign(key.signer, digest, cosign=cosign)) == made

    words = told(tmp_path)
    assert words[:4] == ["attest-blob", "--yes", "--key", "x"]
    assert {"--signing-config", "--trusted-root"} < set(words)
    assert json.loads((tmp_path / "statement").read_text())["subject"] == [{"digest": {"sha256": "b" * 64}}]


def test_what_cosign_made_is_verified_before_it_is_used(cosign: Path, key: Key, tmp_path: Path) -> None:
    (tmp_path / "made").write_bytes(key.bundle("sha256:" + "c" * 64))
    with pytest.raises(StepFailed, match="but it signs another digest"):
        run(sign(key.signer, "sha256:" + "b" * 64, cosign=cosign))


def test_a_key_in_azure_is_named_by_its_uri(
    cosign: Path, key: Key, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VA_CACHE", str(tmp_path / "cache"))
    uri = "azurekms://voice.vault.azure.net/release"
    with pytest.raises(SystemUnavailable, match="no such vault"):
        run(kms_signer(uri, cosign=cosign))
    (tmp_path / "vault").touch()

    signer = run(kms_signer(uri, cosign=cosign))

    assert signer.arguments == ("--key", uri) and signer.password is None
    assert signer.verified_by.key is not None
    assert signer.verified_by.key.read_bytes() == key.file.read_bytes()
    for wrong in ("azurekms://", "azurekms://voice"):
        with pytest.raises(BadInput, match="names no key"):
            run(kms_signer(wrong, cosign=cosign))


# Keyless -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sigstore() -> Sigstore:
    return Sigstore()


@pytest.fixture
def workflow(sigstore: Sigstore, tmp_path: Path) -> Workflow:
    return Workflow(sigstore=sigstore, root=sigstore.write_root(tmp_path / "trusted_root.json"))


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process is one of GitHub Actions' jobs."""
    monkeypatch.delenv("GITHUB_SERVER_URL", raising=False)
    monkeypatch.setenv("GITHUB_WORKFLOW_REF", WORKFLOW)
    monkeypatch.setenv("ACTIONS_ID_TOKEN_REQUEST_URL", "https://token")


def test_keyless_signs_as_the_workflow_and_only_there(
    workflow: Workflow, job: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    signer = keyless_signer([workflow.trusted])

    assert signer.verified_by == workflow.trusted
    assert signer.arguments == (
        "--oidc-provider",
        "github-actions",
    )  # the public Sigstore is cosign's to know

    for name in ("GITHUB_WORKFLOW_REF", "ACTIONS_ID_TOKEN_REQUEST_URL"):
        with monkeypatch.context() as without:
            without.delenv(name)
            with pytest.raises(BadInput, match="needs the OIDC token") as refused:
                keyless_signer([workflow.trusted])
            assert "id-token: write" in refused.value.hint


def test_a_pattern_that_trusts_the_workflow_is_verified_by_its_own_name(
    workflow: Workflow, job: None
) -> None:
    pattern = workflow.trusted.model_copy(update={"identity": "https://github.com/o/*"})
    assert keyless_signer([pattern]).verified_by == workflow.trusted


def test_a_workflow_that_nobody_trusts_does_not_sign(workflow: Workflow, key: Key, job: None) -> None:
    other = workflow.trusted.model_copy(update={"identity": IDENTITY.replace("main", "other")})
    elsewhere = workflow.trusted.model_copy(update={"issuer": "https://gitlab.com"})
    for trusted in ([], [key.trusted, other, elsewhere]):
        with pytest.raises(BadInput, match=f"signs as {IDENTITY}, and no environment trusts that") as refused:
            keyless_signer(trusted)
        assert "trust.signers" in refused.value.hint


def test_a_sigstore_of_ones_own_is_named_by_its_files(workflow: Workflow, job: None, tmp_path: Path) -> None:
    services = tmp_path / "signing_config.json"
    with pytest.raises(BadInput, match="there is no signing configuration"):
        keyless_signer([workflow.trusted], services=services)
    services.write_text("{}")

    words = keyless_signer([workflow.trusted], services=services).arguments

    assert words[words.index("--signing-config") + 1] == str(services)
    assert words[words.index("--trusted-root") + 1] == str(workflow.root)
    workflow.root.unlink()
    with pytest.raises(BadInput, match="cannot read the trusted root"):
        keyless_signer([workflow.trusted])


def test_a_keyless_signature_says_who_it_was(image: Bundle, workflow: Workflow, key: Key) -> None:
    made = attach(image, workflow.bundle(image.digest))
    pattern = workflow.trusted.model_copy(update={"identity": "https://github.com/o/*@refs/heads/main"})

    for trusted in (workflow.trusted, pattern):
        found = look(image, [key.trusted, trusted], made)
        assert (found.by, found.who) == (trusted, f"{IDENTITY} (issuer {ISSUER})")


def test_what_a_key_signed_names_the_key(image: Bundle, workflow: Workflow, key: Key) -> None:
    found = look(image, [workflow.trusted, key.trusted], attach(image, key.bundle(image.digest)))
    assert (found.by, found.who) == (key.trusted, f"the key {key.id} (cosign.pub)")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"identity": IDENTITY.replace("main", "topic")}, f"it is by {IDENTITY} (issuer {ISSUER}), not by"),
        ({"issuer": "https://gitlab.com"}, f"it is by {IDENTITY} (issuer {ISSUER}), not by"),
    ],
)
def test_another_name_or_another_issuer_is_refused(
    image: Bundle, workflow: Workflow, change: dict[str, str], reason: str
) -> None:
    trusted = workflow.trusted.model_copy(update=change)
    assert reason in why(image, [trusted], attach(image, workflow.bundle(image.digest)))


@pytest.mark.parametrize(
    ("bundle", "reason"),
    [
        (lambda workflow, image: workflow.bundle("sha256:" + "a" * 64), "it signs another digest"),
        (lambda workflow, image: workflow.bundle(image.digest, predicate="https://x/y"), "no signature of"),
        (lambda workflow, image: workflow.bundle(image.digest, subject=[]), "no in-toto statement"),
        (lambda workflow, image: b"half of a bun", "not signed by a certificate that a log shows"),
        (
            lambda workflow, image: workflow.sigstore.bundle(statement(image.digest), timed=False),
            "must contain an inclusion promise or signed timestamp",
        ),
        (
            lambda workflow, image: altered(workflow.bundle(image.digest), another_payload),
            "invalid signature",
        ),
    ],
)
def test_a_keyless_signature_must_be_one_of_this_digest(
    image: Bundle, workflow: Workflow, bundle: Callable[[Workflow, Bundle], bytes], reason: str
) -> None:
    assert reason in why(image, [workflow.trusted], attach(image, bundle(workflow, image)))


def test_what_cosign_signed_without_a_key_is_verified_before_it_is_used(
    cosign: Path, workflow: Workflow, tmp_path: Path
) -> None:
    digest = "sha256:" + "b" * 64
    (tmp_path / "made").write_bytes(workflow.bundle(digest))
    assert run(sign(workflow.signer, digest, cosign=cosign)) == (tmp_path / "made").read_bytes()
    assert "--signing-config" not in told(tmp_path)
    (tmp_path / "made").write_bytes(workflow.bundle("sha256:" + "c" * 64))
    with pytest.raises(StepFailed, match="but it signs another digest"):
        run(sign(workflow.signer, digest, cosign=cosign))
