from __future__ import annotations

import asyncio
import base64
import gzip
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml

from ci.delivery import cluster
from ci.delivery.promotion.facts import differences, drift, look
from ci.errors import SystemUnavailable

NAMESPACE = "va-prod-eastus"


def deployment(
    name: str = "voice-api", image: str = "r/api@sha256:a", replicas: int | None = 2
) -> dict[str, Any]:
    spec = {"template": {"spec": {"containers": [{"name": "api", "image": image}]}}}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": spec | ({} if replicas is None else {"replicas": replicas}),
    }


def scaler(low: int, high: int, *, keda: bool = False) -> dict[str, Any]:
    of = {"scaleTargetRef": {"kind": "Deployment", "name": "voice-api"}}
    if keda:
        spec = of | {"minReplicaCount": low, "maxReplicaCount": high}
        return {
            "apiVersion": "keda.sh/v1alpha1",
            "kind": "ScaledObject",
            "metadata": {"name": "s"},
            "spec": spec,
        }
    spec = of | {"minReplicas": low, "maxReplicas": high}
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "s"},
        "spec": spec,
    }


DEPLOYMENTS = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments"
SCALERS = f"/apis/autoscaling/v2/namespaces/{NAMESPACE}/horizontalpodautoscalers"
SCALED = f"/apis/keda.sh/v1alpha1/namespaces/{NAMESPACE}/scaledobjects"


def told(wanted: list[dict[str, Any]], there: dict[str, Any], **others: Any) -> list[str]:
    found = {DEPLOYMENTS: {there["metadata"]["name"]: there}, **others}
    return [str(one) for one in differences(wanted, found, NAMESPACE)]


def test_what_is_as_helm_installed_it_does_not_differ() -> None:
    assert told([deployment()], deployment()) == []


def test_an_image_that_was_changed_by_hand() -> None:
    now = deployment(image="elsewhere/api:latest")
    assert told([deployment()], now) == [
        "Deployment voice-api has image elsewhere/api:latest, not r/api@sha256:a"
    ]


@pytest.mark.parametrize(("replicas", "differs"), [(2, False), (5, True), (0, True)])
def test_replicas_without_an_autoscaler_are_as_many_as_were_asked_for(replicas: int, differs: bool) -> None:
    assert bool(told([deployment()], deployment(replicas=replicas))) is differs


@pytest.mark.parametrize("keda", [False, True])
@pytest.mark.parametrize(
    ("replicas", "said"), [(2, []), (6, []), (7, ["7, not 2 to 6"]), (0, ["0, not 2 to 6"])]
)
def test_replicas_under_an_autoscaler_are_within_its_bounds(
    keda: bool, replicas: int, said: list[str]
) -> None:
    wanted = [deployment(replicas=None), scaler(2, 6, keda=keda)]
    there = {SCALERS: {"s": scaler(2, 6)}, SCALED: {"s": scaler(2, 6, keda=True)}}
    found = told(wanted, deployment(replicas=replicas), **there)
    assert found == [f"Deployment voice-api has replicas {one}" for one in said]


def test_an_object_that_was_deleted_and_a_kind_that_may_not_be_read() -> None:
    wanted = [
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "voice-api"}},
        {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "deny"}},
        {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": "calls"}},
    ]
    found = {
        f"/api/v1/namespaces/{NAMESPACE}/services": {},
        "/apis/scheduling.k8s.io/v1/priorityclasses": {"calls": {"metadata": {"name": "calls"}}},
    }
    assert [str(one) for one in differences(wanted, found, NAMESPACE)] == [
        "Service voice-api is not there any more"
    ]


class Api:
    """An API server that has what a test gives it, and counts what it is asked."""

    def __init__(self) -> None:
        self.lists: dict[str, Callable[[dict[str, list[str]]], object]] = {}
        self.asked: list[str] = []
        self.forbidden: set[str] = set()
        api = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                url = urlsplit(self.path)
                api.asked.append(url.path)
                status, body = 404, {"message": "not found"}
                if url.path in api.forbidden:
                    status, body = 403, {"message": f"{url.path} is forbidden: User u cannot list it"}
                elif url.path in api.lists:
                    status, body = 200, api.lists[url.path](parse_qs(url.query))  # type: ignore[assignment]
                content = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def has(self, path: str, *items: object) -> None:
        self.lists[path] = lambda _: {"items": items}


@pytest.fixture
def api() -> Iterator[Api]:
    made = Api()
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture
def there(api: Api, tmp_path: Path) -> cluster.Cluster:
    file = tmp_path / "kubeconfig"
    file.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "c",
                "clusters": [
                    {"name": "c", "cluster": {"server": f"http://127.0.0.1:{api.server.server_port}"}}
                ],
                "users": [{"name": "u", "user": {}}],
                "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            }
        )
    )
    return cluster.connect(file, "c")


def helm_secret(
    number: int, status: str, release: str, manifest: str = "", name: str = "voice"
) -> dict[str, Any]:
    info = {"status": status, "last_deployed": "2026-11-29T19:00:00Z"}
    said = {
        "name": name,
        "version": number,
        "info": info,
        "config": {"release": release},
        "manifest": manifest,
    }
    packed = base64.b64encode(base64.b64encode(gzip.compress(json.dumps(said).encode()))).decode()
    return {"type": "helm.sh/release.v1", "metadata": {"name": f"v{number}"}, "data": {"release": packed}}


SECRETS = f"/api/v1/namespaces/{NAMESPACE}/secrets"
ROUTE = f"/apis/gateway.networking.k8s.io/v1/namespaces/{NAMESPACE}/httproutes/voice"


def test_one_look_asks_each_thing_once_and_no_helm(api: Api, there: cluster.Cluster) -> None:
    route = {"spec": {"rules": [{"backendRefs": [
        {"name": "voice-api", "weight": 75}, {"name": "voice-canary-api", "weight": 25}]}]}}  # fmt: skip
    api.has(
        SECRETS,
        helm_secret(4, "deployed", "good"),
        helm_secret(5, "pending-upgrade", "better"),
        helm_secret(1, "deployed", "better", name="voice-canary"),
        {"type": "Opaque", "metadata": {"name": "no revision"}},
    )
    api.has(f"/api/v1/namespaces/{NAMESPACE}/pods")
    api.lists[ROUTE] = lambda _: route

    facts = asyncio.run(look(there, NAMESPACE))

    assert facts.stable is not None and facts.canary is not None
    assert (facts.runs, facts.stable.in_between, facts.canary.release) == ("better", True, "better")
    assert (facts.weight, facts.on_stable) == (25, False)
    assert len(api.asked) == len(set(api.asked)) == 3


def test_a_revision_is_as_old_as_the_clusters_own_answer_says(api: Api, there: cluster.Cluster) -> None:
    new, old = helm_secret(5, "pending-upgrade", "better"), helm_secret(4, "deployed", "good")
    new["metadata"]["creationTimestamp"] = "2999-01-01T00:00:00Z"
    old["metadata"]["creationTimestamp"] = "2020-01-01T00:00:00Z"
    api.has(SECRETS, new, old)
    found = asyncio.run(there.helm_revisions(NAMESPACE))
    assert found[0].untouched == 0 and found[1].untouched > 86_400


def test_superseded_revisions_are_not_even_sent(api: Api, there: cluster.Cluster) -> None:
    asked: list[str] = []

    def secrets(query: dict[str, list[str]]) -> object:
        asked.extend(query["labelSelector"])
        return {"items": []}

    api.lists[SECRETS] = secrets
    asyncio.run(there.helm_revisions(NAMESPACE))
    asyncio.run(there.helm_revisions(NAMESPACE, name="voice", history=True))
    assert asked == ["owner=helm,status!=superseded", "owner=helm,name=voice"]


def test_drift_is_what_the_cluster_has_not_got(api: Api, there: cluster.Cluster) -> None:
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "voice-api"}}
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "voice-api"}}
    manifest = yaml.safe_dump_all([deployment(), service, account])
    api.has(SECRETS, helm_secret(1, "deployed", "good", manifest))
    api.has(f"/api/v1/namespaces/{NAMESPACE}/pods")
    api.has(DEPLOYMENTS, deployment(replicas=9))
    api.has(f"/api/v1/namespaces/{NAMESPACE}/services")
    api.forbidden.add(f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts")

    async def ask() -> list[str]:
        facts = await look(there, NAMESPACE)
        return sorted(str(one) for one in await drift(there, NAMESPACE, (facts.stable, None)))

    assert asyncio.run(ask()) == [
        "Deployment voice-api has replicas 9, not 2",
        "Service voice-api is not there any more",
    ]


def test_who_may_not_read_helms_secrets_is_told_so(api: Api, there: cluster.Cluster) -> None:
    api.forbidden.add(SECRETS)
    api.has(f"/api/v1/namespaces/{NAMESPACE}/pods")
    with pytest.raises(SystemUnavailable, match="secrets is forbidden"):
        asyncio.run(look(there, NAMESPACE))
