"""The rules across resources: every contradiction in the written architecture is found, and we are clean."""

from __future__ import annotations

import time
from datetime import date
from pathlib import Path

import pytest

from ci.architecture import model
from ci.architecture.chart import Fit, values
from ci.architecture.check import Finding, Severity, check
from ci.architecture.cost import what_if
from ci.architecture.facts import retirements
from ci.architecture.rendered import rendered_workloads
from ci.errors import BadInput

TODAY = date(2026, 11, 23)


@pytest.fixture(scope="module")
def written() -> list[Finding]:
    """The findings in the written architecture, its values put in as they stand there."""
    return check(model.read_file(model.folder() / "as-written" / "prod.yaml"), today=TODAY)


# Each known contradiction of the written architecture: code, a part of its own line, a part of the reason.
CONTRADICTIONS = [
    ("NET-VNET", "db-subnet:         10.1.0.0/24", "10.1.0.0/24 is outside the virtual network 10.0.0.0/16"),
    ("NET-VNET", "cache-subnet:      10.2.0.0/24", "10.2.0.0/24 is outside"),
    ("NET-VNET", "gateway-subnet:    10.3.0.0/27", "10.3.0.0/27 is outside"),
    ("NET-SERVICE-CIDR", "**Address Space:** 10.0.0.0/16", "equals the virtual network 10.0.0.0/16"),
    ("COST-SUM", "**$4,420 - $10,150**", "the highs sum to 10,500, not 10,150"),
    (
        "COST-MISSING",
        "costs:",
        "the container registry, Traffic Manager, Key Vault, the regions westeurope and",
    ),
    ("AKS-NODES", "8-44 nodes", "minimums sum to 10, not 8 (the maximum is right)"),
    (
        "NET-ADDRESSES",
        "aks-subnet:        10.0.0.0/20",
        "45 nodes x 31 take 1,395 of 4,091 addresses at 30 pods",
    ),
    ("NET-ADDRESSES", "aks-subnet:        10.0.0.0/20", "at 110 pods they would need 4,995 and not fit"),
    ("REDIS-SIZE", "P2 (6 GB)", "P2 has 13 GB, not 6 GB; 6 GB is P1"),
    ("RETIRING", "Azure Cache for Redis", "ends on 2028-09-30"),
    ("RETIRED", "Ingress Controller (NGINX)", "2026-03-31"),
    ("RETIRED", "**Kubernetes Version:** 1.28+", "kubernetes 1.28 ended"),
    (
        "PG-RETENTION",
        "Point-in-time restore (up to 35 days)",
        "35 days back is promised, and backups are kept 7 days",
    ),
    ("PG-ACCESS", "Private endpoint (VNet integration)", "exclude each other"),
    ("NET-DELEGATION", "Private endpoint (VNet integration)", "a subnet of /28 or larger that is delegated"),
    ("NET-ENDPOINTS", "Private endpoints for PaaS services", "eastus has no subnet for them"),
    ("NET-GATEWAY-SIZE", "gateway-subnet:    10.3.0.0/27", "a /24 is recommended"),
    (
        "NET-GATEWAY-BLOCKED",
        "Block all inbound by default",
        "GatewayManager on 65200-65535 and AzureLoadBalancer",
    ),
    ("LIVEKIT-MEDIA", "Load balance LiveKit WebRTC traffic", "cannot sit behind a load balancer"),
    (
        "LIVEKIT-PUBLIC-IP",
        "No public IPs on backend services",
        "hostNetwork, one pod a node, UDP 50000-60000",
    ),
    ("DNS-BYPASS", "`api.voiceassistant.example.com` → Application Gateway", "past Traffic Manager"),
    ("DNS-BYPASS", "`livekit.voiceassistant.example.com` → Load Balancer", "past Traffic Manager"),
    ("REGION-GROUP", "West EU", "3 regions are drawn, and only eastus has a resource group"),
    (
        "REGISTRY-REGION",
        "Enabled (replicate to West EU)",
        "Southeast Asia pulls its images from another region",
    ),
    (
        "DR-RPO",
        "**RPO:** < 5 minutes",
        "replicas in the same region are lost with it, and a restore from geo-redundant",
    ),
    ("IMAGE-LATEST", "livekit-agent:latest", "another image in another region"),
    ("IMAGE-LATEST", "fastapi-backend:latest", "another image in another region"),
    ("WAF-RULES", "OWASP Core Rule Set 3.2", "two rule sets behind"),
    ("CERT-MANAGED", "Azure-managed certificates", "do not exist for Application Gateway"),
    ("RETIRING", "Azure Network Policy", "azure-network-policy-manager ends on 2028-09-30"),
]


@pytest.mark.parametrize(("code", "line", "reason"), CONTRADICTIONS, ids=lambda value: str(value)[:40])
def test_each_contradiction_of_the_written_architecture_is_found(
    written: list[Finding], code: str, line: str, reason: str
) -> None:
    found = [finding for finding in written if finding.code == code and line in finding.quote]
    assert [finding for finding in found if reason in finding.reason], [
        f.reason for f in written if f.code == code
    ]
    assert all(finding.fix for finding in found)


def test_every_finding_quotes_the_line_it_stands_on(written: list[Finding]) -> None:
    for finding in written:
        assert finding.place.line is not None
        assert finding.place.file.read_text().splitlines()[finding.place.line - 1].strip() == finding.quote


def test_errors_come_first(written: list[Finding]) -> None:
    severities = [list(Severity).index(finding.severity) for finding in written]
    assert severities == sorted(severities)


@pytest.mark.parametrize("environment", ["dev", "staging", "prod"])
def test_our_defaults_are_clean(environment: str) -> None:
    findings = check(model.read(environment), today=TODAY)
    assert [(f.code, f.reason) for f in findings if f.severity is not Severity.INFO] == []
    assert [f.code for f in findings] == ["LIVEKIT-IMAGE", "COST-BUDGET"]
    assert "no image is named" in findings[0].reason and "alerts" in findings[1].reason


# One change to our production, and the one finding that it must raise.
CHANGES = [
    ("regions.eastus.subnets.aks.cidr=10.11.0.0/22", "NET-VNET", "outside the virtual network"),
    ("regions.eastus.subnets.gateway.cidr=10.10.0.0/24", "NET-OVERLAP", "overlap"),
    ("regions.eastus.subnets.gateway.cidr=10.10.4.0/26", "NET-GATEWAY-SIZE", "/24 is recommended"),
    ("service_cidr=10.20.0.0/24", "NET-SERVICE-CIDR", "of westeurope"),
    ("pod_cidr=172.16.0.0/14", "NET-POD-CIDR", "overlaps 172.16.0.0/16"),
    ("pod_cidr=192.168.0.0/22", "NET-ADDRESSES", "serves 4 nodes"),
    ("regions.eastus.subnets.aks.cidr=10.10.0.0/27", "NET-ADDRESSES", "has 27"),
    ("network.security.gateway={}", "NET-GATEWAY-BLOCKED", "must be allowed"),
    ("security.media.livekit-media.ports=[50000-50100]", "LIVEKIT-PORTS", "udp 50000-60000"),
    ("regions.westeurope.subnets.media.purpose=other", "NET-MEDIA", "westeurope has no subnet for them"),
    ("regions.eastus.subnets.media.cidr=10.10.8.0/29", "NET-ADDRESSES", "14 nodes at most need 14"),
    ("pools.system.vm_size=Standard_D2s_v5", "AKS-SYSTEM", "has 2 vCPUs"),
    ("pools.system.min=1", "AKS-SYSTEM", "may have 1 node"),
    ("pools.system.max_pods=20", "AKS-SYSTEM", "hold 30 at least"),
    ("traffic_manager.probe_path=/healthz", "TM-ANSWER", "/healthz is not the api's"),
    ("traffic_manager.probe_path=/v2/health", "TM-ANSWER", "which has /v1/*"),
    ("security.aks.livekit-tcp.priority=100", "NET-PRIORITY", "same priority 100"),
    ("security.aks.livekit-tcp.ports=['22', '443', '7881']", "PUBLIC-EXPOSURE", "ports 22"),
    (
        "workloads.livekit.image=livekit/livekit-server:v1.11.0",
        "LIVEKIT-IMAGE",
        "not one of acrvoiceassistantprod",
    ),
    (
        f"workloads.livekit.image=docker.io/livekit/livekit-server@sha256:{'0' * 64}",
        "LIVEKIT-IMAGE",
        "nobody here scanned and signed",
    ),
    ("pools.livekit.public_ip_per_node=false", "LIVEKIT-PUBLIC-IP", "no pool has"),
    ("pools.api.public_ip_per_node=true", "PUBLIC-NODES", "nothing there needs it"),
    ("workloads.livekit.scaling.max=12", "HPA-POOL", "one pod a node"),
    (
        "workloads.agent.scaling.max=61",
        "HPA-POOL",
        "61 agent pods need 21 nodes of agents, which grows to 20",
    ),
    (
        "workloads.agent.scaling.min=11",
        "HPA-CANARY",
        "50 + 11 agent pods, stable at its most and a canary beside it, need 21 nodes of agents",
    ),
    ("workloads.agent.tolerates=[]", "TAINT-TOLERATION", "never be scheduled"),
    ("pools.agents.taints=[]", "TOLERATION-TAINT", "which no pool has"),
    ("workloads.api.pool=apis", "POOL-UNKNOWN", "wants the pool apis"),
    ("pools.system.mode=user", "POOL-SYSTEM", "needs a system pool"),
    ("workloads.agent.cpu_millicores=4000", "REQUEST-NODE", "asks for 4000 m"),
    ("workloads.agent.memory_mib=16000", "REQUEST-NODE", "16000 MiB"),
    ("workloads.agent.grace=3600s", "GRACE-DRAIN", "may need 3910 s"),
    ("kubernetes.drain_timeout=30m", "GRACE-UPGRADE", "livekit may take 18000 s"),
    ("kubernetes.drain_timeout=48h", "AKS-DRAIN", "24 hours"),
    ("regions.westeurope.vcpu_quota=200", "QUOTA-VCPU", "take 216 vCPUs"),
    ("agents.max=40", "QUOTA-VCPU", "take 296 vCPUs"),
    ("eastus.family_quota.DSv5=240", "QUOTA-FAMILY", "an upgrade 32 more; its quota in eastus is 240"),
    ("eastus.family_quota={DSv55: 350}", "QUOTA-FAMILY", "there is no family DSv55"),
    ("kubernetes.oidc_issuer=false", "IDENTITY-ISSUER", "OIDC issuer"),
    ("livekit.keys=azkv://this/nothing", "SECRET-UNKNOWN", "not among"),
    ("secrets.redis.used_by=[apo]", "SECRET-USER", "no workload"),
    ("redis.memory=25 GB", "REDIS-SIZE", "24 GB, not 25 GB"),
    ("redis.sku=P1", "REDIS-SKU", "has no P1"),
    ("redis.snapshot_every=24h", "REDIS-SNAPSHOT", "every 1, 6, 12 hours, not every 1 day"),
    ("redis.snapshot_every=2h", "REDIS-SNAPSHOT", "not every 2:00:00"),
    ("redis.access_keys=false", "REDIS-LOGIN", "LiveKit logs in to Redis with a password"),
    (
        "key_vault.secrets={livekit-api-secret: {rotate_every: 9d, used_by: [api]}}",
        "REDIS-LOGIN",
        "in no vault",
    ),
    ("access.identities.migrate={azure_roles: []}", "PG-LOGIN", "migrate logs in"),
    ("storage.containers.backups.used_by=[backup]", "ACCESS-USER", "for backup, which has no identity"),
    ("certificates.used_by=[gateway, web]", "ACCESS-USER", "for web, which has no identity"),
    ("certificates.used_by=[gateway, livekit]", "ACCESS-UNUSED", "ingress may do nothing"),
    (
        "access.identities.agent.azure_roles=[Key Vault Secrets User]",
        "ACCESS-WIDE",
        "the whole resource group",
    ),
    ("api.azure_roles=[Storage Blob Data Contributor]", "ACCESS-WIDE", "every secret or blob"),
    ("access.roles.publisher.kubernetes_role=writer", "ACCESS-RELEASE", "may change what runs in a cluster"),
    ("access.roles.promoter.azure_roles=[AcrPull, AcrPush]", "ACCESS-RELEASE", "more than to pull images"),
    ("promoter.group='env:ENTRA_GROUP_PUBLISHERS'", "ACCESS-RELEASE", "the same group"),
    ("postgres.entra_id=false", "PG-LOGIN", "by Entra ID"),
    ("postgres.backup_retention=7d", "PG-RETENTION", "35 days back"),
    ("postgres.private_endpoint=false", "PUBLIC-POSTGRES", "on the internet"),
    ("postgres.vnet_integration=true", "PG-ACCESS", "exclude each other"),
    ("postgres.tier=Burstable", "PG-TIER", "no replicas"),
    ("postgres.replicas={}", "DR-RPO", "an hour behind"),
    ("postgres.replicas.westeurope.region=uksouth", "PG-REPLICA", "where nothing else is"),
    ("recovery.covers=[postgres, storage]", "DR-RPO", "within 15 minutes"),
    ("recovery.covers=[postgres, redis]", "DR-RPO", "more rarely than the RPO"),
    ("storage.replication=ZRS", "DR-STORAGE", "no copy in another region"),
    ("registry.replicate_to=[westeurope]", "REGISTRY-REGION", "Southeast Asia"),
    ("registry.sku=Standard", "REGISTRY-SKU", "only Premium"),
    ("residency.geographies=[us, europe]", "LAW-RESIDENCY", "Southeast Asia is in asia-pacific"),
    ("lifecycle.delete_after=400d", "LAW-RETENTION", "kept 400 days; 365 are allowed"),
    ("lifecycle.cool_after=100d", "BLOB-LIFECYCLE", "cool before"),
    ("monitoring.audit_retention=30d", "LAW-AUDIT", "90 are required"),
    ("purge_protection=false", "VAULT-DELETE", "purge protection"),
    ("secrets.openai-api-key.rotate_every=400d", "VAULT-ROTATE", "400 days old before"),
    ("private_api=false", "PUBLIC-EXPOSURE", "answers the whole internet"),
    ("admin_user=true", "PUBLIC-EXPOSURE", "one password for all"),
    ("containers.recordings.public=true", "PUBLIC-EXPOSURE", "anyone may read recordings"),
    ("shared_keys=true", "PUBLIC-EXPOSURE", "account keys"),
    ("gateway.tls_min='1.1'", "RETIRED", "tls 1.1 ended"),
    ("postgres.tls_min='1.0'", "RETIRED", "tls 1.0 ended"),
    ("postgres.version=14", "RETIRED", "postgresql 14"),
    ("postgres.version=16", "RETIRING", "2028-11-09"),
    ("kubernetes.version='1.34'", "RETIRED", "kubernetes 1.34"),
    ("content_trust=true", "RETIRING", "2028-03-31"),
    ("load_balancer_sku=Basic", "RETIRED", "load-balancer-basic"),
    ("dns.records.api.to=application-gateway", "DNS-BYPASS", "never fails over"),
    ("traffic_manager=null", "DNS-NOWHERE", "no Traffic Manager to choose"),
    ("traffic_manager.ttl=2h", "DR-RTO", "more than the RTO"),
    ("probe_timeout=10s", "TM-PROBE", "shorter than its interval"),
    ("certificates.names=[voiceassistant.example.com]", "CERT-NAME", "no certificate covers api."),
    ("waf.mode=detection", "WAF-OFF", "only watches"),
    ("gateway.sku=Standard_v2", "WAF-OFF", "without its firewall"),
    ("routes.web.backend=wib", "GATEWAY-BACKEND", "no workload"),
    ("images.livekit-agent=latest", "IMAGE-LATEST", "rolled back"),
    ("regions.southeastasia.vnet=10.20.0.0/16", "NET-OVERLAP", "cannot be peered"),
    ("budget.monthly=9000 USD", "COST-BUDGET", "even the lowest"),
]


@pytest.mark.parametrize(("change", "code", "reason"), CHANGES, ids=[f"{c}: {a}" for a, c, _ in CHANGES])
def test_one_change_raises_its_finding(change: str, code: str, reason: str) -> None:
    findings = check(what_if(model.read("prod"), [change]), today=TODAY)
    found = [finding for finding in findings if finding.code == code and reason in finding.reason]
    assert found, [(finding.code, finding.reason) for finding in findings]
    assert all(finding.severity is not Severity.INFO for finding in found)


@pytest.mark.parametrize(
    ("region", "geography", "reason"),
    [
        ("brazilsouth", "brazil", "copies the data of Brazil South to South Central US, which is in us"),
        ("polandcentral", "poland", "Poland Central is paired with no region"),
    ],
)
def test_what_azure_copies_to_a_paired_region_is_held_to_the_law(
    region: str, geography: str, reason: str
) -> None:
    prod = model.read("prod")
    plan = prod.architecture.regions["eastus"]
    moved = prod.architecture.model_copy(
        update={
            "regions": {region: plan},
            "residency": prod.architecture.residency.model_copy(update={"geographies": (geography,)}),
        }
    )
    found = [f for f in check(model.Declared(moved, prod.document), today=TODAY) if f.code == "LAW-PAIR"]
    assert {finding.quote.partition(":")[0] for finding in found} == {"replication", "geo_redundant_backup"}
    assert all(reason in finding.reason for finding in found), found


@pytest.mark.parametrize(
    ("change", "code", "key"),
    [
        ("pools.agents.taints=[{key: agens}]", "TAINT-TOLERATION", "kubernetes.pools.agents.taints"),
        ("pools.livekit.taints=[{key: Livekit}]", "TAINT-TOLERATION", "kubernetes.pools.livekit.taints"),
        (
            "pools.agents.taints=[{key: agents, effect: NoExecute}]",
            "TAINT-TOLERATION",
            "kubernetes.workloads.agent.tolerates",
        ),
        (
            "workloads.agent.tolerates=[{key: agnets}]",
            "TAINT-TOLERATION",
            "kubernetes.workloads.agent.tolerates",
        ),
        (
            "pools.livekit.taints=[{key: agents}]",
            "TAINT-TOLERATION",
            "kubernetes.workloads.livekit.tolerates",
        ),
        ("postgres.backup_retention=3d", "PG-RETENTION", "postgres.backup_retention"),
        ("postgres.backup_retention=60d", "PG-RETENTION", "postgres.backup_retention"),
        ("certificates.renew_before=400d", "CERT-RENEW", "certificates.renew_before"),
        ("kubernetes.drain_timeout=30s", "AKS-DRAIN", "kubernetes.drain_timeout"),
        ("kubernetes.drain_timeout=50h", "AKS-DRAIN", "kubernetes.drain_timeout"),
        ("traffic_manager.probe_interval=2s", "TM-INTERVAL", "traffic_manager.probe_interval"),
        ("monitoring.audit_retention=7d", "LAW-AUDIT", "monitoring.audit_retention"),
        ("workloads.livekit.pool=livekitt", "POOL-UNKNOWN", "kubernetes.workloads.livekit.pool"),
        ("pools.api.max=90", "QUOTA-VCPU", "regions.eastus.vcpu_quota"),
        ("certificates.renew_before=12h", "CERT-RENEW", "certificates.renew_before"),
    ],
)
def test_one_mistake_is_one_finding(change: str, code: str, key: str) -> None:
    findings = check(what_if(model.read("prod"), [change]), today=TODAY)
    (found,) = [one for one in findings if one.severity is Severity.ERROR]
    assert (found.code, found.place.key or key) == (code, key)  # without a key: the what-if itself


def test_a_taint_that_several_workloads_know_otherwise_is_the_pools_mistake() -> None:
    """Both were right before; what they agree on is what is meant."""
    keys = ("pools.api.taints", "workloads.api.tolerates", "workloads.web.tolerates")
    right = [f"{key}=[{{key: realtime}}]" for key in keys]
    wrong = ["pools.api.taints=[{key: realtme}]", *right[1:]]
    before = check(what_if(model.read("prod"), right), today=TODAY)
    assert not [one for one in before if "TAINT" in one.code]

    findings = check(what_if(model.read("prod"), wrong), today=TODAY)
    (found,) = [one for one in findings if one.severity is Severity.ERROR]
    assert "api, web on it tolerates realtime" in found.reason
    assert found.fix == "taint the pool realtime=true:NoSchedule"


@pytest.mark.parametrize(
    ("today", "days"), [(date(2026, 1, 1), 398), (date(2026, 4, 1), 200), (date(2027, 4, 1), 100)]
)
def test_a_certificate_lives_for_as_long_as_browsers_let_it(today: date, days: int) -> None:
    def codes(before: int) -> list[str]:
        changed = what_if(model.read("prod"), [f"certificates.renew_before={before}d"])
        return [one.code for one in check(changed, today=today) if one.code == "CERT-RENEW"]

    assert (codes(days), codes(days - 1)) == (["CERT-RENEW"], [])


def test_livekits_image_by_digest_in_our_registry_is_right() -> None:
    image = f"acrvoiceassistantprod.azurecr.io/livekit-server@sha256:{'0' * 64}"
    changed = what_if(model.read("prod"), [f"workloads.livekit.image={image}"])
    assert [f.code for f in check(changed, today=TODAY)] == ["COST-BUDGET"]
    found = values(changed.architecture, "eastus")["livekit"]["server"]["image"]
    assert found == {
        "repository": "acrvoiceassistantprod.azurecr.io/livekit-server",
        "digest": f"sha256:{'0' * 64}",
    }


def test_an_endpoint_a_region_wants_premium() -> None:
    changes = ["registry.regional_endpoints=true", "registry.sku=Standard", "registry.replicate_to=[]"]
    found = [f.reason for f in check(what_if(model.read("prod"), changes), today=TODAY)]
    assert "only Premium has an endpoint a region" in found
    assert not [f for f in check(what_if(model.read("prod"), changes[:1]), today=TODAY) if "Premium" in f.fix]


def test_a_service_that_ends_later_than_the_notice_is_no_finding() -> None:
    prod = model.read("prod")
    assert not [f for f in check(prod, today=date(2027, 11, 1)) if f.code.startswith("RETIR")]
    assert [f.code for f in check(prod, today=date(2028, 1, 1)) if f.code.startswith("RETIR")] == ["RETIRING"]
    assert [f.code for f in check(prod, today=date(2030, 1, 1)) if f.code.startswith("RETIR")] == ["RETIRED"]


def test_every_retirement_has_a_source_and_a_day_it_was_read() -> None:
    assert all(end.source and end.instead and end.read <= TODAY for end in retirements().values())


MANIFESTS = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: voice-agent}
spec:
  replicas: 2
  template:
    spec:
      terminationGracePeriodSeconds: 4000
      nodeSelector: {voice/pool: agents}
      TOLERATIONS
      containers:
        - name: agent
          resources: {requests: {cpu: CPU, memory: 2Gi}}
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: voice-agent}
spec: {minReplicas: 8, maxReplicas: 50, scaleTargetRef: {kind: Deployment, name: voice-agent}}
"""


def _rendered(tmp_path: Path, tolerations: str, cpu: str) -> tuple[Fit, ...]:
    file = tmp_path / "rendered.yaml"
    file.write_text(MANIFESTS.replace("TOLERATIONS", tolerations).replace("CPU", cpu))
    return rendered_workloads(file, model.read("prod").architecture)


def test_a_rendered_chart_is_held_to_the_same_rules(tmp_path: Path) -> None:
    right = _rendered(tmp_path, "tolerations: [{key: agents, value: 'true', effect: NoSchedule}]", "1")
    assert (right[0].pool, right[0].cpu_millicores, right[0].memory_mib, right[0].max_pods) == (
        "agents",
        1000,
        2048,
        50,
    )
    prod = model.read("prod")
    chosen = {"LIVEKIT-IMAGE", "COST-BUDGET"}
    assert {f.code for f in check(prod, right, today=TODAY)} == chosen

    wrong = check(prod, _rendered(tmp_path, "tolerations: []", "5500m"), today=TODAY)
    assert {f.code for f in wrong} == {"TAINT-TOLERATION", "REQUEST-NODE", "CHART-DIFFERS", *chosen}
    (differs,) = [f for f in wrong if f.code == "CHART-DIFFERS"]
    assert "tolerates none, not agents=true:NoSchedule; cpu_millicores 5500, not 1000" in differs.reason
    assert "rendered.yaml:2 (Deployment/voice-agent" in str(differs.place)


def test_a_workload_that_nobody_declared(tmp_path: Path) -> None:
    file = tmp_path / "rendered.yaml"
    text = MANIFESTS.replace("TOLERATIONS", "").replace("CPU", "1").replace("voice-agent", "voice-extra")
    file.write_text(text)
    prod = model.read("prod")
    found = check(prod, rendered_workloads(file, prod.architecture), today=TODAY)
    assert "voice-extra that kubernetes.workloads does not know" in str([f.reason for f in found])


def test_what_is_no_chart_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "rendered.yaml"
    file.write_text("just: [text")
    with pytest.raises(BadInput, match=r"rendered\.yaml:2: not YAML"):
        rendered_workloads(file, model.read("prod").architecture)


def test_the_charts_values_put_each_workload_on_its_pool() -> None:
    found = values(model.read("prod").architecture, "eastus")
    assert found["agent"]["nodeSelector"] == {"voice/pool": "agents"}
    assert found["agent"]["tolerations"] == [
        {"key": "agents", "operator": "Equal", "value": "true", "effect": "NoSchedule"}
    ]
    assert found["livekit"]["server"]["nodeSelector"] == {"voice/pool": "livekit"}


def test_a_second_check_is_fast() -> None:
    declared = [model.read(environment) for environment in model.environments()]
    check(declared[0], today=TODAY)
    start = time.process_time()
    for each in declared:
        check(each, today=TODAY)
    assert time.process_time() - start < 0.5
