"""Whoever may push attaches something huge to an image and calls it a signature, and the webhook reads it.

One attached "signature" of 400 MiB took 1.3 GB of the admission webhook; at its limit it is killed, and then
no pod starts. Here the webhook is a process of its own, whose memory the kernel measures.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from anyio.from_thread import start_blocking_portal
from fake_registry import FakeRegistry, app
from signing_key import Key
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Mount, Route

from ci.registry import Bundle, Registry, artifact, digest_of, push
from ci.registry.content import IMAGE_INDEX, IMAGE_MANIFEST
from ci.serving import serving
from ci.supply.signing import BUNDLE_TYPE, signature

HUGE = 400 * 2**20
ALLOWED_MIB = 100
"""Of the 1300 that it took. What a good pod takes is not in it."""

_WEBHOOK = """
import asyncio, json, re, sys
import httpx
from pathlib import Path
from ci.supply.admission import app, read_trust

async def main(endpoint, trust, images):
    webhook = app({"r": endpoint}, read_trust(Path(trust)))
    async with webhook.router.lifespan_context(webhook):
        transport = httpx.ASGITransport(webhook)
        async with httpx.AsyncClient(transport=transport, base_url="http://webhook") as client:
            for image in images:
                review = {"request": {"uid": "u", "object": {"spec": {"containers": [{"image": image}]}}}}
                answer = await client.post("/regions/r", json=review, timeout=120)
                # Not by getrusage, which begins with the peak of whoever started this process.
                peak = int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024
                print(json.dumps([answer.json()["response"], peak]))

asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3:]))
"""


@dataclass
class Registered:
    """A registry with a signed image, and a huge answer to whatever path is in `huge`."""

    key: Key
    kept: FakeRegistry = field(default_factory=lambda: FakeRegistry(has_referrers=True, lax=True))
    huge: dict[str, dict[str, str]] = field(default_factory=dict)

    def image(self, name: str) -> Bundle:
        """An image with a good signature."""
        made = artifact(artifact_type="x/image", layers=(("x/y", name.encode(), {}),))

        async def main() -> None:
            async with Registry("127.0.0.1:5999", transport=self.kept) as registry:
                await push(registry, name, made)
                await push(registry, name, signature(self.key.bundle(made.digest), made.root.descriptor))

        asyncio.run(main())
        return made

    def attach(self, name: str, subject: Bundle, **layer: Any) -> None:
        """Something else that calls itself a signature: a manifest with one layer as it is described."""
        manifest = {
            "schemaVersion": 2,
            "mediaType": IMAGE_MANIFEST,
            "artifactType": BUNDLE_TYPE,
            "config": {"mediaType": "x/empty", "digest": digest_of(b"{}"), "size": 2},
            "layers": [{"mediaType": BUNDLE_TYPE, "digest": digest_of(b"evil"), "size": 4, **layer}],
            "subject": subject.root.descriptor.as_json(),
            "annotations": {"n": str(len(self.kept.manifests))},
        }
        raw = json.dumps(manifest).encode()
        self.kept.manifests[name, digest_of(raw)] = (IMAGE_MANIFEST, raw)

    def app(self) -> Starlette:
        async def zeros() -> AsyncIterator[bytes]:
            for _ in range(HUGE // 2**20):
                yield b" " * 2**20

        async def evil(request: Request) -> Response:
            return StreamingResponse(zeros(), headers=self.huge[request.url.path])

        routes = [Route(path, evil) for path in self.huge]
        return Starlette(routes=[*routes, Mount("/", app(self.kept))])


@pytest.fixture
def registered(tmp_path: Path) -> Registered:
    return Registered(Key(tmp_path / "key.pub"))


def asked(registered: Registered, tmp_path: Path, *images: str) -> Iterator[tuple[dict[str, Any], int]]:
    """What the webhook says of each image, and the MiB that it had at most until then."""
    trust = tmp_path / "trust.json"
    trust.write_text(json.dumps([{"key": str(registered.key.file)}]))
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(serving(registered.app())) as port,
    ):
        endpoint = f"127.0.0.1:{port}"
        words = [endpoint, str(trust), *(f"{endpoint}/{image}" for image in images)]
        done = subprocess.run(
            [sys.executable, "-c", _WEBHOOK, *words], capture_output=True, text=True, timeout=120
        )
    assert done.returncode == 0, done.stderr
    return iter([tuple(json.loads(line)) for line in done.stdout.splitlines()])


def what_it_takes(registered: Registered, tmp_path: Path, attacked: Bundle) -> dict[str, Any]:
    """The answer about the attacked image; its memory is that of a good one and a bound."""
    good = registered.image("good")
    answers = asked(registered, tmp_path, f"good@{good.digest}", f"app@{attacked.digest}")
    (before, baseline), (after, peak) = answers
    assert before["allowed"], before
    assert peak - baseline < ALLOWED_MIB, f"{peak - baseline} MiB"
    return after


@pytest.mark.parametrize("said", [HUGE, 900], ids=["as its descriptor says", "more than its descriptor says"])
def test_a_huge_layer_is_not_read_and_does_not_hide_the_signature_beside_it(
    registered: Registered, tmp_path: Path, said: int
) -> None:
    subject = registered.image("app")
    for n in range(8):
        digest = digest_of(str(n).encode())
        registered.attach("app", subject, digest=digest, size=said)
        registered.huge[f"/v2/app/blobs/{digest}"] = {}
    said = what_it_takes(registered, tmp_path, subject)
    assert said["allowed"], said


def test_a_huge_config_is_none_either(registered: Registered, tmp_path: Path) -> None:
    subject = artifact(artifact_type="x/image", layers=())
    registered.kept.manifests["app", subject.digest] = (IMAGE_MANIFEST, subject.root.raw)
    registered.kept.blobs["app", digest_of(b"evil")] = b"evil"
    registered.attach("app", subject)
    registered.huge[f"/v2/app/blobs/{digest_of(b'{}')}"] = {}
    said = what_it_takes(registered, tmp_path, subject)
    assert not said["allowed"] and "more than" in said["status"]["message"]


@pytest.mark.parametrize("packed", [False, True])
def test_a_huge_list_of_signatures_is_refused(registered: Registered, tmp_path: Path, packed: bool) -> None:
    subject = registered.image("app")
    path = f"/v2/app/referrers/{subject.digest}"
    if packed:
        bomb = gzip.compress(b" " * HUGE, 1)
        registered.kept.gate = lambda request: _bomb(bomb) if request.url.path == path else None
    else:
        registered.huge[path] = {"Content-Type": IMAGE_INDEX}
    said = what_it_takes(registered, tmp_path, subject)
    assert not said["allowed"] and "more than" in said["status"]["message"]


def _bomb(content: bytes) -> Any:
    """As a proxy sends what it has compressed: httpx would unpack it, were it told."""
    import httpx

    answer = httpx.Response(200, headers={"Content-Type": IMAGE_INDEX}, content=content)
    answer.headers["Content-Encoding"] = "gzip"
    return answer


def test_a_manifest_of_many_layers_is_not_taken_apart(registered: Registered, tmp_path: Path) -> None:
    """Four mebibytes of descriptors are forty as Python's objects, and there may be 32 such signatures."""
    subject = registered.image("app")
    for n in range(16):
        layer = {"mediaType": BUNDLE_TYPE, "digest": digest_of(b"x"), "size": n}
        manifest = {
            "schemaVersion": 2,
            "mediaType": IMAGE_MANIFEST,
            "artifactType": BUNDLE_TYPE,
            "config": layer,
            "layers": [layer] * 20_000,
            "subject": subject.root.descriptor.as_json(),
        }
        raw = json.dumps(manifest).encode()
        registered.kept.manifests["app", digest_of(raw)] = (IMAGE_MANIFEST, raw)
    assert what_it_takes(registered, tmp_path, subject)["allowed"]


def test_a_signature_nested_a_hundred_thousand_deep_is_none(registered: Registered, tmp_path: Path) -> None:
    subject = registered.image("app")
    deep = b'{"a":' * 100_000 + b"1" + b"}" * 100_000
    registered.kept.blobs["app", digest_of(deep)] = deep
    registered.attach("app", subject, digest=digest_of(deep), size=len(deep))
    assert what_it_takes(registered, tmp_path, subject)["allowed"]
