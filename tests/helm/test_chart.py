"""The chart as Kubernetes sees it: rendered by helm for both tracks and every environment, then looked at.

Marked e2e because it needs the tools helm and kubeconform, which the platform's set-up builds.
"""

from __future__ import annotations

import asyncio
import functools
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from ci import places, tools
from ci.delivery.manifests import validate
from ci.delivery.site import declared_values
from ci.delivery.traffic import canary_weight
from ci.environments import estates, names, read_environment
from ci.errors import StepFailed
from ci.process import run
from ci.reporting import SilentReporter

pytestmark = pytest.mark.e2e

CHART = places.checkout() / "helm/voice-assistant"
DIGEST = {name: f"sha256:{digit * 64}" for name, digit in (("api", "a"), ("agent", "b"), ("web", "c"))}
VALUES: dict[str, Any] = {
    "release": "20261123-1a2b3c",
    "images": {
        "api": {"repository": "127.0.0.1:5501/fastapi-backend", "digest": DIGEST["api"]},
        "agent": {"repository": "127.0.0.1:5501/livekit-agent", "digest": DIGEST["agent"]},
        "web": {"repository": "127.0.0.1:5501/web-client", "digest": DIGEST["web"]},
    },
}
PARTS = ("api", "agent", "web")
TRACKS = {"stable": "voice", "canary": "voice-canary"}
Object = dict[str, Any]


@pytest.fixture(scope="session", autouse=True)
def helm() -> None:
    asyncio.run(tools.ensure(["helm"], SilentReporter()))


def laid_over(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    nested = {
        key: laid_over(base[key], value)
        if isinstance(value, dict) and isinstance(base.get(key), dict)
        else value
        for key, value in over.items()
    }
    return {**base, **nested}


@functools.cache
def helm_template(name: str, values: str) -> str:
    words = ("template", name, CHART, "--namespace", "va-test", "--values", "-")
    return asyncio.run(run(tools.path("helm"), *words, stdin=values)).stdout


def rendered(track: str = "stable", **values: Any) -> str:
    given = laid_over(VALUES | {"track": track}, values)
    return helm_template(TRACKS.get(track, "voice"), yaml.safe_dump(given))


def objects(track: str = "stable", **values: Any) -> dict[tuple[str, str], Object]:
    found = [one for one in yaml.safe_load_all(rendered(track, **values)) if one]
    by_name = {(one["kind"], one["metadata"]["name"]): one for one in found}
    assert len(by_name) == len(found)
    return by_name


def deployments(track: str = "stable", **values: Any) -> Iterator[tuple[str, Object]]:
    for part in PARTS:
        yield part, objects(track, **values)["Deployment", f"{TRACKS[track]}-{part}"]


def pod(deployment: Object) -> Object:
    spec: Object = deployment["spec"]["template"]["spec"]
    return spec


def container(deployment: Object) -> Object:
    (only,) = pod(deployment)["containers"]
    assert isinstance(only, dict)
    return only


def environment(deployment: Object) -> dict[str, str | None]:
    variables = container(deployment)["env"]
    names = [one["name"] for one in variables]
    assert len(names) == len(set(names)), "a variable is set twice"
    return {one["name"]: one.get("value") for one in variables}


def test_stable_has_everything_and_canary_no_route_and_no_budget() -> None:
    stable = {kind for kind, _ in objects("stable")}
    canary = {kind for kind, _ in objects("canary")}
    assert stable == {"Deployment", "Service", "ServiceAccount", "PodDisruptionBudget", "HTTPRoute", "Pod"}
    assert canary == stable - {"HTTPRoute", "PodDisruptionBudget"}


def test_both_tracks_fit_into_one_namespace() -> None:
    assert not set(objects("stable")) & set(objects("canary"))
    assert all(one["metadata"]["namespace"] == "va-test" for one in objects("stable").values())


def test_no_selector_meets_a_pod_of_the_other_track_or_part() -> None:
    selectors, labels = {}, {}
    for track in TRACKS:
        for part, deployment in deployments(track):
            selectors[track, part] = deployment["spec"]["selector"]["matchLabels"]
            labels[track, part] = deployment["spec"]["template"]["metadata"]["labels"]
        for part in ("api", "web"):
            service = objects(track)["Service", f"{TRACKS[track]}-{part}"]
            selectors[track, f"{part} service"] = service["spec"]["selector"]
    for (track, part), selector in selectors.items():
        wanted = {(track, part.removesuffix(" service"))}
        assert {pod for pod, own in labels.items() if selector.items() <= own.items()} == wanted


def test_selectors_do_not_change_with_the_release() -> None:
    for (_, one), (_, other) in zip(deployments(), deployments(release="another"), strict=True):
        assert one["spec"]["selector"] == other["spec"]["selector"]


def test_large_numbers_are_written_in_full() -> None:
    large = {"drainSeconds": 1_000_000, "shutdownSeconds": 2_500_000, "graceSeconds": 12_345_678}
    database = {
        "enabled": True,
        "url": "postgresql://db.example:5432/voice",
        "user": "voice",
        "historyDays": 3_000_000,
        "migrateSeconds": 86_400_000,
    }
    agent = {"drainTimeoutSeconds": 10_000_000, "graceSeconds": 20_000_000}
    memory = {"requests": {"cpu": 1, "memory": 1_000_000_000}, "limits": {"memory": 2_000_000_000}}
    values = {"api": large | {"resources": memory}, "web": large, "agent": agent, "database": database}

    text = rendered("stable", **values)
    assert not re.search(r"[0-9]e\+", text)
    made = objects("stable", **values)
    job = next(one for (kind, _), one in made.items() if kind == "Job")
    assert job["spec"]["activeDeadlineSeconds"] == 86_400_000
    api, web = made["Deployment", "voice-api"], made["Deployment", "voice-web"]
    assert pod(api)["terminationGracePeriodSeconds"] == 12_345_678
    assert pod(web)["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"] == 1_000_000
    assert container(api)["resources"]["limits"]["memory"] == 2_000_000_000
    variables = environment(api) | environment(made["Deployment", "voice-agent"])
    assert (variables["DRAIN_SECONDS"], variables["HISTORY_DAYS"]) == ("1000000", "3000000")
    assert variables["DRAIN_TIMEOUT_SECONDS"] == "10000000"


@pytest.mark.parametrize("track", TRACKS)
def test_pods_are_labelled_and_annotated_for_prometheus(track: str) -> None:
    ports = {"api": "8000", "agent": "9465"}
    for part, deployment in deployments(track):
        metadata = deployment["spec"]["template"]["metadata"]
        assert metadata["labels"]["app.kubernetes.io/name"] == part
        assert metadata["labels"]["va.dev/track"] == track
        assert metadata["labels"]["va.dev/release"] == VALUES["release"]
        if part in ports:  # the page's server counts nothing
            assert metadata["annotations"] == {
                "prometheus.io/scrape": "true",
                "prometheus.io/port": ports[part],
                "prometheus.io/path": "/metrics",
            }


@pytest.mark.parametrize("track", TRACKS)
def test_pods_are_restricted(track: str) -> None:
    for _, deployment in deployments(track):
        spec, security = pod(deployment), container(deployment)["securityContext"]
        assert spec["automountServiceAccountToken"] is False
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert security["allowPrivilegeEscalation"] is False
        assert security["readOnlyRootFilesystem"] is True
        assert security["capabilities"] == {"drop": ["ALL"]}
        assert security["runAsUser"] == 10001
        assert container(deployment)["volumeMounts"] == [{"name": "tmp", "mountPath": "/tmp"}]


def test_images_are_pulled_by_digest() -> None:
    for part, deployment in deployments():
        image = VALUES["images"][part]
        assert container(deployment)["image"] == f"{image['repository']}@{DIGEST[part]}"


def test_a_pod_may_finish_its_work() -> None:
    values = {
        "api": {"drainSeconds": 7, "shutdownSeconds": 30},
        "agent": {"drainTimeoutSeconds": 3600},
        "web": {"drainSeconds": 4, "shutdownSeconds": 9},
    }
    found = dict(deployments(**values))
    api, agent = (environment(found[part]) for part in ("api", "agent"))
    assert (api["DRAIN_SECONDS"], api["SHUTDOWN_SECONDS"], agent["DRAIN_TIMEOUT_SECONDS"]) == (
        "7",
        "30",
        "3600",
    )
    assert pod(found["api"])["terminationGracePeriodSeconds"] > 7 + 30
    # livekit-agents: the drain, then its shutdown_process_timeout (10 s) and session_end_timeout (300 s).
    assert pod(found["agent"])["terminationGracePeriodSeconds"] > 3600 + 10 + 300
    assert container(found["web"])["lifecycle"] == {"preStop": {"sleep": {"seconds": 4}}}
    assert environment(found["web"])["SHUTDOWN_SECONDS"] == "9"
    assert pod(found["web"])["terminationGracePeriodSeconds"] > 4 + 9


def test_an_upgrade_never_has_fewer_pods() -> None:
    for _, deployment in deployments():
        assert deployment["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0


def test_probes_ask_ports_that_are_there() -> None:
    for part, deployment in deployments():
        one = container(deployment)
        ports = {port["name"] for port in one["ports"]}
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            assert one[probe]["httpGet"]["port"] in ports
        # The one that restarts must not look at Redis or LiveKit: a restart does not mend them.
        assert one["livenessProbe"]["httpGet"]["path"] in ("/healthz", "/")
        assert one["readinessProbe"]["httpGet"]["path"] == ("/healthz" if part == "web" else "/readyz")


@pytest.mark.parametrize("track", TRACKS)
def test_a_tracks_sessions_go_to_its_own_agents(track: str) -> None:
    api, agent, web = (environment(deployment) for _, deployment in deployments(track))
    # A canary's agents stay for a while: they must not be given the sessions of the next one.
    own = f"va-test-{TRACKS[track]}" + (f"-{VALUES['release']}" if track == "canary" else "")
    assert api["AGENT_NAME"] == agent["AGENT_NAME"] == own
    assert api["VA_TRACK"] == agent["VA_TRACK"] == web["VA_TRACK"] == track


def test_secrets_are_only_referred_to() -> None:
    for track in TRACKS:
        for part, deployment in deployments(track):
            secret = {
                one["name"]: one["valueFrom"]["secretKeyRef"]
                for one in container(deployment)["env"]
                if "valueFrom" in one
            }
            assert secret == {
                name: {"name": "voice-livekit", "key": name}
                for name in ("LIVEKIT_API_KEY", "LIVEKIT_API_SECRET")
                if part != "web"
            } | (
                {"REDIS_PASSWORD": {"name": "voice-redis", "key": "REDIS_PASSWORD"}} if part == "api" else {}
            )


def test_a_redis_with_a_password_and_shards() -> None:
    found = dict(deployments(redis={"url": "rediss://redis:6380", "cluster": True, "secret": "voice-redis"}))
    assert environment(found["api"])["REDIS_CLUSTER"] == "true"
    (password,) = (one for one in container(found["api"])["env"] if one["name"] == "REDIS_PASSWORD")
    assert password["valueFrom"]["secretKeyRef"] == {"name": "voice-redis", "key": "REDIS_PASSWORD"}
    assert "REDIS_PASSWORD" not in environment(dict(deployments(redis={"secret": ""}))["api"])


DATABASE = {"enabled": True, "url": "postgresql://db:5432/voice", "user": "voice", "secret": "voice-database"}


@pytest.mark.parametrize("track", TRACKS)
def test_migrations_run_before_anything_of_a_release(track: str) -> None:
    found = objects(track, database=DATABASE | {"migrator": "owner"}, networkPolicy={"enabled": True})
    name = f"{TRACKS[track]}-migrate"
    hooks = {}
    for kind in ("ServiceAccount", "NetworkPolicy", "Job"):
        annotations = found[kind, name]["metadata"]["annotations"]
        assert annotations["helm.sh/hook"] == "pre-install,pre-upgrade"
        assert annotations["helm.sh/hook-delete-policy"] == "before-hook-creation,hook-succeeded"
        hooks[kind] = int(annotations["helm.sh/hook-weight"])
    assert max(hooks["ServiceAccount"], hooks["NetworkPolicy"]) < hooks["Job"]
    job = found["Job", name]
    assert pod(job)["serviceAccountName"] == name and "priorityClassName" not in pod(job)
    # No track's pod: gates and services would take it for one.
    assert "va.dev/track" not in job["spec"]["template"]["metadata"]["labels"]
    api = found["Deployment", f"{TRACKS[track]}-api"]
    assert container(job)["image"] == container(api)["image"]
    for deployment, user in ((job, "owner"), (api, "voice")):
        said = environment(deployment)
        assert (said["DATABASE_URL"], said["DATABASE_USER"]) == (DATABASE["url"], user)
        (password,) = (one for one in container(deployment)["env"] if one["name"] == "DATABASE_PASSWORD")
        assert password["valueFrom"]["secretKeyRef"] == {"name": "voice-database", "key": "DATABASE_PASSWORD"}


def test_without_a_database_there_is_no_job_and_no_variable() -> None:
    found = objects()
    assert not [one for one in found if one[0] == "Job"]
    assert not [name for name in environment(found["Deployment", "voice-api"]) if "DATABASE" in name]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (
            {"database": DATABASE, "secrets": {"objects": {"voice-database": {"DATABASE_PASSWORD": "db"}}}},
            "comes with the release",
        ),
        ({"database": DATABASE | {"secret": "", "entra": True}}, "database.identity"),
        ({"database": DATABASE | {"url": "postgresql://user:password@db/voice"}}, "/database/url"),
    ],
)
def test_migrations_that_could_not_log_in_are_refused(values: dict[str, Any], said: str) -> None:
    with pytest.raises(StepFailed) as error:
        rendered(**values)
    assert said in str(error.value)


def test_parts_keep_to_their_node_pools() -> None:
    taint = {"key": "agents", "operator": "Equal", "value": "true", "effect": "NoSchedule"}
    found = dict(deployments(agent={"nodeSelector": {"agentpool": "agents"}, "tolerations": [taint]}))
    assert pod(found["agent"])["nodeSelector"] == {"agentpool": "agents"}
    assert pod(found["agent"])["tolerations"] == [taint]
    assert "nodeSelector" not in pod(found["api"]) and "tolerations" not in pod(found["api"])


@pytest.mark.parametrize("weight", [0, 10, 100])
def test_the_route_splits_by_weight(weight: int) -> None:
    traffic = {"canaryWeight": weight, "canary": "voice-canary", "hostname": "api.voice.test"}
    route = objects(traffic=traffic)["HTTPRoute", "voice"]
    for part in ("api", "web"):
        assert canary_weight(route, {f"voice-{part}": f"voice-canary-{part}"}) == weight
    assert route["spec"]["hostnames"] == ["api.voice.test"]
    assert route["spec"]["parentRefs"] == [{"name": "voice", "namespace": "va-system"}]
    services = {name for track in TRACKS for kind, name in objects(track) if kind == "Service"}
    backends = [one["name"] for rule in route["spec"]["rules"] for one in rule["backendRefs"]]
    assert set(backends) <= services


def test_without_a_canary_all_goes_to_stable() -> None:
    found = {
        rule["matches"][0]["path"]["value"]: [(one["name"], one["weight"]) for one in rule["backendRefs"]]
        for rule in objects()["HTTPRoute", "voice"]["spec"]["rules"]
    }
    assert found == {"/v1": [("voice-api", 100)], "/": [("voice-web", 100)]}


def test_the_page_may_reach_the_livekit_that_callers_reach() -> None:
    for livekit, said in (
        ({"publicUrl": "wss://livekit.example"}, "wss://livekit.example"),
        ({"publicUrl": "", "url": "ws://inside:7880"}, "ws://inside:7880"),
    ):
        assert environment(dict(deployments(livekit=livekit))["web"])["LIVEKIT_PUBLIC_URL"] == said


def test_a_single_replica_has_no_budget_that_would_block_a_drain() -> None:
    kinds = {kind for kind, _ in objects(**{part: {"replicas": 1} for part in PARTS})}
    assert "PodDisruptionBudget" not in kinds


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"images": {"api": {"digest": "latest"}}}, "/images/api/digest"),
        ({"images": {"api": {"tag": "v1"}}}, "tag"),
        ({"track": "beta"}, "/track"),
        ({"traffic": {"canaryWeight": 101}}, "/traffic/canaryWeight"),
        ({"trafic": {}}, "trafic"),
        ({"api": {"replica": 3}}, "replica"),
        ({"api": {"env": {"AGENT_NAME": "x"}}}, "AGENT_NAME"),
        ({"redis": {"url": "redis://:password@redis"}}, "/redis/url"),
        ({"agent": {"drainTimeoutSeconds": 0}}, "/agent/drainTimeoutSeconds"),
    ],
)
def test_wrong_values_are_refused_and_named(values: dict[str, Any], said: str) -> None:
    with pytest.raises(StepFailed) as error:
        rendered(**values)
    assert said in str(error.value)


def test_helm_lint_finds_nothing() -> None:
    words = ("lint", "--strict", CHART, "--values", "-")
    asyncio.run(run(tools.path("helm"), *words, stdin=yaml.safe_dump(VALUES)))


def test_kubernetes_would_take_it_in_every_environment() -> None:
    manifests = {"defaults": rendered()}
    for estate in estates():
        for name in names(estate):
            environment = read_environment(estate, name)
            # Targets that differ in nothing are rendered once.
            each = {str(v): v for t in environment.targets.values() if (v := declared_values(environment, t))}
            for number, values in enumerate(each.values()):
                manifests |= {
                    f"{estate}/{name} {number} {track}": rendered(track, **values) for track in TRACKS
                }
    count = asyncio.run(validate(manifests, SilentReporter()))
    assert count == sum(text.count("\nkind: ") for text in manifests.values())


GUARDED = {"images": {"guard": {"repository": "127.0.0.1:5501/canary-guard", "digest": f"sha256:{'d' * 64}"}}}
VAULT = {
    "priorities": {"create": True},
    "secrets": {
        "provider": "external-secrets",
        "vault": {"url": "https://kv.vault.azure.net", "tenant": "0" * 8 + "-0000-0000-0000-" + "0" * 12},
        "objects": {
            "voice-livekit": {"LIVEKIT_API_KEY": "k", "LIVEKIT_API_SECRET": "s"},
            "voice-redis": {"REDIS_PASSWORD": "p"},
            "speech-keys": {"SPEECH_KEY": "new-in-this-release"},
        },
        "readers": {"speech-keys": "agent"},
    },
    "api": {"identity": "0" * 8 + "-0000-0000-0000-" + "0" * 12, "priorityClass": "voice-requests"},
    "agent": {
        "identity": "0" * 8 + "-0000-0000-0000-" + "0" * 12,
        "priorityClass": "voice-calls",
        "providerSecret": "speech-keys",
    },
    "web": {"priorityClass": "somebody-elses"},
}


def needed(one: Object) -> set[tuple[str, str]]:
    """What a pod has to find, to start."""
    spec = one["spec"] if one["kind"] == "Pod" else one["spec"]["template"]["spec"]
    found = {("PriorityClass", spec["priorityClassName"])} if "priorityClassName" in spec else set()
    if "serviceAccountName" in spec:
        found.add(("ServiceAccount", spec["serviceAccountName"]))
    for each in spec["containers"]:
        sources = [variable.get("valueFrom", {}) for variable in each.get("env", [])]
        found |= {("Secret", ref["secretKeyRef"]["name"]) for ref in sources if "secretKeyRef" in ref}
        found |= {("Secret", ref["secretRef"]["name"]) for ref in each.get("envFrom", [])}
    return found


def test_what_is_new_in_a_release_is_there_for_its_canary_too() -> None:
    """The canary is the first of a release: what only stable's chart makes is not there yet."""

    def made(track: str) -> set[tuple[str, str]]:
        kinds = {"ExternalSecret": "Secret"}
        return {(kinds.get(kind, kind), name) for kind, name in objects(track, **GUARDED, **VAULT)}

    canary = objects("canary", **laid_over(GUARDED, VAULT))
    wanted = {each for one in canary.values() if one["kind"] in ("Deployment", "Pod") for each in needed(one)}
    assert {("Secret", "voice-canary-redis"), ("PriorityClass", "voice-canary-calls")} <= wanted
    assert ("PriorityClass", "somebody-elses") in wanted  # whoever makes it: not this chart
    assert wanted - made("canary") == {("PriorityClass", "somebody-elses")}
    assert not made("canary") & made("stable")  # nothing is made by both


@pytest.mark.parametrize("cilium", [False, True])
def test_what_a_canarys_pods_may_reach_outlives_its_removal(cilium: bool) -> None:
    policy = {"enabled": True, "cilium": cilium, "livekit": ["10.0.0.0/8"], "apiServer": ["10.1.0.1/32"]}
    for track in TRACKS:
        found = objects(track, **GUARDED, networkPolicy=policy)
        policies = {
            name: one["metadata"].get("annotations", {}).get("helm.sh/resource-policy")
            for (kind, name), one in found.items()
            if kind in ("NetworkPolicy", "CiliumNetworkPolicy")
        }
        kept = {name for name, said in policies.items() if said == "keep"}
        own = {f"voice-canary-{part}" for part in (*PARTS, "guard")}
        own |= {f"voice-canary-{part}-livekit" for part in ("api", "agent") if cilium}
        assert kept == (own if track == "canary" else set())


def test_a_canarys_agents_take_calls_for_as_long_as_sessions_name_them() -> None:
    agent = dict(deployments("canary"))["agent"]
    # images/api: session_ttl_seconds.
    assert container(agent)["lifecycle"] == {"preStop": {"sleep": {"seconds": 3600}}}
    assert pod(agent)["terminationGracePeriodSeconds"] > 3600 + 3600 + 10 + 300
    given = {"lingerSeconds": 7, "graceSeconds": 4000}
    agent = dict(deployments("canary", agent=given))["agent"]
    assert container(agent)["lifecycle"] == {"preStop": {"sleep": {"seconds": 7}}}
    assert pod(agent)["terminationGracePeriodSeconds"] == 4007
    assert "lifecycle" not in container(dict(deployments("canary", agent={"lingerSeconds": 0}))["agent"])
    assert "lifecycle" not in container(dict(deployments("stable", agent=given))["agent"])


def test_what_a_promoter_writes_carries_its_fence() -> None:
    for track in TRACKS:
        carry = {
            name
            for (kind, name), one in objects(track, fence=7, **GUARDED).items()
            if one["metadata"].get("annotations", {}).get("va.dev/fence") == "7"
        }
        own = {f"{TRACKS[track]}-{part}" for part in PARTS}
        assert carry == own | ({"voice"} if track == "stable" else {"voice-canary-guard"})
    assert "va.dev/fence" not in rendered("stable") + rendered("canary", **GUARDED)
    # By another promoter the same pods: nothing of it is in their template.
    pods = [[pod(one) for _, one in deployments(fence=fence)] for fence in (7, 8)]
    assert pods[0] == pods[1]


def test_a_guard_is_beside_a_canary_and_may_do_one_thing() -> None:
    assert not [name for _, name in objects("stable", **GUARDED) if "guard" in name]
    assert not [name for _, name in objects("canary") if "guard" in name]
    ingress = {"kind": "ingress"}
    assert not [name for _, name in objects("canary", traffic=ingress, **GUARDED) if "guard" in name]
    policy = {"enabled": True, "apiServer": ["10.1.0.1/32"], "https": ["0.0.0.0/0"], "redis": ["10.0.0.0/8"]}
    found = objects("canary", networkPolicy=policy, **GUARDED)
    role = found["Role", "voice-canary-guard"]
    may = {(one["resources"][0], *one.get("resourceNames", ["*"]), *one["verbs"]) for one in role["rules"]}
    assert may == {
        ("httproutes", "voice", "get", "update"),
        ("leases", "va-promotion", "get"),
        ("endpointslices", "*", "list"),
        ("configmaps", "va-guard", "patch"),
    }
    (rule,) = found["NetworkPolicy", "voice-canary-guard"]["spec"]["egress"]
    assert rule["to"] == [{"ipBlock": {"cidr": "10.1.0.1/32"}}]
    assert "ingress" not in found["NetworkPolicy", "voice-canary-guard"]["spec"]
    deployment = found["Deployment", "voice-canary-guard"]
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert "va.dev/track" not in labels  # it is no pod of the canary, and none that a gate looks at
    assert pod(deployment)["automountServiceAccountToken"] is False
    # What it needs after the canary's removal stays: it goes on for a while when that has traffic.
    for kind in ("ServiceAccount", "Role", "RoleBinding", "NetworkPolicy"):
        kept = found[kind, "voice-canary-guard"]["metadata"]["annotations"]
        assert kept == {"helm.sh/resource-policy": "keep"}
    assert found["ConfigMap", "va-guard"]["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
