"""What the chart renders, object by object, for the facts in `cases/`: a change of it is seen in the diff.

    PYTHONPATH=. pytest -m e2e tests/helm/test_golden.py --update-golden   # write golden/ anew: read it

A case says a track, `values` to lay over the chart's own, and an environment of the architecture whose values
are laid there first (`architecture: prod/eastus`). Needs helm, hence marked e2e.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import yaml

from ci import places, tools
from ci.architecture import model
from ci.architecture.access import secret_readers
from ci.architecture.chart import checkable_values
from ci.delivery.chart import render
from ci.delivery.manifests import validate
from ci.environments.chart_values import Values, laid_over
from ci.errors import BadInput
from ci.reporting import SilentReporter

pytestmark = pytest.mark.e2e

HERE = Path(__file__).parent
CHART = places.checkout() / "helm/voice-assistant"
CASES = sorted((HERE / "cases").glob("*.yaml"))
RELEASE = {
    "release": "20261123-1a2b3c",
    "images": {
        "api": {"repository": "registry.example/fastapi-backend", "digest": f"sha256:{'a' * 64}"},
        "agent": {"repository": "registry.example/livekit-agent", "digest": f"sha256:{'b' * 64}"},
        "web": {"repository": "registry.example/web-client", "digest": f"sha256:{'c' * 64}"},
        "guard": {"repository": "registry.example/canary-guard", "digest": f"sha256:{'d' * 64}"},
    },
}


@pytest.fixture(scope="module", autouse=True)
def helm() -> None:
    asyncio.run(tools.ensure(["helm"], SilentReporter()))


def values(case: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = dict(RELEASE)
    if "architecture" in case:
        environment, _, region = case["architecture"].partition("/")
        found = laid_over(checkable_values(model.read(environment).architecture, region), found)
    return laid_over(found, {"track": case["track"], **case.get("values", {})})


@pytest.mark.parametrize("file", CASES, ids=lambda file: file.stem)
def test_the_chart_renders_what_it_did(file: Path, request: pytest.FixtureRequest) -> None:
    given = values(yaml.safe_load(file.read_text()))
    # Facts that the models refuse would test nothing.
    Values.model_validate(laid_over(yaml.safe_load((CHART / "values.yaml").read_text()), given))
    name = "voice" if given["track"] == "stable" else "voice-canary"
    text = asyncio.run(render(CHART, given, name=name, helm=tools.path("helm"), namespace="voice"))
    golden = HERE / "golden" / file.name
    if request.config.getoption("--update-golden"):
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(text)
    assert golden.is_file(), "run it with --update-golden and read what it wrote"
    assert text == golden.read_text()


def test_no_golden_file_is_left_over() -> None:
    assert {file.name for file in (HERE / "golden").glob("*.yaml")} == {file.name for file in CASES}


def test_kubernetes_and_its_controllers_would_take_all_of_it() -> None:
    texts = {file.stem: file.read_text() for file in (HERE / "golden").glob("*.yaml")}
    count = asyncio.run(validate(texts, SilentReporter()))
    assert count == sum(text.count("\nkind: ") for text in texts.values())


@pytest.mark.parametrize(
    ("kind", "right", "wrong"),
    [
        ("ScaledObject", "maxReplicaCount:", "maxReplicas:"),
        ("ExternalSecret", "refreshInterval:", "refresh:"),
        ("SecretStore", "authType: WorkloadIdentity", "authType: Password"),
        ("PodMonitor", "podMetricsEndpoints:", "endpoints:"),
        ("CiliumNetworkPolicy", "toEntities: [host,", "toEntities: [hosts,"),
    ],
)
def test_a_wrong_object_of_a_controller_is_found(kind: str, right: str, wrong: str) -> None:
    text = (HERE / "golden" / "prod.yaml").read_text()
    assert right in text
    with pytest.raises(BadInput, match=kind):
        asyncio.run(validate({"prod": text.replace(right, wrong)}, SilentReporter()))


def test_no_part_fetches_what_another_alone_may_read() -> None:
    architecture = model.read("prod").architecture
    readers = secret_readers(architecture)
    accounts = {one.service_account: key for key, one in architecture.access.identities.items()}
    objects = [one for one in yaml.safe_load_all((HERE / "golden" / "prod.yaml").read_text()) if one]
    stores = {
        (one["metadata"]["namespace"], one["metadata"]["name"]): one["spec"]["provider"]["azurekv"]
        for one in objects
        if one["kind"] == "SecretStore"
    }
    there = {
        (one["metadata"]["namespace"], one["metadata"]["name"])
        for one in objects
        if one["kind"] == "ServiceAccount"
    }
    fetched = set()
    for one in (one for one in objects if one["kind"] == "ExternalSecret"):
        namespace = one["metadata"]["namespace"]
        account = stores[namespace, one["spec"]["secretStoreRef"]["name"]]["serviceAccountRef"]["name"]
        who = accounts[f"{namespace}/{account}"]
        assert (namespace, account) in there
        for each in one["spec"]["data"]:
            secret = each["remoteRef"]["key"].removeprefix("secret/")
            assert who in readers[secret], (who, secret)
            fetched.add((who, secret))
    assert ("agent", "openai-api-key") in fetched and ("ingress", "wildcard") in fetched


def test_only_livekit_is_let_off_the_restricted_profile() -> None:
    for file in (HERE / "golden").glob("*.yaml"):
        for one in yaml.safe_load_all(file.read_text()):
            if not one or one["kind"] not in ("Deployment", "Job", "Pod"):
                continue
            spec = one["spec"] if one["kind"] == "Pod" else one["spec"]["template"]["spec"]
            at = one["metadata"]["name"]
            assert bool(spec.get("hostNetwork")) == at.endswith("-livekit"), at
            assert (one["metadata"]["namespace"] == "voice-livekit") == at.endswith("-livekit"), at
            assert spec["securityContext"]["runAsNonRoot"] is True
            assert not {"hostPID", "hostIPC", "initContainers", "ephemeralContainers"} & spec.keys()
            # https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted
            for container in spec["containers"]:
                security = container["securityContext"]
                assert security["allowPrivilegeEscalation"] is False
                assert security["capabilities"] == {"drop": ["ALL"]}
                assert security["seccompProfile"] == {"type": "RuntimeDefault"}
                assert security["runAsUser"] > 0 and not security.get("privileged")
            for volume in spec.get("volumes", []):
                assert {"configMap", "csi", "emptyDir", "projected", "secret"} & volume.keys()
