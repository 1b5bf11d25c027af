from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fake_registry import FakeRegistry
from oci import layer, write_image
from own_sigstore import IDENTITY, Sigstore, Workflow
from signing_key import Key

from ci.environments import TrustedSigner
from ci.errors import BadInput, PolicyBlocked, SystemUnavailable
from ci.registry import Bundle, Registry, open_archive, push
from ci.supply import admission
from ci.supply.signing import signature

HERE = "127.0.0.1:5501"
DIGEST = "sha256:" + "a" * 64
GOOD = f"{HERE}/api@{DIGEST}"


def pod(*images: str, **more: Any) -> dict[str, Any]:
    return {"spec": {"containers": [{"image": image} for image in images], **more}}


def asked(new: dict[str, Any], old: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"request": {"uid": "u1", "object": new, "oldObject": old}}


class Verifier:
    """Everything is signed but what has an error here; remembers what it was asked."""

    def __init__(self, **errors: Exception) -> None:
        self.errors, self.seen = errors, list[tuple[str, str]]()

    async def __call__(self, repository: str, digest: str) -> None:
        self.seen.append((repository, digest))
        if repository in self.errors:
            raise self.errors[repository]


def answer(
    new: dict[str, Any], old: dict[str, Any] | None = None, verify: Verifier | None = None
) -> tuple[bool, str]:
    said = asyncio.run(admission.review(asked(new, old), HERE, verify or Verifier()))
    response = said["response"]
    assert (said["kind"], response["uid"]) == ("AdmissionReview", "u1")
    return response["allowed"], response.get("status", {}).get("message", "")


def test_a_pod_of_signed_images_is_admitted() -> None:
    assert answer(pod(GOOD, f"{HERE}/agent:v1@{DIGEST}")) == (True, "")


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (f"{HERE}/api:v1", "is not named by digest: what a tag means can be changed"),
        (f"{HERE}/api", "is not named by digest"),
        (f"127.0.0.1:5502/api@{DIGEST}", f"is not from this region's registry, {HERE}"),
        ("docker.io/library/busybox:1", "is not from this region's registry"),
        ("busybox", "the image 'busybox' cannot be verified: 'busybox' names no registry"),
        (f"{HERE}/api@sha256:abc", "is not a digest"),
        ("", "cannot be verified"),
        (f"{HERE}/agent@{DIGEST}", "agent is not signed"),
        (f"{HERE}/web@{DIGEST}", "cannot be verified now: the registry is down"),
    ],
)
def test_others_are_refused_with_the_reason(image: str, reason: str) -> None:
    verify = Verifier(
        agent=PolicyBlocked("agent is not signed"), web=SystemUnavailable("the registry is down")
    )
    allowed, said = answer(pod(GOOD, image), verify=verify)
    assert not allowed and reason in said


@pytest.mark.parametrize(
    "more",
    [
        {"initContainers": [{"image": f"{HERE}/api:v1"}]},
        {"ephemeralContainers": [{"image": f"{HERE}/api:v1"}]},
        {"volumes": [{"name": "x", "image": {"reference": f"{HERE}/api:v1"}}]},
    ],
)
def test_no_place_in_a_pod_is_left_out(more: dict[str, Any]) -> None:
    allowed, said = answer(pod(GOOD, **more))
    assert not allowed and f"{HERE}/api:v1 is not named by digest" in said


def test_every_reason_is_said_at_once() -> None:
    _, said = answer(pod("busybox", f"{HERE}/api:v1"))
    assert "busybox" in said and "api:v1" in said


def test_a_change_that_names_no_new_image_is_not_looked_at() -> None:
    verify = Verifier(api=SystemUnavailable("down"))
    assert answer(pod(GOOD), pod(GOOD), verify) == (True, "")
    assert verify.seen == []
    assert not answer(pod(GOOD, f"{HERE}/web:v1"), pod(GOOD), verify)[0]


# The whole webhook, to a registry --------------------------------------------------------------------------


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> FakeRegistry:
    made = FakeRegistry()
    monkeypatch.setattr(admission, "registry_at", lambda endpoint, **_: Registry(endpoint, transport=made))
    return made


async def push_all(server: FakeRegistry, image: Bundle, *attached: Bundle) -> str:
    async with Registry(HERE, transport=server) as registry:
        for one in (image, *attached):
            await push(registry, "api", one)
    return f"{HERE}/api@{image.digest}"


def pushed(server: FakeRegistry, image: Bundle, *attached: Bundle) -> str:
    return asyncio.run(push_all(server, image, *attached))


@asynccontextmanager
async def client(trusted: Sequence[TrustedSigner]) -> AsyncIterator[httpx.AsyncClient]:
    """Who asks the webhook, while it runs."""
    app = admission.app({"eastus": HERE}, trusted)
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://webhook") as http,
    ):
        yield http


def test_a_verdict_is_remembered_when_it_is_good_and_only_then(server: FakeRegistry, tmp_path: Path) -> None:
    key = Key(tmp_path / "cosign.pub")
    write_image(tmp_path / "image.tar", layer(a="1"))
    image = open_archive(tmp_path / "image.tar")
    name = pushed(server, image)

    async def main() -> None:
        async with client([key.trusted]) as http:

            async def ask() -> dict[str, Any]:
                said: dict[str, Any] = (await http.post("/regions/eastus", json=asked(pod(name)))).json()
                return said["response"]

            assert (await ask())["status"]["message"] == f"{name} is not signed"
            await push_all(server, image, signature(key.bundle(image.digest), image.root.descriptor))
            assert (await ask())["allowed"]
            server.asked.clear()
            assert (await ask())["allowed"]
            assert server.asked == []
            mars = (await http.post("/regions/mars", json=asked(pod(name)))).json()["response"]
            assert not mars["allowed"] and "there is eastus" in mars["status"]["message"]
            assert (await http.get("/healthz")).text == "ok"

    asyncio.run(main())


def test_a_key_that_was_replaced_in_its_file_counts_at_once(server: FakeRegistry, tmp_path: Path) -> None:
    file = tmp_path / "cosign.pub"
    key = Key(file)
    write_image(tmp_path / "image.tar", layer(a="1"))
    image = open_archive(tmp_path / "image.tar")
    name = pushed(server, image, signature(key.bundle(image.digest), image.root.descriptor))

    async def main() -> None:
        async with client([key.trusted]) as http:

            async def allowed() -> bool:
                said = (await http.post("/regions/eastus", json=asked(pod(name)))).json()
                return bool(said["response"]["allowed"])

            assert await allowed()
            old = file.read_bytes()
            Key(file)  # another one: what the first signed is believed no more, remembered or not
            assert not await allowed()
            file.unlink()
            assert not await allowed()
            file.write_bytes(old)
            assert await allowed()

    asyncio.run(main())


def test_who_signs_without_a_key_is_admitted_by_name(server: FakeRegistry, tmp_path: Path) -> None:
    sigstore = Sigstore()
    main = Workflow(sigstore=sigstore, root=sigstore.write_root(tmp_path / "trusted_root.json"))
    topic = Workflow(sigstore=sigstore, root=main.root, identity=IDENTITY.replace("main", "topic"))
    write_image(tmp_path / "good.tar", layer(a="1"))
    write_image(tmp_path / "bad.tar", layer(a="2"))
    good, bad = open_archive(tmp_path / "good.tar"), open_archive(tmp_path / "bad.tar")
    names = [
        pushed(server, image, signature(by.bundle(image.digest), image.root.descriptor))
        for image, by in ((good, main), (bad, topic))
    ]
    file = tmp_path / "trust.json"
    file.write_text(json.dumps([main.trusted.model_dump(mode="json", exclude_none=True)]))

    async def main() -> list[dict[str, Any]]:
        async with client(admission.read_trust(file)) as http:
            answers = [await http.post("/regions/eastus", json=asked(pod(name))) for name in names]
        return [one.json()["response"] for one in answers]

    said = asyncio.run(main())
    assert [one["allowed"] for one in said] == [True, False]
    assert f"it is by {topic.identity} (issuer {topic.issuer}), not by" in said[1]["status"]["message"]


def test_who_may_sign_is_read_before_anybody_asks(tmp_path: Path) -> None:
    file = tmp_path / "trust.json"
    key = Key(tmp_path / "cosign.pub").trusted
    file.write_text(json.dumps([{"key": str(key.key)}]))
    assert admission.read_trust(file) == (key,)
    nobodys = TrustedSigner(identity="w", issuer="i", trusted_root=tmp_path / "gone.json")
    for content, reason in (
        ("[]", "names nobody"),
        ("[{}]", "does not say who may sign"),
        ('[{"kei": "x"}]', "does not say who may sign"),
        ("half", "does not say who may sign"),
        (f"[{nobodys.model_dump_json(exclude_none=True)}]", "cannot read the trusted root"),
    ):
        file.write_text(content)
        with pytest.raises(BadInput, match=reason):
            admission.read_trust(file)
    with pytest.raises(BadInput, match="does not say who may sign"):
        admission.read_trust(tmp_path / "no.json")
