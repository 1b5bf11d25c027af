"""Workflows of .github, run by `act`: the real files, jobs and commands; what is Azure's stands in.

A release is made, published to a registry that signs in as Azure's does, signed by a key in a vault, and then
promoted by another workflow to a cluster with a real API server. What stands in for GitHub: tests/hosted.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from anyio.from_thread import start_blocking_portal
from azure_names import led_to
from azure_registry import AzureStandIn, azure_registry
from cryptography.hazmat.primitives.asymmetric import ec
from hosted import REPOSITORY, Hosted, Ran, hosted
from job_identity import LOGIN, Identities
from key_vault import KeyVault
from small_cluster import SmallCluster, small_cluster
from small_estate import write_environment

from ci import platform, tools
from ci.azure.standin import StandIn, serve
from ci.reporting import SilentReporter

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(os.geteuid() != 0, reason="the embedded engine, and what machines mount, need root"),
]

REGISTRY, DATA = "acrvoice.azurecr.io", "acrvoice.eastus.data.azurecr.io"
VAULT = "voice.vault.azure.net"
_INSTANCE = "4"
"""No other test's."""
GROUPS = ("ADMINS", "DEVELOPERS", "OPERATORS", "PROMOTERS", "PUBLISHERS")


@pytest.fixture(scope="module")
def github(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosted]:
    asyncio.run(tools.ensure(["act", "node"], SilentReporter()))
    with hosted(tmp_path_factory.mktemp("hosted")) as made:
        made.push("as it is")
        yield made


@dataclass(frozen=True)
class Cloud:
    """What is Azure's: who may sign in is said job by job."""

    registry: AzureStandIn
    vault: KeyVault
    jobs: dict[str, Identities]
    names: dict[str, str]
    """The environment in which its names lead there."""

    def environment(self, job: str) -> dict[str, str]:
        return {**self.jobs[job].environment, **self.names}


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    folder = tmp_path_factory.mktemp("cloud")
    vault = KeyVault(ec.generate_private_key(ec.SECP256R1()), name=VAULT)
    issued: list[str] = []
    with contextlib.ExitStack() as stack:
        registry = stack.enter_context(azure_registry(folder / "registry"))
        ports = {
            REGISTRY: int(registry.endpoint.rpartition(":")[2]),
            DATA: int(registry.data_endpoint.rpartition(":")[2]),
            VAULT: stack.enter_context(vault.plainly(issued, Identities().tenant)),
        }
        registry.endpoint, registry.data_endpoint, registry.entra.issued = REGISTRY, DATA, issued
        jobs = {}
        for name in ("publish", "dev", "staging", "prod", "infra-plan", "infra-dev"):
            own = folder / name
            own.mkdir()
            subject = f"repo:{REPOSITORY}:environment:{name}"
            identities = Identities(subject=subject, trusted=subject, issued=issued)
            jobs[name] = stack.enter_context(identities.serve(own))
        ports[LOGIN] = jobs["publish"].port  # cosign asks there, whatever the environment says
        trusted = [Path(one.environment["REQUESTS_CA_BUNDLE"]) for one in jobs.values()]
        names = stack.enter_context(led_to(folder, ports, *trusted))
        yield Cloud(registry, vault, jobs, names)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallCluster]:
    asyncio.run(tools.ensure(["helm"], SilentReporter()))
    with small_cluster(tmp_path_factory.mktemp("small")) as made:
        yield made


@pytest.fixture(scope="module")
def estate(github: Hosted, cloud: Cloud, small: SmallCluster) -> Hosted:
    """The repository says where releases go: to that registry, and to three environments of one cluster."""
    root = github.work / "environments"
    for before, name in ((None, "dev"), ("dev", "staging"), ("staging", "prod")):
        write_environment(
            root, name, small.server.kubeconfig, small.gateway, {"eastus": f"va-{name}"},
            estate="azure", registry=REGISTRY, after=before, builder=f"https://github.com/{REPOSITORY}/*",
        )  # fmt: skip
    (root / "azure" / "signer.pub").write_bytes(cloud.vault.public_pem())
    one = next(iter(cloud.jobs.values()))
    github.variables |= {
        "VA_ESTATE": "azure", "VA_SIGN_WITH": f"azurekms://{VAULT}/release",
        "AZURE_CLIENT_ID": one.client, "AZURE_TENANT_ID": one.tenant,
    }  # fmt: skip
    for name in cloud.jobs:
        github.runner(name, cloud.environment(name))
    github.push("where releases go")
    return github


@contextlib.contextmanager
def resource_manager(world: StandIn) -> Iterator[str]:
    """The stand-in as a server of its own, as long as this lasts."""
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(serve(world)) as endpoint,
    ):
        yield endpoint


def all_went_well(ran: Ran, *jobs: str) -> None:
    assert {job: ran.results.get(job) for job in jobs} == {job: {"success"} for job in jobs}, ran.log[-8000:]
    assert ran.code == 0 and "Traceback" not in ran.log, ran.log[-8000:]


@pytest.fixture(scope="module")
def released(estate: Hosted) -> tuple[str, Ran]:
    ran = estate.run("release", "push")
    all_went_well(ran, "make", "publish", "alerts")
    found = re.search(r"^### ✅ Release `([\w-]+)`", ran.summaries["publish"], re.MULTILINE)
    assert found, ran.summaries
    return found[1], ran


def test_a_release_is_made_by_one_job_and_published_by_another(
    released: tuple[str, Ran], estate: Hosted, cloud: Cloud
) -> None:
    name, ran = released
    assert {image for image in cloud.registry.manifests if "/" not in image} >= {
        "fastapi-backend", "livekit-agent", "web-client", "canary-guard", "releases",
    }  # fmt: skip
    assert cloud.jobs["publish"].given and "POST keys/release" in " ".join(cloud.vault.asked)
    assert sorted(file.parent.name for file in (estate.folder / "alerts").rglob("*.sarif")) == [
        "canary-guard", "chart", "fastapi-backend", "livekit-agent", "web-client",
    ]  # fmt: skip
    assert name in ran.said["publish"]


def test_it_is_promoted_job_by_job_as_far_as_was_asked_for(
    released: tuple[str, Ran], estate: Hosted, cloud: Cloud, small: SmallCluster, tmp_path: Path
) -> None:
    name, _ = released
    ran = estate.run(
        "promote", "workflow_dispatch", disk=tmp_path / "disk",
        release=name, environment="staging", action="promote", estate="azure",
    )  # fmt: skip
    all_went_well(ran, "dev", "staging")
    assert "prod" not in ran.results and not cloud.jobs["prod"].given
    for env in ("dev", "staging"):
        assert {release for _, release in small.ready[f"va-{env}", "stable"]} == {name}
        told = json.loads((estate.folder / f"artifacts/promotion-{env}/reports/promoted.json").read_text())
        assert [one["outcome"] for one in told["targets"]] == ["installed"]
        assert f"### ✅ {name} is stable on {env}/eastus" in ran.summaries[env]


@pytest.fixture(scope="module")
def azure(github: Hosted, cloud: Cloud) -> Iterator[StandIn]:
    """A subscription with nothing in it; one environment, for the architecture of three takes its time."""
    one = cloud.jobs["publish"]
    github.variables |= {
        "AZURE_SUBSCRIPTION_ID": "00000000-0000-0000-0000-000000000000", "VA_PUSH_WEBHOOK": "https://push.test",
        "AZURE_CLIENT_ID": one.client, "AZURE_TENANT_ID": one.tenant,
        **{f"ENTRA_GROUP_{name}": f"group-{name}" for name in GROUPS},
    }  # fmt: skip
    file = github.work / ".github/workflows/infra.yml"
    file.write_text(
        file.read_text()
        .replace("environment: [dev, staging, prod]", "environment: [dev]")
        .replace("for environment in dev staging prod;", "for environment in dev;")
    )
    github.push("one environment")
    world = StandIn()
    with resource_manager(world) as endpoint:
        for job, who in (("plan", "infra-plan"), ("drift", "infra-plan"), ("dev", "infra-dev")):
            github.runner(job, {**cloud.environment(who), "VA_AZURE_STAND_IN": endpoint})
        yield world


def test_what_a_pull_request_would_do_is_said_on_it_and_nothing_is_done(
    github: Hosted, azure: StandIn, cloud: Cloud
) -> None:
    here = {"repo": {"full_name": REPOSITORY}}
    payload = {
        "number": 12,
        "pull_request": {
            "number": 12,
            "head": here,
            "base": {"sha": github.git("rev-parse", "HEAD").strip()},
        },
    }
    ran = github.run("infra", "pull_request", payload=payload)
    all_went_well(ran, "plan", "comment")
    (said,) = github.api.comments
    assert said["issue"] == 12 and re.search(
        r"### 📝 dev: \d+ to create, 0 to change, 0 to delete", said["body"]
    )
    assert "| eastus | vault |" in said["body"] and "```diff\n# eastus / identity\n+ " in said["body"]
    assert ran.summaries["plan"] in said["body"]
    assert not azure.resources and "dev" not in ran.results
    assert cloud.jobs["infra-plan"].given and not cloud.jobs["infra-dev"].given


def test_what_was_merged_is_applied_and_each_night_it_is_looked_at(github: Hosted, azure: StandIn) -> None:
    ran = github.run("infra", "push", jobs="dev")
    all_went_well(ran, "plan", "dev")
    assert azure.resources and "### ✅ dev: as it was last applied" in ran.summaries["dev"]

    night = {"schedule": "23 3 * * *"}
    vault = next(one for key, one in azure.resources.items() if "/vaults/" in key and key.count("/") == 8)
    was = vault["properties"]["publicNetworkAccess"]
    vault["properties"]["publicNetworkAccess"] = "enabled"  # in the portal
    ran = github.run("infra", "schedule", payload=night)
    all_went_well(ran, "drift", "tell")
    (issue,) = github.api.issues
    assert (issue["title"], issue["state"]) == ("dev has drifted", "open")
    assert 'publicNetworkAccess: "enabled" -> "disabled"' in issue["body"]

    vault["properties"]["publicNetworkAccess"] = was
    all_went_well(github.run("infra", "schedule", payload=night), "drift", "tell")
    assert github.api.issues[0]["state"] == "closed"


def test_stores_are_backed_up_and_what_was_kept_is_verified(
    github: Hosted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    github.variables["VA_BACKUPS"] = "yes"
    github.runner("backup", {"VA_INSTANCE": _INSTANCE})
    # Where the machine's disk is, the stores that come up stay: another place for them, which is taken away.
    monkeypatch.setenv("VA_INSTANCE", _INSTANCE)
    monkeypatch.setenv("VA_STATE", str(tmp_path / "disk"))
    try:
        ran = github.run("dr", "schedule", payload={"schedule": "41 1 * * *"}, disk=tmp_path / "disk")
        all_went_well(ran, "backup", "tell")
    finally:
        asyncio.run(platform.down(SilentReporter()))
    assert "last night's set is whole" in ran.summaries["backup"]
    assert not [issue for issue in github.api.issues if issue["state"] == "open"]
