"""Signatures for real: cosign without a network, real registries, and the embedded cluster's own refusal."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from key_vault import KeyVault
from oci import layer
from oci import write_image as write_small
from own_sigstore import IDENTITY, ISSUER, Served, Sigstore
from real_registry import free_port, registry_on
from signing_key import statement
from tiny_image import write_tiny_image
from waiting import until

from ci import platform, tools
from ci.delivery.cluster import Cluster, connect
from ci.delivery.site import REGION_LABEL
from ci.environments import TrustedSigner
from ci.errors import BadInput, PolicyBlocked, SystemUnavailable, ToolMissing
from ci.platform.cluster import client
from ci.registry import Bundle, Registry, open_archive, parse_manifest, push
from ci.supply.signing import (
    KeyPair,
    key_signer,
    keyless_signer,
    kms_signer,
    make_key_pair,
    sign,
    signature,
    signature_of,
)

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

PLACE = platform.addresses()
NAMESPACE = f"va-signing-{os.getpid()}"
HOME = PLACE.registries["eastus"]
try:
    COSIGN = tools.path("cosign")
    tools.path("docker-registry")
except ToolMissing as missing:
    pytest.skip(f"{missing}: va up provides it", allow_module_level=True)


async def key(folder: Path) -> KeyPair:
    pair = KeyPair(folder=folder)
    await make_key_pair(pair, cosign=COSIGN)
    return pair


async def sign_there(registry: Registry, name: str, bundle: Bundle, pair: KeyPair) -> None:
    made = await sign(key_signer(pair), bundle.digest, cosign=COSIGN)
    await push(registry, name, signature(made, bundle.root.descriptor))


def cosign_verify(reference: str, public: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """What whoever has only cosign and the public key finds out."""
    return subprocess.run(
        [COSIGN, "verify", "--key", public, "--insecure-ignore-tlog=true", *more, reference],
        capture_output=True,
        text=True,
        check=False,
    )


# Any registry ----------------------------------------------------------------------------------------------


def test_cosign_agrees_with_us_on_what_is_signed_and_what_is_not(tmp_path: Path) -> None:
    write_small(tmp_path / "a.tar", layer(a="1"))
    write_small(tmp_path / "b.tar", layer(b="2"))
    one, two = open_archive(tmp_path / "a.tar"), open_archive(tmp_path / "b.tar")

    async def main(endpoint: str) -> None:
        pair, stranger = await key(tmp_path / "ours"), await key(tmp_path / "stranger")
        async with Registry(endpoint) as registry:
            for image in (one, two):
                await push(registry, "api", image)
            await sign_there(registry, "api", one, pair)
            await sign_there(registry, "api", two, stranger)
            ours = [key_signer(pair).verified_by]
            assert (await signature_of(registry, "api", one.digest, ours)).by == ours[0]
            with pytest.raises(PolicyBlocked, match="it is not by the key"):
                await signature_of(registry, "api", two.digest, ours)
        there = f"{endpoint}/api@"
        assert cosign_verify(there + one.digest, pair.public).returncode == 0
        assert cosign_verify(there + two.digest, pair.public).returncode != 0
        assert cosign_verify(there + two.digest, stranger.public).returncode == 0

    with registry_on(tmp_path / "registry", free_port()) as endpoint:
        asyncio.run(main(endpoint))


def test_a_signature_that_cosign_itself_attached_is_found(tmp_path: Path) -> None:
    write_small(tmp_path / "a.tar", layer(a="1"))
    image = open_archive(tmp_path / "a.tar")
    (tmp_path / "services.json").write_text(
        '{"mediaType": "application/vnd.dev.sigstore.signingconfig.v0.2+json"}'
    )
    (tmp_path / "root.json").write_text(
        '{"mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1"}'
    )

    async def main(endpoint: str) -> None:
        pair = await key(tmp_path / "ours")
        async with Registry(endpoint) as registry:
            await push(registry, "api", image)
            subprocess.run(  # noqa: ASYNC221
                [COSIGN, "sign", "--yes", "--key", pair.private, f"{endpoint}/api@{image.digest}",
                 "--signing-config", tmp_path / "services.json", "--trusted-root", tmp_path / "root.json"],
                env={**os.environ, "COSIGN_PASSWORD": pair.password.read_text()}, check=True,
            )  # fmt: skip
            await signature_of(registry, "api", image.digest, [key_signer(pair).verified_by])

    with registry_on(tmp_path / "registry", free_port()) as endpoint:
        asyncio.run(main(endpoint))


_OFFLINE = """\
import asyncio, sys
from pathlib import Path
from ci import tools
from ci.supply.signing import KeyPair, key_signer, make_key_pair, sign

async def main(folder):
    pair = KeyPair(folder=folder)
    await make_key_pair(pair, cosign=tools.path("cosign"))
    await sign(key_signer(pair), "sha256:" + "a" * 64, cosign=tools.path("cosign"))

asyncio.run(main(Path(sys.argv[1])))
"""


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="needs root and unshare")
def test_a_key_is_made_and_signs_with_no_network_at_all(tmp_path: Path) -> None:
    done = subprocess.run(
        ["unshare", "--net", sys.executable, "-c", _OFFLINE, tmp_path / "key"],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "TUF_ROOT": str(tmp_path / "tuf")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "tuf").exists()


# Keyless: cosign at a Sigstore of the test's own -----------------------------------------------------------


def cosign_knows(reference: str, root: Path, identity: str, issuer: str) -> subprocess.CompletedProcess[str]:
    """What whoever has only cosign and the trusted root finds out."""
    return subprocess.run(
        [COSIGN, "verify", "--trusted-root", root, "--certificate-identity", identity,
         "--certificate-oidc-issuer", issuer, reference],
        capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("version", [1, 2])
def test_a_job_signs_without_a_key_and_cosign_agrees_on_whose_signature_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: int
) -> None:
    """Cosign itself asks for token, certificate, time stamp and log; nobody is asked on verifying."""
    write_small(tmp_path / "a.tar", layer(a="1"))
    image = open_archive(tmp_path / "a.tar")
    sigstore = Sigstore()

    async def main(endpoint: str, served: Served) -> None:
        trusted = TrustedSigner(identity="https://github.com/o/r/*", issuer=ISSUER, trusted_root=served.root)
        signer = keyless_signer([trusted], services=served.services)
        bundle = signature(await sign(signer, image.digest, cosign=COSIGN), image.root.descriptor)
        async with Registry(endpoint) as registry:
            await push(registry, "api", image)
            await push(registry, "api", bundle)
            found = await signature_of(registry, "api", image.digest, [trusted])
            assert (found.who, found.artifact.digest) == (f"{IDENTITY} (issuer {ISSUER})", bundle.digest)
            for change in ({"identity": IDENTITY.replace("main", "topic")}, {"issuer": "https://gitlab.com"}):
                other = signer.verified_by.model_copy(update=change)
                with pytest.raises(PolicyBlocked, match=f"it is by {IDENTITY}"):
                    await signature_of(registry, "api", image.digest, [other])

    with registry_on(tmp_path / "registry", free_port()) as endpoint:
        with sigstore.serve(tmp_path, version=version) as served:
            for name, value in served.environment.items():
                monkeypatch.setenv(name, value)
            asyncio.run(main(endpoint, served))
            assert served.asked == [
                "/api/v2/signingCert", "/timestamp", f"/api/v{version}/log/entries",
            ]  # fmt: skip
        there = f"{endpoint}/api@{image.digest}"
        good = cosign_knows(there, served.root, IDENTITY, ISSUER)
        assert good.returncode == 0, good.stderr
        assert cosign_knows(there, served.root, IDENTITY.replace("main", "topic"), ISSUER).returncode != 0
        assert cosign_knows(there, served.root, IDENTITY, "https://gitlab.com").returncode != 0


def test_a_job_without_the_token_signs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Sigstore().serve(tmp_path) as served:
        for name, value in served.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "another's")
        trusted = TrustedSigner(identity=IDENTITY, issuer=ISSUER, trusted_root=served.root)
        signer = keyless_signer([trusted], services=served.services)
        with pytest.raises(SystemUnavailable, match="cosign"):
            asyncio.run(sign(signer, "sha256:" + "a" * 64, cosign=COSIGN))
        assert served.asked == []


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(
    ("case", "believed"),
    [
        ("good", True),
        ("certificate ran out since", True),
        ("certificate had run out", False),
        ("nobody says when", False),
        ("another Sigstore", False),
        ("another digest", False),
    ],
)
def test_cosign_and_this_project_believe_the_same(
    tmp_path: Path, case: str, believed: bool, version: int
) -> None:
    write_small(tmp_path / "a.tar", layer(a="1"))
    image = open_archive(tmp_path / "a.tar")
    sigstore, now = Sigstore(), datetime.now(UTC)
    root = sigstore.write_root(tmp_path / "root.json")
    bundle = (Sigstore() if case == "another Sigstore" else sigstore).bundle(
        statement("sha256:" + "b" * 64 if case == "another digest" else image.digest),
        version=version,
        issued=now - timedelta(hours=3) if case == "certificate had run out" else None,
        signed=now - timedelta(hours=3) if case == "certificate ran out since" else None,
        timed=case != "nobody says when",
    )
    trusted = TrustedSigner(identity=IDENTITY, issuer=ISSUER, trusted_root=root)

    async def main(endpoint: str) -> bool:
        async with Registry(endpoint) as registry:
            await push(registry, "api", image)
            await push(registry, "api", signature(bundle, image.root.descriptor))
            try:
                return bool(await signature_of(registry, "api", image.digest, [trusted]))
            except PolicyBlocked:
                return False

    with registry_on(tmp_path / "registry", free_port()) as endpoint:
        ours = asyncio.run(main(endpoint))
        said = cosign_knows(f"{endpoint}/api@{image.digest}", root, IDENTITY, ISSUER)
    assert (ours, said.returncode == 0) == (believed, believed), said.stderr


# Azure Key Vault: cosign at a stand-in of it ----------------------------------------------------------------


@contextmanager
def asking(vault: KeyVault, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a key in that vault, for this process and the programs that it starts."""
    monkeypatch.setenv("VA_CACHE", str(folder / "cache"))
    with vault.serve(folder) as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        yield f"azurekms://{vault.name}/release"


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1()])
def test_a_key_in_a_vault_signs_and_its_public_half_verifies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, curve: ec.EllipticCurve
) -> None:
    write_small(tmp_path / "a.tar", layer(a="1"))
    image = open_archive(tmp_path / "a.tar")
    vault = KeyVault(ec.generate_private_key(curve))

    async def main(endpoint: str) -> None:
        with asking(vault, tmp_path, monkeypatch) as uri:
            signer = await kms_signer(uri, cosign=COSIGN)
            assert set(vault.asked) == {"GET keys/release"}
            made = await sign(signer, image.digest, cosign=COSIGN)
            assert vault.asked[-1] == "POST keys/release/sign"
            vault.asked.clear()
            async with Registry(endpoint) as registry:
                await push(registry, "api", image)
                await push(registry, "api", signature(made, image.root.descriptor))
                assert await signature_of(registry, "api", image.digest, [signer.verified_by])
            assert signer.verified_by.key is not None
            said = cosign_verify(
                f"{endpoint}/api@{image.digest}",
                signer.verified_by.key,
                *(
                    "--signature-digest-algorithm",
                    f"sha{curve.key_size}",
                ),  # else it takes SHA-256 for granted
            )
            assert said.returncode == 0, said.stderr
            assert vault.asked == []  # who verifies needs no vault

    with registry_on(tmp_path / "registry", free_port()) as endpoint:
        asyncio.run(main(endpoint))


def test_a_vault_that_refuses_is_said_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vault = KeyVault(ec.generate_private_key(ec.SECP256R1()))
    with asking(vault, tmp_path, monkeypatch) as uri:
        signer = asyncio.run(kms_signer(uri, cosign=COSIGN))
        vault.refuses = True
        with pytest.raises(SystemUnavailable, match="Caller is not authorized to sign"):
            asyncio.run(sign(signer, "sha256:" + "a" * 64, cosign=COSIGN))
        with pytest.raises(SystemUnavailable, match="403"):
            asyncio.run(kms_signer(uri, cosign=COSIGN))


def test_a_key_that_cosign_cannot_sign_with_is_refused_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vault = KeyVault(rsa.generate_private_key(65537, 2048))
    with asking(vault, tmp_path, monkeypatch) as uri, pytest.raises(BadInput, match="elliptic curve"):
        asyncio.run(kms_signer(uri, cosign=COSIGN))


# The embedded cluster --------------------------------------------------------------------------------------


def up() -> bool:
    try:
        ready = httpx.get(f"{PLACE.prometheus}/-/ready", timeout=30).is_success
    except httpx.HTTPError:
        return False
    return ready and PLACE.kubeconfig.is_file() and KeyPair(folder=PLACE.signing).public.is_file()


on_platform = pytest.mark.skipif(not up(), reason="the embedded platform is not up: va up")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    connected = connect(PLACE.kubeconfig, PLACE.context)
    asyncio.run(connected.ensure_namespace(NAMESPACE, {REGION_LABEL: "eastus"}))
    # No pod at all can be made before the namespace has its service account.
    until(lambda: ask("GET", "serviceaccounts/default").is_success)
    yield connected
    ask("DELETE", f"/api/v1/namespaces/{NAMESPACE}")


def ask(method: str, path: str, body: object = None) -> httpx.Response:
    """One question to the cluster's API; `path` is below the namespace, or starts with a slash."""

    async def main() -> httpx.Response:
        where = path if path.startswith("/") else f"/api/v1/namespaces/{NAMESPACE}/{path}"
        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        async with client(PLACE.kubeconfig) as api:
            return await api.request(method, where, json=body, headers={"Content-Type": kind})

    return asyncio.run(main())


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """busybox in the home registry, signed with the platform's key; its config says whose run made it."""
    file = tmp_path_factory.mktemp("image") / "busybox.tar"
    write_tiny_image(file, config={"Env": ["PATH=/bin"], "Labels": {"run": NAMESPACE}})
    bundle = open_archive(file)

    async def main() -> None:
        async with Registry(HOME) as registry:
            await push(registry, "trial", bundle, tags=["v1"])
            await sign_there(registry, "trial", bundle, KeyPair(folder=PLACE.signing))

    asyncio.run(main())
    return bundle


def altered(bundle: Bundle, mark: str) -> Bundle:
    manifest = {**json.loads(bundle.root.raw), "annotations": {"mark": f"{mark} {NAMESPACE}"}}
    return Bundle(manifests=(parse_manifest(json.dumps(manifest).encode()),), blobs=bundle.blobs)


def refusal(cluster: Cluster, image: str, namespace: str = NAMESPACE) -> str:
    return asyncio.run(cluster.refuses(namespace, image))


RESTRICTED = {
    "runAsNonRoot": True,
    "runAsUser": 1000,
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}
"""What a target's namespace asks of every pod: without it these tests would be refused for another reason."""


def pod(name: str, image: str) -> dict[str, object]:
    container = {
        "name": "main",
        "image": image,
        "command": ["busybox", "sleep", "60"],
        "securityContext": RESTRICTED,
    }
    spec = {"containers": [container], "terminationGracePeriodSeconds": 0}
    return {"metadata": {"name": name}, "spec": spec}


@on_platform
def test_a_signed_image_runs(cluster: Cluster, image: Bundle) -> None:
    made = ask("POST", "pods", pod("signed", f"{HOME}/trial@{image.digest}"))
    assert made.is_success, made.text
    until(lambda: ask("GET", "pods/signed").json()["status"]["phase"] == "Running")
    # What runs can be changed and taken away, whatever is asked about its image.
    assert ask("PATCH", "pods/signed", {"metadata": {"labels": {"seen": "yes"}}}).is_success
    assert ask("DELETE", "pods/signed").is_success


@on_platform
def test_an_unsigned_image_is_refused_with_the_reason(cluster: Cluster, image: Bundle) -> None:
    other = altered(image, "unsigned")

    async def put() -> None:
        async with Registry(HOME) as registry:
            await push(registry, "trial", other)

    asyncio.run(put())
    said = ask("POST", "pods", pod("unsigned", f"{HOME}/trial@{other.digest}"))
    assert said.status_code == 403
    assert said.json()["message"] == (
        'admission webhook "eastus.signed-images.va.dev" denied the request: '
        f"{HOME}/trial@{other.digest} is not signed"
    )
    assert ask("GET", "pods/unsigned").status_code == 404


@on_platform
def test_a_signature_of_another_key_is_refused(cluster: Cluster, image: Bundle, tmp_path: Path) -> None:
    other = altered(image, "stranger")

    async def put() -> None:
        async with Registry(HOME) as registry:
            await push(registry, "trial", other)
            await sign_there(registry, "trial", other, await key(tmp_path / "stranger"))

    asyncio.run(put())
    said = refusal(cluster, f"{HOME}/trial@{other.digest}")
    assert "has no signature that is trusted here: it is not by the key" in said


@on_platform
def test_the_signature_of_one_image_does_not_serve_another(cluster: Cluster, image: Bundle) -> None:
    """Someone attaches our signature of the good image to theirs."""
    other = altered(image, "borrowed")

    async def put() -> None:
        async with Registry(HOME) as registry:
            await push(registry, "trial", other)
            ours = await signature_of(
                registry, "trial", image.digest, [key_signer(KeyPair(folder=PLACE.signing)).verified_by]
            )
            await push(registry, "trial", signature(ours.artifact.blobs[-1].read(), other.root.descriptor))

    asyncio.run(put())
    assert "it signs another digest" in refusal(cluster, f"{HOME}/trial@{other.digest}")


@on_platform
def test_a_tag_is_refused_and_a_replaced_one_changes_nothing(cluster: Cluster, image: Bundle) -> None:
    assert "is not named by digest" in refusal(cluster, f"{HOME}/trial:v1")
    other = altered(image, "replaced")

    async def put() -> None:
        async with Registry(HOME) as registry:
            await push(registry, "trial", other, tags=["v1"])

    asyncio.run(put())
    # The digest decides, whatever the tag beside it points to now.
    assert refusal(cluster, f"{HOME}/trial:v1@{image.digest}") == ""
    assert "is not signed" in refusal(cluster, f"{HOME}/trial:v1@{other.digest}")


@on_platform
def test_the_registry_of_another_region_is_refused(cluster: Cluster, image: Bundle) -> None:
    far = PLACE.registries["westeurope"]
    assert f"is not from this region's registry, {HOME}" in refusal(cluster, f"{far}/trial@{image.digest}")


@on_platform
def test_an_image_that_is_not_there_is_refused(cluster: Cluster) -> None:
    assert "is not signed" in refusal(cluster, f"{HOME}/trial@sha256:{'0' * 64}")


@on_platform
def test_namespaces_of_nobodys_region_are_not_asked_about(cluster: Cluster) -> None:
    assert refusal(cluster, "registry.example/any:tag", "default") == ""


@on_platform
def test_a_deployment_of_an_unsigned_image_says_why_it_has_no_pods(cluster: Cluster, image: Bundle) -> None:
    labels = {"app": "unsigned"}
    container = {"name": "main", "image": f"{HOME}/trial:v1", "securityContext": RESTRICTED}
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "unsigned"},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}},
        },
    }
    assert ask("POST", f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments", deployment).is_success
    found: dict[str, str] = {}

    def said() -> bool:
        found.update(asyncio.run(cluster.refusals(NAMESPACE)))
        return bool(found)

    until(said)
    ((name, why),) = found.items()
    assert name.startswith("unsigned-") and "is not named by digest" in why
