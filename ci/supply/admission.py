"""The cluster's own check of what it runs: a validating admission webhook for pods.

    POST /regions/<region>     an AdmissionReview (admission.k8s.io/v1) of a pod; answers with one

A pod is admitted when each of its images is named by digest, comes from that region's registry, and is signed
by who may sign: the holder of a key, or whom an OIDC issuer calls by a name. So what someone pushes past the
pipelines, or points a tag at, does not run.
A verified digest is remembered for as long as who may sign stays the same: the files of keys and roots are
looked at each time, so a key that was replaced counts from that moment. A refusal is never remembered.

A namespace of a region that is not served here runs nothing: nobody would look at its images.

While a registry cannot be asked, nothing new of it is admitted. What runs stays: a change of a pod that names
no new image is not looked at.

Protocol: https://kubernetes.io/docs/reference/access-authn-authz/extensible-admission-controllers/
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import uvicorn
from pydantic import TypeAdapter
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from ci.concurrency import together
from ci.environments import TrustedSigner
from ci.errors import BadInput, PipelineError, PolicyBlocked
from ci.registry import Registry, digest_of, parse_reference, registry_at
from ci.registry.content import read_json
from ci.supply.keyless import check_root
from ci.supply.signing import signature_of

__all__ = ["Verify", "app", "read_trust", "review"]

Verify = Callable[[str, str], Awaitable[None]]
"""Repository and digest: returns when it is signed as it must be, else raises what is wrong."""

_LARGEST_REVIEW = 8 * 2**20
"""Bytes: a review holds a pod twice, and etcd keeps no object of more than 1.5 MiB."""
_KINDS = ("initContainers", "containers", "ephemeralContainers")


def app(registries: Mapping[str, str], signers: Sequence[TrustedSigner]) -> Starlette:
    """The webhook: `registries` by region, as pods name them."""
    clients: dict[str, Registry] = {}
    verified: set[tuple[str, str, str, str]] = set()

    @asynccontextmanager
    async def connected(_: Starlette) -> Any:
        async with AsyncExitStack() as stack:
            for region, endpoint in registries.items():
                # Kubernetes waits for the answer: a registry that is down is said soon.
                clients[region] = await stack.enter_async_context(registry_at(endpoint, attempts=2))
            yield

    async def answer(request: Request) -> Response:
        region = request.path_params["region"]
        asked = bytearray()
        async for piece in request.stream():
            asked += piece
            if len(asked) > _LARGEST_REVIEW:
                return PlainTextResponse("that is no review of a pod", status_code=413)
        try:
            return JSONResponse(await reviewed(region, read_json(bytes(asked))))
        except (ValueError, KeyError, TypeError, AttributeError):
            return PlainTextResponse("that is no review of a pod", status_code=400)

    async def reviewed(region: str, asked: Mapping[str, Any]) -> dict[str, Any]:
        if region not in clients:
            why = "nobody checks images for the region that this namespace names; there is "
            return _answer(asked, [why + ", ".join(clients)])
        registry = clients[region]
        trusted = _trusted(signers)

        async def verify(repository: str, digest: str) -> None:
            if (trusted, region, repository, digest) not in verified:
                await signature_of(registry, repository, digest, signers)
                verified.add((trusted, region, repository, digest))

        return await review(asked, registry.endpoint, verify)

    async def health(_: Request) -> Response:
        return PlainTextResponse("ok")

    routes = [Route("/regions/{region}", answer, methods=["POST"]), Route("/healthz", health)]
    return Starlette(routes=routes, lifespan=connected)


async def review(asked: Mapping[str, Any], endpoint: str, verify: Verify) -> dict[str, Any]:
    """The answer to one AdmissionReview, by that region's registry."""
    request = asked["request"]
    before = set(_images(request.get("oldObject") or {}))
    wanted = dict.fromkeys(image for image in _images(request["object"]) if image not in before)
    refusals = [
        text for text in await together(_refusal(image, endpoint, verify) for image in wanted) if text
    ]
    return _answer(asked, refusals)


def _answer(asked: Mapping[str, Any], refusals: Sequence[str]) -> dict[str, Any]:
    response: dict[str, Any] = {"uid": asked["request"]["uid"], "allowed": not refusals}
    if refusals:
        response["status"] = {"code": 403, "reason": "Forbidden", "message": "; ".join(refusals)}
    return {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response}


def _images(pod: Mapping[str, Any]) -> Iterator[str]:
    """Every image of a pod: of containers of each kind, and of volumes."""
    spec = pod.get("spec") or {}
    for kind in _KINDS:
        yield from (str(container.get("image", "")) for container in spec.get(kind) or ())
    for volume in spec.get("volumes") or ():
        if "image" in volume:
            yield str(volume["image"].get("reference", ""))


async def _refusal(image: str, endpoint: str, verify: Verify) -> str:
    """Why this image may not run; empty when it may."""
    try:
        reference = parse_reference(image)
    except BadInput as error:
        return f"the image {image!r} cannot be verified: {error.message}"
    if reference.registry != endpoint:
        return f"{image} is not from this region's registry, {endpoint}"
    if reference.digest is None:
        return f"{image} is not named by digest: what a tag means can be changed"
    try:
        await verify(reference.repository, reference.digest)
    except PolicyBlocked as error:
        return error.message
    except PipelineError as error:
        return f"{image} cannot be verified now: {error.message}"
    return ""


def _trusted(signers: Sequence[TrustedSigner]) -> str:
    """A digest of the keys and roots themselves; a file that is not there is one that verifies nothing."""
    files = (file for signer in signers for file in (signer.key, signer.trusted_root) if file is not None)
    contents = (file.read_bytes() if file.exists() else b"" for file in files)
    return digest_of(b"".join(digest_of(content).encode() for content in contents))


def read_trust(file: Path) -> tuple[TrustedSigner, ...]:
    """Who may sign, by that file; BadInput when it, or a trusted root that it names, cannot be used.

    A trusted root is read here once, so that Sigstore's library is loaded before the first question comes.
    """
    try:
        signers = tuple(TypeAdapter(list[TrustedSigner]).validate_python(json.loads(file.read_bytes())))
    except (OSError, ValueError) as error:
        raise BadInput(f"{file} does not say who may sign: {error}") from error
    if not signers:
        raise BadInput(f"{file} names nobody who may sign")
    for signer in signers:
        if signer.trusted_root:
            check_root(signer.trusted_root)
    return signers


def _main() -> None:
    parser = argparse.ArgumentParser(prog="python -m ci.supply.admission")
    parser.add_argument("--address", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--certificate", required=True)
    parser.add_argument("--private-key", required=True)
    parser.add_argument(
        "--trust", type=Path, required=True, help="who may sign: a list as in `trust.signers`, as JSON"
    )
    parser.add_argument("registries", nargs="+", help="region=host:port")
    words = parser.parse_args()
    uvicorn.run(
        app(dict(pair.split("=", 1) for pair in words.registries), read_trust(words.trust)),
        host=words.address,
        port=words.port,
        ssl_certfile=words.certificate,
        ssl_keyfile=words.private_key,
        log_level="warning",
    )


if __name__ == "__main__":
    _main()
