"""What is encrypted on its way is found out leg by leg: a plain one is a gap, whatever the settings say."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from ci.architecture import chart, model, transit
from ci.architecture.cost import what_if
from ci.azure.render import render

PROD = model.read("prod").architecture


@dataclass(frozen=True)
class _Found:
    type: str
    name: str
    body: dict[str, Any]
    scope: str | None = None


RENDERED = [
    _Found(one.type, one.name, dict(one.body), one.scope)
    for module in render(PROD)
    for one in module.resources
]


def gaps(rendered: list[_Found]) -> list[str]:
    """The legs that are not encrypted."""
    return [fact.text for fact in transit.transit(PROD, rendered) if not fact.right]


def _set(kind: str, *path: str | int, value: Any) -> list[_Found]:
    changed = copy.deepcopy(RENDERED)
    one = next(one for one in changed if one.type == kind)
    inner: Any = one.body
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return changed


def test_every_leg_is_encrypted() -> None:
    assert gaps(RENDERED) == []


_GATEWAY = "Microsoft.Network/applicationGateways"


@pytest.mark.parametrize(
    ("kind", "path", "value", "leg"),
    [
        (
            _GATEWAY,
            ("backendHttpSettingsCollection", 0, "properties", "protocol"),
            "Http",
            "Application Gateway to",
        ),
        (_GATEWAY, ("probes", 1, "properties", "protocol"), "Http", "Application Gateway to"),
        (_GATEWAY, ("httpListeners", 0, "properties", "protocol"), "Http", "callers to Application Gateway"),
        (_GATEWAY, ("sslPolicy", "policyName"), "AppGwSslPolicy20170401", "takes TLS 1.1"),
        (_GATEWAY, ("sslPolicy", "policyName"), "AppGwSslPolicy20990101", "takes TLS 0"),
        (_GATEWAY, ("sslPolicy",), None, "takes TLS 0"),
        ("Microsoft.Network/virtualNetworks", ("encryption",), None, "does not encrypt"),
        ("Microsoft.Network/virtualNetworks", ("encryption", "enabled"), False, "does not encrypt"),
        (
            "Microsoft.ContainerService/managedClusters",
            ("agentPoolProfiles", 2, "vmSize"),
            "Standard_D8s_v3",
            "nodes of Standard_D8s_v3",
        ),
        ("Microsoft.Cache/redisEnterprise", ("minimumTlsVersion",), "1.0", "to Redis: 1.0"),
        ("Microsoft.Cache/redisEnterprise/databases", ("clientProtocol",), "Plaintext", "to Redis"),
        ("Microsoft.Storage/storageAccounts", ("supportsHttpsTrafficOnly",), False, "Blob Storage"),
        ("Microsoft.Storage/storageAccounts", ("minimumTlsVersion",), "TLS1_1", "Blob Storage: TLS1_1"),
    ],
)
def test_a_plain_leg_is_a_gap(kind: str, path: tuple[str | int, ...], value: Any, leg: str) -> None:
    found = gaps(_set(kind, "properties", *path, value=value))
    assert any(leg in gap for gap in found), found


@pytest.mark.parametrize(
    ("setting", "value"), [("require_secure_transport", "off"), ("ssl_min_protocol_version", "TLSv1.1")]
)
def test_a_database_that_takes_less_is_a_gap(setting: str, value: str) -> None:
    changed = copy.deepcopy(RENDERED)
    (one,) = [one for one in changed if one.name.endswith(f"/{setting}")]
    one.body["properties"]["value"] = value
    assert any("PostgreSQL" in gap for gap in gaps(changed))


@pytest.mark.parametrize(
    "kind", [_GATEWAY, "Microsoft.Network/virtualNetworks", "Microsoft.Cache/redisEnterprise"]
)
def test_what_is_not_rendered_is_a_gap(kind: str) -> None:
    assert gaps([one for one in RENDERED if one.type != kind])


@pytest.mark.parametrize(
    ("change", "leg"),
    [
        (
            lambda v: v["livekit"].update(url="ws://voice-livekit.voice-livekit.svc:7880"),
            "agents to LiveKit: ws ",
        ),
        (lambda v: v["livekit"].update(publicUrl="http://livekit.example"), "callers to LiveKit: http "),
        (lambda v: v["livekit"]["server"]["turn"].update(tlsSecret=""), "signalling and TURN"),
        (lambda v: v["redis"].update(url="redis://redis.example:6379"), "api to Redis: redis "),
        (lambda v: v["traffic"]["gateway"].update(tlsSecret=""), "listens with HTTP"),
        (lambda v: v["database"].update(tls=False), "asks for TLS"),
    ],
)
def test_a_plain_address_in_the_charts_values_is_a_gap(
    change: Callable[[dict[str, Any]], None], leg: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def values(architecture: Any, region: str) -> dict[str, Any]:
        given = chart.values(architecture, region)
        change(given)
        return given

    monkeypatch.setattr(transit, "values", values)
    assert sum(leg in gap for gap in gaps(RENDERED)) == 3, gaps(RENDERED)


@pytest.mark.parametrize(
    ("asked", "enforced"), [("1.2", "1.2"), ("1.3", "1.3"), ("1.1", "1.1"), ("1.0", "1.0")]
)
def test_the_gateway_takes_what_is_asked_for_and_nothing_older(asked: str, enforced: str) -> None:
    architecture = what_if(model.read("prod"), [f"gateway.tls_min='{asked}'"]).architecture
    gateways = [one for module in render(architecture) for one in module.resources if one.type == _GATEWAY]
    assert {transit.enforced_tls(one.body["properties"]["sslPolicy"]) for one in gateways} == {enforced}
    wrong = [
        fact
        for fact in transit.transit(architecture, gateways)
        if "takes TLS" in fact.text and not fact.right
    ]
    assert bool(wrong) == (asked < "1.2")
    # The policy that was rendered for 1.3 before takes 1.2, and is a gap.
    predefined = {"policyType": "Predefined", "policyName": "AppGwSslPolicy20220101S"}
    assert (transit.enforced_tls(predefined) < asked) == (asked == "1.3")
