"""What Azure refuses is refused here first: once, at its line, with what to write instead."""

from __future__ import annotations

import shutil
from datetime import date
from pathlib import Path

import pytest

from ci.architecture import model
from ci.architecture.check import RULES, Severity, aks, check, limits

TODAY = date(2026, 11, 29)
LIMITS = (*aks.RULES, *limits.RULES)

# what is written instead in prod or its base, the code, a part of the reason, a part of the fix
REFUSED = [
    (
        "    livekit:\n      vm_size",
        "    livekit-media-pool:\n      vm_size",
        "AKS-POOL-NAME",
        "has 18 characters",
        "",
    ),
    (
        'version: "1.36"',
        'version: "1.52"',
        "AKS-VERSION",
        "offers Kubernetes 1.35 to 1.37, not 1.52",
        '"1.36"',
    ),
    ('version: "1.36"', 'version: "1.9"', "AKS-VERSION", "not 1.9", '"1.36"'),
    ("os_disk: 128 GB", "os_disk: 20 GB", "AKS-DISK", "a disk of 20 GB", "128 GB"),
    ("drain_timeout: 6h", "drain_timeout: 30h", "AKS-DRAIN", "24 hours", "6h"),
    (
        "mode: system, vm_size: Standard_D4s_v5, min: 2",
        "mode: system, vm_size: Standard_D4s_v5, min: 0",
        "AKS-POOLS",
        "may have no node",
        "min: 2",
    ),
    (
        "service_account: voice/voice-api",
        "service_account: voice-api",
        "K8S-NAME",
        "is no service account",
        "voice/",
    ),
    ("voice/pool: livekit", "voice/pool: live kit", "K8S-NAME", "is no label", ""),
    ("storage: 256 GB", "storage: 300 GB", "PG-STORAGE", "300 GB of storage", "storage: 512 GB"),
    ("version: 17", "version: 21", "PG-VERSION", "up to 18, not 21", "17"),
    (
        "log_retention: 30d",
        "log_retention: 12d",
        "RETENTION-DAYS",
        "30 to 730 whole days",
        "log_retention: 30d",
    ),
    (
        "log_retention: 30d",
        "log_retention: 800d",
        "RETENTION-DAYS",
        "30 to 730 whole days",
        "log_retention: 730d",
    ),
    ("soft_delete: 14d", "soft_delete: 36h", "RETENTION-DAYS", "kept for 36h", "soft_delete: 1d"),
    ("probe_interval: 10s", "probe_interval: 20s", "TM-INTERVAL", "10 or 30 seconds, not every 20", "30s"),
    ("probe_timeout: 5s", "probe_timeout: 2s", "TM-INTERVAL", "5 to 9 seconds", "probe_timeout: 5s"),
    (
        "endpoints: {cidr: 10.10.5.0/24",
        "endpoints: {cidr: 10.10.5.0/30",
        "NET-SMALL",
        "smaller than /29",
        "/24",
    ),
    (
        "endpoints: {cidr: 10.10.5.0/24",
        "endpoints: {cidr: 10.10.5.0/29",
        "NET-SMALL",
        "has 3 addresses",
        "/24",
    ),
    (
        "gateway: {cidr: 10.10.4.0/24",
        "gateway: {cidr: 10.10.4.0/29",
        "NET-SMALL",
        "10 instances of the gateway",
        "",
    ),
    (
        "service_cidr: 172.16.0.0/16",
        "service_cidr: 172.30.0.0/17",
        "NET-RESERVED",
        "AKS keeps for itself",
        "",
    ),
    ('ports: ["80", "443"]', 'ports: ["80", "70000"]', "NET-RULE", "'70000' are no ports", "443"),
    ('ports: ["5349"]', 'ports: ["9-5"]', "NET-RULE", "'9-5' are no ports", "443"),
    ("source: GatewayManager", "source: 10.0.0.300", "NET-RULE", "no address", ""),
    ("min_units: 2\n", "min_units: 11\n", "GATEWAY-UNITS", "11 units at least", "min_units: 10"),
    (
        "rate_limit: 600",
        "rate_limit: 600, blocked_countries: [Utopia]",
        "WAF-COUNTRY",
        "'Utopia'",
        "ISO 3166",
    ),
    (
        "email: [oncall@voiceassistant.example.com]",
        "email: [the on-call people]",
        "CONTACT-ADDRESS",
        "is no e-mail",
        "",
    ),
    ("alert_at: [50%, 80%, 100%]", "alert_at: []", "CONTACT-ADDRESS", "a budget has 1 to 5", ""),
    (
        "labels: {voice/pool: livekit}",
        "labels: {kubernetes.azure.com/mode: livekit}",
        "K8S-NAME",
        "AKS keeps labels",
        "voice/pool",
    ),
    (
        "api: {to: traffic-manager, ttl: 60s}",
        "api: {to: traffic-manager, ttl: 0s}",
        "DNS-TTL",
        "at least",
        "ttl: 60s",
    ),
    ("daily_log_cap: 20 GB", "daily_log_cap: 0 GB", "LOG-CAP", "a cap of 0 GB", "daily_log_cap: 1 GB"),
    ("product: voiceassistant", "product: voice--x", "NAME-AZURE", "single hyphens", ""),
    ("    uploads: {", "    up--loads: {", "NAME-AZURE", "no container's name", ""),
]


@pytest.mark.parametrize(("old", "new", "code", "reason", "fix"), REFUSED)
def test_what_azure_refuses(tmp_path: Path, old: str, new: str, code: str, reason: str, fix: str) -> None:
    for file in model.folder().glob("*.yaml"):
        shutil.copyfile(file, tmp_path / file.name)
    (changed,) = [file for file in ("base.yaml", "prod.yaml") if old in (tmp_path / file).read_text()][:1]
    text = (tmp_path / changed).read_text()
    (tmp_path / changed).write_text(text.replace(old, new, 1))

    found = check(model.read("prod", tmp_path), today=TODAY, budgeted=False)

    said = [one for one in found if one.code == code]
    assert said and all(one.severity is Severity.ERROR for one in said)
    assert any(reason in one.reason for one in said), [one.reason for one in said]
    assert fix in said[0].fix
    assert said[0].place.file.name == changed and said[0].place.line
    line = (tmp_path / changed).read_text().splitlines()[said[0].place.line - 1]
    assert code == "NAME-AZURE" or line not in text.splitlines(), "the line that was changed"


def test_a_product_that_is_no_name_is_one_finding(tmp_path: Path) -> None:
    for file in model.folder().glob("*.yaml"):
        text = file.read_text().replace("product: voiceassistant", "product: voice-assistant-")
        (tmp_path / file.name).write_text(text)

    found = check(model.read("prod", tmp_path), today=TODAY, budgeted=False)

    assert [one.code for one in found if one.severity is Severity.ERROR] == ["NAME-AZURE"]


def test_each_limit_has_its_source() -> None:
    assert all("Source" in rule.holds for rule in LIMITS)
    assert set(LIMITS) <= set(RULES)


@pytest.mark.parametrize("env", model.environments())
def test_ours_are_inside_them(env: str) -> None:
    codes = {rule.code for rule in LIMITS}
    assert not [one for one in check(model.read(env), today=TODAY, budgeted=False) if one.code in codes]
