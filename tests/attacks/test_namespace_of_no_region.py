"""Whoever may make a namespace labels it with a region that nobody serves, and nobody looks at its pods."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from ci.platform import admission as part
from ci.platform.instance import REGIONS, Instance
from ci.supply import admission

_POD = {"spec": {"containers": [{"image": f"127.0.0.1:5501/api@sha256:{'a' * 64}"}]}}


def _selects(webhook: dict[str, Any], labels: dict[str, str]) -> bool:
    """A label selector, as Kubernetes reads one (labels.Requirement.Matches)."""
    holds = {
        "In": lambda key, values: labels.get(key) in values,
        "NotIn": lambda key, values: labels.get(key) not in values,
        "Exists": lambda key, _: key in labels,
    }
    return all(
        holds[one["operator"]](one["key"], one.get("values", ()))
        for one in webhook["namespaceSelector"]["matchExpressions"]
    )


def _verdict(path: str) -> dict[str, Any]:
    """What the webhook says of a pod there; its registries are down, so it can have verified nothing."""

    async def main() -> dict[str, Any]:
        app = admission.app(dict.fromkeys(REGIONS, "127.0.0.1:9"), [])
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://webhook") as http,
        ):
            review = {"request": {"uid": "u1", "object": _POD, "oldObject": None}}
            said: dict[str, Any] = (await http.post(path, json=review)).json()["response"]
            return said

    return asyncio.run(main())


@pytest.mark.parametrize("region", ["mars", "", "East-US", "eastus2", "other", *REGIONS])
def test_each_label_has_a_webhook_that_refuses_what_it_cannot_verify(region: str, tmp_path: Path) -> None:
    said = part._configuration(Instance(number=0, folder=tmp_path), b"")

    asked = [one for one in said["webhooks"] if _selects(one, {"va.dev/region": region})]
    assert len(asked) == 1
    assert asked[0]["failurePolicy"] == "Fail"
    verdict = _verdict(httpx.URL(asked[0]["clientConfig"]["url"]).path)
    assert not verdict["allowed"]
    if region not in REGIONS:
        assert "nobody checks images for the region that this namespace names" in verdict["status"]["message"]


def test_what_names_no_region_is_not_asked_about(tmp_path: Path) -> None:
    said = part._configuration(Instance(number=0, folder=tmp_path), b"")

    assert not [one for one in said["webhooks"] if _selects(one, {"app": "coredns"})]
