"""The values of helm/voice-assistant as types: from them comes the schema that Helm checks installs with.

`values.yaml` says them all, at the size of one machine; an environment lays its own over them. Nothing has a
default here, so that no value is ever used that cannot be read there. Whatever needs a controller that a
small cluster lacks (KEDA, External Secrets, Prometheus operator, Cilium) is off there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, WithJsonSchema, model_validator
from pydantic.alias_generators import to_camel

from ci import places, yamlfile
from ci.quantities import quantity

if TYPE_CHECKING:
    from ci.environments.model import Environment, Target

__all__ = ["Values", "declared_values", "hold", "laid_over", "schema"]

_RESERVED = (
    "AGENT_NAME", "VA_TRACK", "VA_RELEASE", "LIVEKIT_URL", "LIVEKIT_PUBLIC_URL", "LIVEKIT_API_KEY",
    "LIVEKIT_API_SECRET", "REDIS_URL", "REDIS_CLUSTER", "REDIS_PASSWORD", "TRUSTED_PROXIES", "DRAIN_SECONDS",
    "SHUTDOWN_SECONDS", "DRAIN_TIMEOUT_SECONDS", "DATABASE_URL", "DATABASE_USER", "DATABASE_PASSWORD",
    "DATABASE_TLS", "DATABASE_ENTRA", "HISTORY_DAYS", "ADMIN_TOKEN",
)  # fmt: skip
_DATABASE_USER = "^[A-Za-z0-9_.-]*$"
_VARIABLE = "^[A-Z][A-Z0-9_]*$"


def _variables(given: dict[str, str]) -> dict[str, str]:
    for name in given:
        if name in _RESERVED or not re.fullmatch(_VARIABLE, name):
            raise ValueError(f"{name!r} is set by the chart, or is no variable's name")
    return given


def _quantity(given: str | int) -> str | int:
    quantity(given)
    return given


Port = Annotated[int, Field(ge=1, le=65535)]
Seconds = Annotated[int, Field(ge=1, description="seconds")]
Name = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$")]
"""Of an object or namespace."""
MaybeName = Annotated[str, Field(pattern=r"^([a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?)?$")]
Host = Annotated[str, Field(pattern=r"^[A-Za-z0-9*]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?$")]
MaybeHost = Annotated[str, Field(pattern=r"^([A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?)?$")]
Network = Annotated[str, Field(pattern=r"^[0-9a-fA-F.:]+(/[0-9]+)?$")]
ClientId = Annotated[
    str,
    Field(
        pattern=r"^([0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12})?$",
        description="client id of the managed identity that the pods act as; none when empty",
    ),
]
Quantity = Annotated[
    str | int, AfterValidator(_quantity), Field(description="as Kubernetes writes them: 500m, 2Gi")
]
Variables = Annotated[
    dict[str, str],
    AfterValidator(_variables),
    WithJsonSchema(
        {
            "type": "object",
            "description": "More variables of the container, none that the chart sets itself.",
            "propertyNames": {"pattern": _VARIABLE, "not": {"enum": list(_RESERVED)}},
            "additionalProperties": {"type": "string"},
        }
    ),
]


class _Values(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", alias_generator=to_camel, validate_by_name=True, validate_by_alias=True,
        strict=True,
    )  # fmt: skip

    @model_validator(mode="before")
    @classmethod
    def _lists(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        return {key: tuple(value) if isinstance(value, list) else value for key, value in data.items()}


class Image(_Values):
    """By digest only: a tag can be moved."""

    repository: str = Field(pattern=r"^[a-z0-9][a-zA-Z0-9.:/_-]*$")
    digest: str = Field(pattern=r"^sha256:[0-9a-f]{64}$")


class Images(_Values):
    """The images of a release."""

    api: Image
    agent: Image
    web: Image | None = Field(default=None, description="there is no page without it")
    guard: Image | None = Field(default=None, description="nobody guards a canary without it")


class Requests(_Values):
    """What the scheduler keeps free for a pod."""

    cpu: Quantity
    memory: Quantity
    ephemeral_storage: Quantity | None = Field(default=None, alias="ephemeral-storage")


class Limits(_Values):
    """What a container may take. No CPU as a rule: throttling is latency, and requests share it fairly."""

    memory: Quantity
    cpu: Quantity | None = None
    ephemeral_storage: Quantity | None = Field(default=None, alias="ephemeral-storage")


class Resources(_Values):
    """Of one container."""

    requests: Requests
    limits: Limits


class Toleration(_Values):
    """Lets a pod onto nodes with that taint."""

    key: str
    operator: Literal["Equal", "Exists"]
    value: str | None = None
    effect: Literal["NoSchedule", "NoExecute", "PreferNoSchedule"]


class Autoscaling(_Values):
    """Between how many pods, by what: `cpu` is a HorizontalPodAutoscaler, jobs and participants are KEDA's.

    `target` is a percentage of the CPU request, or jobs or participants for each pod.
    """

    by: Literal["none", "cpu", "active-jobs", "participants"]
    min: int = Field(ge=1)
    max: int = Field(ge=1)
    target: int = Field(ge=1)

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.min > self.max:
            raise ValueError(f"min {self.min} is more than max {self.max}")
        return self


class Part(_Values):
    """What all workloads have."""

    replicas: int = Field(ge=0, description="where autoscaling is by none")
    resources: Resources
    node_selector: dict[str, str]
    tolerations: tuple[Toleration, ...]
    priority_class: MaybeName
    identity: ClientId
    autoscaling: Autoscaling
    grace_seconds: int = Field(
        ge=0, description="until a pod that was told to stop is killed; 0: as long as its drain needs"
    )


class Api(Part):
    """The HTTP API."""

    trusted_proxies: tuple[Network, ...]
    admin_secret: MaybeName = Field(
        description="has the key ADMIN_TOKEN, with which one person's data is erased; none when empty"
    )
    drain_seconds: Seconds
    shutdown_seconds: Seconds
    env: Variables


class Agent(Part):
    """The agents' workers."""

    drain_timeout_seconds: Seconds
    linger_seconds: int = Field(
        ge=0, description="seconds that a canary's agents take calls after it was removed"
    )
    provider_secret: MaybeName = Field(
        description="each of its keys is a variable: those of speech and language services; none when empty"
    )
    env: Variables


class Web(Part):
    """The page that callers open."""

    drain_seconds: Seconds
    shutdown_seconds: Seconds
    env: Variables


class Gateway(_Values):
    """The Gateway that routes hang on; `create` makes one of that class at that internal address."""

    name: Name
    namespace: Name
    create: bool
    class_name: MaybeName
    address: Annotated[str, Field(pattern=r"^[0-9.]*$")]
    annotations: dict[str, str] = Field(description="of the Service that the controller makes for it")
    tls_secret: MaybeName = Field(description="it ends TLS with this, on 443; plain HTTP on 80 when empty")
    identity: ClientId = Field(description="as whom that Secret is fetched from the vault")


class Ingress(_Values):
    """Only where there is no Gateway API: a canary gets no share of requests through it."""

    class_name: MaybeName
    tls_secret: MaybeName


class Traffic(_Values):
    """How requests come in; the running promotion lays the canary's weight over the HTTPRoute."""

    kind: Literal["httproute", "ingress"]
    hostname: Host
    aliases: tuple[Host, ...] = Field(description="more names of the same route")
    probe_path: Annotated[str, Field(pattern="^(/[a-z0-9/_-]*)?$")]
    gateway: Gateway
    ingress: Ingress
    canary_weight: int = Field(ge=0, le=100)
    canary: MaybeName = Field(description="the canary's Helm release, whose services get that share")


class Redis(_Values):
    """Where sessions are kept, and as whom: `redis://voice@…`. `secret` has the key REDIS_PASSWORD."""

    url: str = Field(pattern=r"^rediss?://([A-Za-z0-9._-]+@)?[^@]+$")
    cluster: bool
    secret: MaybeName


class Database(_Values):
    """PostgreSQL with the history of sessions, and the Job that has its tables ready before a release.

    Where pods log in by Entra ID there is no Secret. Else `secret` has the key DATABASE_PASSWORD, and is
    there before the chart is.
    """

    enabled: bool
    url: str = Field(pattern=r"^(postgresql://[^@?]+/[a-z0-9_-]+)?$", description="without a user")
    user: str = Field(pattern=_DATABASE_USER, description="as whom the api logs in")
    migrator: str = Field(pattern=_DATABASE_USER, description="as whom the Job does; the same when empty")
    tls: bool
    entra: bool
    identity: ClientId
    secret: MaybeName
    history_days: int = Field(ge=1)
    migrate_seconds: Seconds = Field(description="seconds until the Job is given up, and with it the release")

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.enabled and not (self.url and self.user):
            raise ValueError("enabled, but there is no url or no user")
        return self


class Turn(_Values):
    """LiveKit's own TURN server, for callers whose network lets no UDP out."""

    enabled: bool
    domain: MaybeHost
    tls_port: Port
    udp_port: Port
    tls_secret: MaybeName


class Signalling(_Values):
    """TLS in front of LiveKit's signalling: a Gateway of its own, since calls do not pass the firewall."""

    enabled: bool
    hostname: MaybeHost
    class_name: MaybeName
    tls_secret: MaybeName


class LiveKitServer(Part):
    """LiveKit itself, in a namespace of its own: it needs the host's network, which `restricted` forbids."""

    enabled: bool
    namespace: Name
    image: Image | None = Field(default=None, description="required where it is enabled")
    signal_port: Port
    tcp_port: Port
    udp_from: Port
    udp_to: Port
    metrics_port: Port
    external_ip: bool = Field(description="advertise the node's public address, found by STUN")
    turn: Turn
    signalling: Signalling
    load_balancer: dict[str, str] = Field(description="annotations of its public Services")

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.enabled and self.image is None:
            raise ValueError("enabled, but there is no image")
        if self.udp_from > self.udp_to:
            raise ValueError(f"udpFrom {self.udp_from} is more than udpTo {self.udp_to}")
        return self


class LiveKit(_Values):
    """LiveKit as api and agents reach it, and the server where this chart runs it."""

    url: str = Field(pattern=r"^(wss?|https?)://")
    address: Annotated[str, Field(pattern=r"^[0-9.]*$")] = Field(
        description="where pods find the host of `url`: the Gateway of `traffic`, which then leads to "
        "LiveKit, too; as names say when empty"
    )
    public_url: str = Field(pattern=r"^((wss?|https?)://.+)?$")
    secret: Name
    server: LiveKitServer


class Vault(_Values):
    """An Azure Key Vault."""

    url: Annotated[str, Field(pattern=r"^(https://[a-z0-9-]+\.vault\.azure\.(net|cn)/?)?$")]
    tenant: ClientId


class Secrets(_Values):
    """Who makes Secrets: someone else, External Secrets, or the Secrets Store CSI driver."""

    provider: Literal["none", "external-secrets", "csi"]
    vault: Vault
    refresh: Annotated[str, Field(pattern=r"^[0-9]+(s|m|h)$")]
    objects: dict[Name, dict[Annotated[str, Field(pattern=_VARIABLE)], Name]] = Field(
        description="a Secret's name: its keys: the vault's secret"
    )
    readers: dict[Name, Literal["api", "agent"]] = Field(
        description="a Secret's name: the part that it is fetched as; the api when it is not in here"
    )
    certificates: dict[Name, Name] = Field(
        description="a TLS Secret's name, in LiveKit's namespace or the Gateway's: the vault's certificate"
    )


class NetworkPolicies(_Values):
    """Default deny, and the flows that are needed. `cilium`: it knows nodes by entity, not by address."""

    enabled: bool
    cilium: bool
    gateways: tuple[Name, ...] = Field(description="namespaces whose pods bring requests")
    metrics: tuple[Name, ...] = Field(description="namespaces whose pods scrape")
    api_server: tuple[Network, ...] = Field(
        description="where the API server is, which the guard reaches and nothing else does"
    )
    redis: tuple[Network, ...] = Field(description="where Redis is; nothing else is reached on its port")
    database: tuple[Network, ...] = Field(description="where PostgreSQL is")
    livekit: tuple[Network, ...] = Field(description="where LiveKit's signalling and media are")
    https: tuple[Network, ...] = Field(
        description="what is reached on 443: speech and language services, Entra ID"
    )


class Keda(_Values):
    """Where KEDA reads agents' and LiveKit's metrics; `workloadIdentity` for Azure's managed Prometheus."""

    prometheus: Annotated[str, Field(pattern=r"^(https?://\S+)?$")]
    workload_identity: bool
    identity: str = Field(description="client id of the identity that KEDA asks as; its own when empty")


class Monitoring(_Values):
    """Objects of the Prometheus operator, or of Azure's managed Prometheus (azmonitoring)."""

    annotations: bool = Field(description="prometheus.io/ annotations, for a Prometheus that follows them")
    pod_monitors: bool
    api_group: Literal["monitoring.coreos.com", "azmonitoring.coreos.com"]
    interval: Annotated[str, Field(pattern=r"^[0-9]+(s|m)$")]
    rules: tuple[dict[str, JsonValue], ...] = Field(description="groups of a PrometheusRule; none when empty")


class Priorities(_Values):
    """PriorityClasses are the cluster's: only one release of it may make them."""

    create: bool


class Test(_Values):
    """What `helm test` runs, after each upgrade of stable."""

    enabled: bool


class Values(_Values):
    """Values of the chart voice-assistant."""

    global_: dict[str, Any] | None = Field(default=None, alias="global")
    track: Literal["stable", "canary"]
    release: str = Field(pattern=r"^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$")
    fence: int = Field(ge=0, description="of the promoter that installs it; none when 0")
    region: str = Field(pattern=r"^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)?$")
    images: Images
    traffic: Traffic
    redis: Redis
    database: Database
    livekit: LiveKit
    api: Api
    agent: Agent
    web: Web
    secrets: Secrets
    network_policy: NetworkPolicies
    keda: Keda
    monitoring: Monitoring
    priorities: Priorities
    test: Test


@cache
def _chart() -> Mapping[str, Any]:
    """The chart's own values, with images such as a promotion puts there."""
    image = {"repository": "registry/image", "digest": f"sha256:{'0' * 64}"}
    own = yamlfile.load(places.checkout() / "helm" / "voice-assistant" / "values.yaml").data
    return own | {"images": dict.fromkeys(own["images"], image)}


def hold(document: yamlfile.Document, *layers: tuple[tuple[str, ...], ...]) -> None:
    """Hold what is below these keys of a file, each laid over those before, to what the chart takes.

    The keys of one layer are only complete together, and are looked at once all of them are laid.
    BadInput names file, line and key of every mistake, as Helm would not: before anything is installed.
    """
    values = _chart()
    for layer in layers:
        below: dict[Any, Any] = {}
        top = None
        for key in layer:
            written: Any = document.data
            for part in key:
                written = written.get(part) if isinstance(written, Mapping) else None
            if not isinstance(written, Mapping) or not written:
                continue
            values, top = laid_over(values, written), top or document.place(*key)
            below |= {loc[len(key) :]: at for loc, at in document.places.items() if loc[: len(key)] == key}
        if top is None:
            continue
        data = {name: value for name, value in values.items() if value is not None}
        whole = replace(document, data=data, places=below, removed={}, top=top, overlaid=True)
        yamlfile.checked(Values, whole)


def schema() -> str:
    """values.schema.json, as Helm reads it (JSON Schema 2020-12)."""
    found = Values.model_json_schema(by_alias=True)
    text = json.dumps({"$schema": "https://json-schema.org/draft/2020-12/schema", **found}, indent=1)
    return text + "\n"


def laid_over(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Values as Helm merges them: mappings key by key, everything else replaced."""
    merged = dict(base)
    for key, value in over.items():
        under = merged.get(key)
        both = isinstance(under, Mapping) and isinstance(value, Mapping)
        merged[key] = laid_over(under, value) if both else value  # type: ignore[arg-type]
    return merged


def declared_values(environment: Environment, target: Target) -> dict[str, Any]:
    """The chart's values that the files say for a target: the environment's, and its own over them."""
    return laid_over(environment.values, target.values)
