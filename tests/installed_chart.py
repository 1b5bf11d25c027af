"""The chart with images built from this checkout, in a namespace of its own on the embedded platform."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx

from ci import places, platform
from ci.concurrency import together
from ci.delivery.cluster import Cluster, connect
from ci.delivery.helm import Helm
from ci.delivery.traffic import TRACK_HEADER
from ci.engine import session
from ci.environments.chart_values import laid_over
from ci.registry import Registry, open_archive, push
from ci.reporting import SilentReporter
from pipelines.build import build

PLACE = platform.addresses()
_KEYS = {"LIVEKIT_API_KEY": "api-key", "LIVEKIT_API_SECRET": "api-secret"}
_PARTS = {"fastapi-backend": "api", "livekit-agent": "agent", "web-client": "web", "canary-guard": "guard"}


@contextmanager
def installed_chart(
    namespace: str,
    *,
    hostname: str,
    release: str,
    values: Mapping[str, Any] | None = None,
    secrets: Mapping[str, dict[str, str]] | None = None,
) -> Iterator[Callable[[], None]]:
    """While this lasts, one replica of everything answers at the platform's gateway as `hostname`.

    `values` are laid over; `secrets` are made from keys of LiveKit's. What is yielded upgrades it again.
    """
    helm = Helm(kubeconfig=PLACE.kubeconfig, context=PLACE.context, namespace=namespace)

    async def install() -> dict[str, dict[str, str]]:
        async with session(SilentReporter()) as (client, _):
            built = await build(client, reporter=SilentReporter())
        endpoint = PLACE.registries["eastus"]
        async with Registry(endpoint) as registry:
            await together(push(registry, image.name, open_archive(image.archive)) for image in built)
        images = {
            _PARTS[one.name]: {"repository": f"{endpoint}/{one.name}", "digest": one.digest} for one in built
        }
        cluster = connect(PLACE.kubeconfig, PLACE.context)
        await cluster.ensure_namespace(namespace, {})
        for name, keys in {"voice-livekit": _KEYS, **(secrets or {})}.items():
            await cluster.ensure_secret_copy(
                name, namespace, source="livekit", source_namespace="va-system", keys=keys
            )
        await copy_redis_password(cluster, namespace)
        await upgrade(images)
        return images

    async def upgrade(images: dict[str, dict[str, str]]) -> None:
        chart = places.checkout() / "helm/voice-assistant"
        given = laid_over(_values(images, hostname, release), values or {})
        await helm.upgrade("voice", chart, given, timeout=240, description="a test's")
        await routed(hostname)

    images = asyncio.run(install())
    try:
        yield lambda: asyncio.run(upgrade(images))
    finally:
        asyncio.run(helm.uninstall("voice", timeout=120))


async def copy_redis_password(cluster: Cluster, namespace: str) -> None:
    """That of dev, which the chart's own values name."""
    keys = {"REDIS_PASSWORD": "password"}
    await cluster.ensure_secret_copy(
        "voice-redis", namespace, source="redis-dev", source_namespace="va-system", keys=keys
    )


async def routed(hostname: str, seconds: float = 60) -> None:
    """Wait until the gateway has heard of the routes: Helm waits for pods only."""
    async with (
        asyncio.timeout(seconds),
        httpx.AsyncClient(base_url=PLACE.gateway, headers={"host": hostname}, timeout=30) as http,
    ):
        for path in ("/", "/v1/sessions/probe"):
            while TRACK_HEADER not in (await http.get(path)).headers:  # noqa: ASYNC110
                await asyncio.sleep(0.1)


def _values(images: dict[str, dict[str, str]], hostname: str, release: str) -> dict[str, Any]:
    small = {"requests": {"cpu": "20m", "memory": "128Mi"}, "limits": {"memory": "1Gi"}}
    return {
        "release": release,
        "images": images,
        "traffic": {"hostname": hostname},
        "livekit": {"publicUrl": PLACE.livekit},
        "api": {"replicas": 1, "resources": small, "drainSeconds": 2, "shutdownSeconds": 5},
        "agent": {"replicas": 1, "resources": small, "drainTimeoutSeconds": 30},
        "web": {"replicas": 1, "drainSeconds": 2},
    }
