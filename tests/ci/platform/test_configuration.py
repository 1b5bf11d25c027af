"""What the parts' programs are told: each assertion is a fact that was found the hard way."""

from __future__ import annotations

import hashlib
import json
import re
import sys
import tarfile
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from ci import places, tools
from ci.environments import TrustedSigner, read_environments
from ci.errors import BadInput, ToolMissing
from ci.platform import admission, certificates, cluster, livekit, objects, prometheus, registry, tools_needed
from ci.platform.discovery import targets
from ci.platform.instance import Instance
from ci.platform.plan import all_parts, chosen
from ci.platform.sandbox import SANDBOX_IMAGE, busybox_archive
from ci.tools import go, table


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Instance:
    monkeypatch.setattr(tools, "path", lambda name: Path("/usr/lib/tool") / name)
    return Instance(number=0, folder=tmp_path)


def test_containerd_lives_without_cap_sys_resource_and_has_our_sandbox(place: Instance) -> None:
    config = tomllib.loads(cluster._containerd_config(Path("/x/eastus")))

    cri = config["plugins"]["io.containerd.grpc.v1.cri"]
    assert cri["restrict_oom_score_adj"] is True
    assert cri["sandbox_image"] == SANDBOX_IMAGE
    assert cri["registry"]["config_path"] == "/x/eastus/hosts"
    assert config["root"] == "/x/eastus/containerd"


def test_a_node_pulls_from_where_the_host_pushed(place: Instance) -> None:
    files = cluster._registry_hosts(place, place.cluster, place.folder)

    assert len(files) == 3
    hosts = tomllib.loads(files[place.folder / "hosts" / "127.0.0.1:5502" / "hosts.toml"])
    assert hosts["server"] == "http://10.200.0.1:5502"
    assert hosts["host"] == {"http://10.200.0.1:5502": {"capabilities": ["pull", "resolve"]}}


def test_of_several_clusters_each_pulls_from_its_own_region_beside_it(place: Instance) -> None:
    region = (apart := replace(place, clusters=3)).region("westeurope")
    files = cluster._registry_hosts(apart, region, place.folder)

    servers = {path.parent.name: tomllib.loads(text)["server"] for path, text in files.items()}
    assert servers["127.0.0.1:5502"] == "http://127.0.0.1:5502"
    assert {servers["127.0.0.1:5501"], servers["127.0.0.1:5503"]} == {
        "http://10.200.0.1:5501", "http://10.200.0.1:5503",
    }  # fmt: skip


def test_of_several_clusters_each_prometheus_sees_its_own(place: Instance) -> None:
    apart = replace(place, clusters=3)
    jobs = {
        region.name: {job["job_name"]: job for job in prometheus._config(apart, region)["scrape_configs"]}
        for region in apart.regions
    }

    assert jobs["southeastasia"]["gateway"]["static_configs"] == [{"targets": ["10.200.2.2:8481"]}]
    assert jobs["southeastasia"]["kubelet"]["static_configs"] == [{"targets": ["10.200.2.2:10250"]}]
    files = {str(one["pods"]["file_sd_configs"]) for one in jobs.values()}
    assert len(files) == 3
    assert [name for name, one in jobs.items() if "livekit" in one] == ["eastus"]  # it is counted once


def test_people_have_a_context_a_cluster_and_none_of_one_that_is_gone(place: Instance) -> None:
    apart = replace(place, clusters=3)
    for region in apart.regions:
        made = certificates.administrator(apart, region).with_name("people.conf")
        made.parent.mkdir(parents=True)
        one = {"name": region.node}
        made.write_text(
            yaml.safe_dump(
                {"clusters": [one], "contexts": [one], "users": [one], "current-context": region.node}
            )
        )
    assert certificates._gather(apart) is True
    assert certificates._gather(apart) is False

    content = yaml.safe_load(place.kubeconfig.read_text())
    assert [one["name"] for one in content["contexts"]] == ["va-eastus", "va-westeurope", "va-southeastasia"]
    assert content["current-context"] == "va-eastus"
    assert place.kubeconfig.stat().st_mode & 0o777 == 0o600

    certificates._gather(place)
    assert [one["name"] for one in yaml.safe_load(place.kubeconfig.read_text())["users"]] == ["va-eastus"]


def test_the_registry_for_nodes_only_serves_pulls() -> None:
    host = registry.configuration("127.0.0.1:5501", "/data", pull_only=False)
    nodes = registry.configuration("10.200.0.1:5501", "/data", pull_only=True)

    assert host["storage"]["maintenance"]["readonly"] == {"enabled": False}
    assert nodes["storage"]["maintenance"]["readonly"] == {"enabled": True}
    assert host["storage"]["filesystem"] == nodes["storage"]["filesystem"]
    assert "cache" not in nodes["storage"]


def test_the_home_registry_tells_the_replicator_of_manifests_only(place: Instance) -> None:
    config = registry.configuration(
        "127.0.0.1:5501", "/data", pull_only=False, notify="http://127.0.0.1:5510/events"
    )

    (told,) = config["notifications"]["endpoints"]
    assert told["url"] == "http://127.0.0.1:5510/events"
    assert told["ignore"]["mediatypes"] == ["application/octet-stream"]
    assert not {"push", "delete"} & set(told["ignore"]["actions"])
    assert "notifications" not in registry.configuration("127.0.0.1:5502", "/data", pull_only=False)


def test_the_kubelet_accepts_cgroup_v1_and_keeps_to_its_own_cgroup(place: Instance) -> None:
    config = cluster._kubelet_config(place.cluster, place.folder)

    assert (config["failCgroupV1"], config["failSwapOn"]) == (False, False)
    assert config["cgroupDriver"] == "cgroupfs"
    assert config["cgroupRoot"] == "/va-eastus"
    assert config["clusterDNS"] == [place.cluster.node_ip]


def test_kubeadm_is_told_the_version_that_is_built() -> None:
    (kubeadm,) = (tool for tool in table.of_go("kubernetes") if tool.name == "kubeadm")

    assert go.pinned_version(kubeadm) == certificates._KUBERNETES


def test_kube_proxy_leaves_the_hosts_connection_table_alone(place: Instance) -> None:
    conntrack = cluster._proxy_config(place.cluster, place.folder)["conntrack"]

    assert (conntrack["maxPerCore"], conntrack["min"]) == (0, 0)


def test_the_kubeconfig_for_people_has_plain_names(tmp_path: Path) -> None:
    made = tmp_path / "super-admin.conf"
    made.write_text(
        "apiVersion: v1\nkind: Config\ncurrent-context: kubernetes-super-admin@kubernetes\n"
        "clusters: [{name: kubernetes, cluster: {server: 'https://10.200.0.2:6443'}}]\n"
        "users: [{name: kubernetes-super-admin, user: {}}]\n"
        "contexts: [{name: kubernetes-super-admin@kubernetes,"
        " context: {cluster: kubernetes, user: kubernetes-super-admin}}]\n"
    )

    text = certificates._for_people(made, "va-eastus")

    assert "current-context: va-eastus" in text
    assert not re.search(r"kubernetes-super-admin|: kubernetes$", text, re.MULTILINE)


def test_the_services_of_the_host_point_to_it(place: Instance) -> None:
    service, endpoints = objects._to_host(place, "redis-dev", 6379, place.redis("dev"))

    assert service["spec"]["ports"] == [{"name": "redis-dev", "port": 6379, "targetPort": 6470}]
    assert "selector" not in service["spec"]
    assert endpoints["metadata"]["labels"] == {"kubernetes.io/service-name": "redis-dev"}
    assert endpoints["endpoints"][0]["addresses"] == ["10.200.0.1"]


def test_the_gateway_takes_routes_of_every_namespace(place: Instance) -> None:
    gateway = objects._gateway(place)

    assert (gateway["metadata"]["namespace"], gateway["metadata"]["name"]) == ("va-system", "voice")
    (listener,) = gateway["spec"]["listeners"]
    assert listener["port"] == 8480
    assert listener["allowedRoutes"] == {"namespaces": {"from": "All"}}


def test_livekits_secret_is_made_once_and_for_its_owner_only(place: Instance) -> None:
    first = livekit.livekit_secret(place)

    assert livekit.livekit_secret(place) == first
    assert len(first) >= 32
    assert place.livekit_env.stat().st_mode & 0o777 == 0o600
    assert livekit.livekit_secret(Instance(number=0, folder=place.folder / "other")) != first


def test_prometheus_scrapes_pods_every_second(place: Instance) -> None:
    jobs = {job["job_name"]: job for job in prometheus._config(place, place.cluster)["scrape_configs"]}

    assert jobs["pods"]["scrape_interval"] == "1s"
    assert jobs["pods"]["file_sd_configs"] == [{"files": [str(place.folder / "eastus" / "pods.json")]}]
    assert set(jobs) == {"pods", "kubelet", "cadvisor", "livekit", "gateway"}


def _pod(**change: object) -> dict[str, object]:
    pod: dict[str, object] = {
        "metadata": {
            "name": "voice-api-1",
            "namespace": "va-dev",
            "labels": {
                "app.kubernetes.io/name": "voice-api",
                "va.dev/track": "canary",
                "va.dev/release": "r1",
            },
            "annotations": {"prometheus.io/scrape": "true", "prometheus.io/port": "8000"},
        },
        "status": {"phase": "Running", "podIP": "10.200.64.7"},
    }
    return {**pod, **change}


def test_a_running_pod_that_asks_for_it_is_a_target() -> None:
    assert targets([_pod()]) == [
        {
            "targets": ["10.200.64.7:8000"],
            "labels": {
                "namespace": "va-dev",
                "pod": "voice-api-1",
                "app": "voice-api",
                "track": "canary",
                "release": "r1",
                "__metrics_path__": "/metrics",
            },
        }
    ]


@pytest.mark.parametrize(
    "pod",
    [
        _pod(status={"phase": "Pending", "podIP": "10.200.64.7"}),
        _pod(status={"phase": "Succeeded", "podIP": "10.200.64.7"}),
        _pod(status={"phase": "Running"}),
        _pod(metadata={"name": "x", "namespace": "y"}),
        _pod(metadata={"name": "x", "namespace": "y", "annotations": {"prometheus.io/scrape": "true"}}),
        _pod(metadata={"name": "x", "namespace": "y", "annotations": {"prometheus.io/port": "8000"}}),
    ],
)
def test_other_pods_are_not(pod: dict[str, object]) -> None:
    assert targets([pod]) == []


def test_one_that_is_ending_is_scraped_to_the_end() -> None:
    pod = _pod()
    pod["metadata"] = {**pod["metadata"], "deletionTimestamp": "2026-01-01T00:00:00Z"}  # type: ignore[dict-item]

    assert len(targets([pod])) == 1


# The sandbox's image -------------------------------------------------------------------------------------


def test_the_sandbox_image_is_whole_and_always_the_same(tmp_path: Path) -> None:
    busybox = tmp_path / "busybox"
    busybox.write_bytes(b"\x7fELF static")
    archives = [tmp_path / "one.tar", tmp_path / "two.tar"]
    for archive in archives:
        busybox_archive(busybox, archive, name=SANDBOX_IMAGE, command=["sleep", "9"])

    assert archives[0].read_bytes() == archives[1].read_bytes()
    with tarfile.open(archives[0]) as tar:
        blobs = {name: tar.extractfile(name).read() for name in tar.getnames()}  # type: ignore[union-attr]
    for name, blob in blobs.items():
        if name.startswith("blobs/"):
            assert name == f"blobs/sha256/{hashlib.sha256(blob).hexdigest()}"
    (entry,) = json.loads(blobs["index.json"])["manifests"]
    assert entry["annotations"] == {"io.containerd.image.name": SANDBOX_IMAGE}
    manifest = json.loads(blobs["blobs/" + entry["digest"].replace(":", "/")])
    config = json.loads(blobs["blobs/" + manifest["config"]["digest"].replace(":", "/")])
    assert config["config"]["Entrypoint"] == ["/bin/busybox", "sleep", "9"]


def test_a_busybox_with_shared_libraries_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ToolMissing, match="is not static") as caught:
        busybox_archive(Path(sys.executable).resolve(), tmp_path / "x.tar", name="x", command=[])

    assert "busybox-static" in caught.value.hint


# The whole -----------------------------------------------------------------------------------------------


def test_every_need_is_a_part_that_comes_before(place: Instance) -> None:
    seen: set[str] = set()
    for part in all_parts(place):
        assert part.name not in seen
        seen.add(part.name)
    for part in all_parts(place):
        assert set(part.needs) <= seen


def test_a_part_is_chosen_with_all_it_needs(place: Instance) -> None:
    names = [part.name for part in chosen(all_parts(place), ["redis dev"])]

    assert names == ["va-eastus", "redis dev"]
    with pytest.raises(BadInput, match="no part 'mysql'; it has va-eastus, registry eastus"):
        chosen(all_parts(place), ["mysql"])


def test_what_has_to_be_asked_for_does_not_come_up_with_all(place: Instance) -> None:
    every = {part.name for part in all_parts(place)}
    asked = {part.name for part in all_parts(place) if part.on_request}

    assert {part.name for part in chosen(all_parts(place), None)} == every - asked
    assert asked == {
        *("postgres", "storage eastus", "storage westeurope"),
        *("drill postgres", "drill redis", "drill storage eastus", "drill storage westeurope"),
    }
    assert [part.name for part in chosen(all_parts(place), ["drill redis"])] == ["drill redis"]


def test_what_up_needs_is_known_to_the_tools() -> None:
    assert set(tools_needed()) < set(tools.NAMES)
    assert not {"trivy", "helm", "kubectl", "buildah", "postgres", "azurite"} & set(tools_needed())


def test_the_webhook_trusts_this_platforms_key_and_whom_environments_name_beside_it(
    place: Instance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VA_STATE", str(tmp_path / "state"))
    own = {"key": str(place.signing / "cosign.pub")}
    # As it is: the key of a platform, in the state folder, and that may be another platform's.
    assert json.loads(admission._trusted(place)) == [own]

    vault = TrustedSigner(key=tmp_path / "release.pub")
    workflow = TrustedSigner(
        identity="https://github.com/o/r/*", issuer="https://i", trusted_root=Path("r.json")
    )
    trusting = [
        one.model_copy(
            update={"trust": one.trust.model_copy(update={"signers": (*one.trust.signers, vault, workflow)})}
        )
        for one in read_environments("local")
    ]
    monkeypatch.setattr(admission, "read_environments", lambda _: trusting)

    assert json.loads(admission._trusted(place)) == [
        own,
        {"key": str(tmp_path / "release.pub")},
        {
            "identity": "https://github.com/o/r/*",
            "issuer": "https://i",
            "trusted_root": str(places.checkout() / "r.json"),
        },
    ]
