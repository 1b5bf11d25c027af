"""What an environment is."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from pydantic import Field, JsonValue, model_validator

from ci.complaints import did_you_mean
from ci.environments.gates import Gates
from ci.environments.policy import Approvals, Freeze, Hours, Notify, SoakText
from ci.environments.written import (
    Address,
    CommittedFile,
    Container,
    Model,
    Name,
    Seconds,
    Url,
    Wave,
    written_as,
)
from ci.errors import BadInput

__all__ = [
    "Canary",
    "CanaryStep",
    "Environment",
    "Geography",
    "Load",
    "OnHarm",
    "Registries",
    "SecretCopy",
    "Target",
    "Traffic",
    "Trust",
    "TrustedSigner",
    "geography",
]


class Target(Model):
    """A place that a release is installed to: one environment in one region."""

    environment: str
    region: str
    kubeconfig: CommittedFile
    context: str
    namespace: Annotated[
        str,
        written_as(
            r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?",
            "at most 63 small letters, digits and hyphens, none at an end",
        ),
    ]
    registry: Address
    """Where the cluster pulls from: host or host:port."""
    metrics: Url
    """The Prometheus that scrapes this target's pods."""
    gateway: Url
    hostname: Annotated[
        str,
        written_as(
            r"(?=.{1,253}$)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*",
            "names joined by dots, each of at most 63 small letters, digits and hyphens, none at an end",
        ),
    ]
    """The name that the gateway routes to this target."""
    values: dict[str, JsonValue] = Field(default_factory=dict)
    """Chart values of this target alone, laid over those of the environment."""

    @property
    def name(self) -> str:
        """`prod/eastus`."""
        return f"{self.environment}/{self.region}"


class CanaryStep(Model):
    """`weight` percent of the requests go to the canary for at least `bake` seconds."""

    weight: Annotated[int, Field(ge=1, le=99)]
    bake: Seconds
    sessions: Annotated[int, Field(ge=1)] = 50
    """How many of the canary's own it takes at least."""


class Canary(Model):
    """How traffic moves to a new release."""

    steps: Annotated[tuple[CanaryStep, ...], Field(strict=False)]
    """None: stable is upgraded without a canary and without a gate, and some sessions are tried."""
    follow: Seconds
    """How long the gateway may take to follow a change of weights."""
    drain: Seconds
    """How long requests in flight have to end after traffic has left the canary, before it is removed."""
    install: Seconds
    """How long Helm waits for pods to be ready."""
    values: dict[str, JsonValue] = Field(default_factory=dict)
    """Chart values of the canary alone, laid over those of the environment."""


class OnHarm(StrEnum):
    """What happens when harm shows after a release was promoted."""

    ROLLBACK = "rollback"
    """What this promotion promoted here is taken back."""
    ALERT = "alert"
    """It stays and goes no further: a person decides."""


class Load(Model):
    """Synthetic users, where real ones are too few: sessions per second through the gateway."""

    rate: Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)]
    timeout: Seconds = 5.0
    concurrency: Annotated[int, Field(ge=1, le=1000)] = 64


class TrustedSigner(Model):
    """Who may sign: whoever holds a key, or whom an OIDC issuer calls by a name (keyless)."""

    key: CommittedFile | None = None
    """The public key, PEM."""
    identity: str | None = None
    """The certificate's subject: a workflow's address, say; in one of a URI `*` stands for anything."""
    issuer: str | None = None
    """Who says so: the URL of the OIDC issuer, exactly."""
    trusted_root: CommittedFile | None = None
    """The certificates and logs of the Sigstore that is believed, as JSON: nobody is asked for them."""

    @model_validator(mode="after")
    def _one_kind(self) -> TrustedSigner:
        keyless = (self.identity, self.issuer, self.trusted_root)
        if any(each is None for each in keyless) if self.key is None else any(keyless):
            raise ValueError(
                "a signer is a `key`, or an `identity` with its `issuer` and a `trusted_root` to verify by: "
                "cosign trusted-root create --with-default-services --out FILE"
            )
        # What is before the first `*` is all that nobody else can have: scheme, host and owner.
        if "*" in (self.identity or "") and not re.match(r"https://[^/*]+/[^/*]+/", self.identity or ""):
            raise ValueError(
                f"the identity {self.identity!r} could be anybody's: write scheme, host and owner out before "
                "the first `*`, as in https://github.com/OWNER/*"
            )
        return self

    def is_called(self, identity: str, issuer: str) -> bool:
        """Whether that identity, by that issuer, is the one that is meant here."""
        pattern = ".*".join(re.escape(part) for part in (self.identity or "").split("*"))
        return self.issuer == issuer and re.fullmatch(pattern, identity) is not None

    def __str__(self) -> str:
        return f"the key {self.key}" if self.key else f"{self.identity} (issuer {self.issuer})"


class Trust(Model):
    """What a release has to prove before anything of it runs here."""

    signers: Annotated[tuple[TrustedSigner, ...], Field(min_length=1, strict=False)]
    """Any one of them has to have signed the release, each image and the chart."""
    builders: Annotated[tuple[str, ...], Field(min_length=1, strict=False)]
    """Who may have built it, by its provenance: URIs, in which `*` stands for anything."""
    uncommitted_changes: bool = False
    """Whether it may have been built of a work tree with changes that are in no commit."""


class SecretCopy(Model):
    """A secret that the chart wants in the target's namespace, copied from where the platform keeps it."""

    name: str
    source: Annotated[str, written_as(r"[a-z0-9-]+/[a-z0-9.-]+", "namespace/name, in small letters")]
    """`namespace/name`."""
    keys: dict[str, str]
    """`{key in the copy: key in the source}`."""


class Registries(Model):
    """Where an estate publishes, and who brings it from there to the registries that targets pull from."""

    home: Address
    """The one endpoint that is pushed to: host or host:port."""
    replication: Url | None = None
    """What replicates and says how far it is (ci.supply.replication); None: only registries can be asked."""
    deadline: Seconds = 60.0
    """How long publishing waits for a region that has not got all of a release yet."""


class Traffic(Model):
    """The Traffic Manager profile that sends users to the regions; its endpoints bear their names."""

    profile: Annotated[
        str,
        written_as(
            r"(?i)/subscriptions/[^/]+/resourceGroups/[^/]+/providers/Microsoft\.Network/"
            r"trafficManagerProfiles/[^/]+",
            "/subscriptions/…/resourceGroups/…/providers/Microsoft.Network/trafficManagerProfiles/NAME",
        ),
    ]
    at: Url | None = None
    """A Traffic Manager of this machine, in place of Azure's."""
    token: CommittedFile | None = None
    """What that one is shown."""
    drain: Seconds
    """Users leave a region before its stable release is upgraded; so long they may take, beside the TTL."""


class Environment(Model):
    """One environment: its targets, in which order they get a release, and what a release has to stand."""

    estate: str
    name: str
    after: str | None = None
    """The environment that a release has to be in before this one."""
    waves: Annotated[tuple[Wave, ...], Field(min_length=1, strict=False)]
    """Regions in the order they get a release, smallest blast radius first; those of one wave at once."""
    wave_bake: Seconds = 0.0
    """Between two waves; what was promoted is watched meanwhile."""
    watch: Seconds = 0.0
    """After the last wave, how long what was promoted is watched on."""
    on_harm: Annotated[OnHarm, Field(strict=False)] = OnHarm.ROLLBACK
    """What becomes of it when that shows harm."""
    targets: dict[Name, Target]
    canary: Canary
    gates: Gates
    trust: Trust
    registries: Registries | None = None
    load: Load | None = None
    secrets: Annotated[tuple[SecretCopy, ...], Field(strict=False)] = ()
    hours: Hours = ()
    """When a release may go in; at any time when there are none."""
    freezes: Annotated[tuple[Freeze, ...], Field(strict=False)] = ()
    soak: SoakText | None = None
    approvals: Approvals | None = None
    notify: Notify = ()
    traffic: Traffic | None = None
    """None: users stay with a region while it is upgraded."""
    ledger: Container | None = None
    """The container of blobs that all who promote here share a ledger in; None: each machine has its own."""
    values: dict[str, JsonValue] = Field(default_factory=dict)
    """Chart values of this environment."""

    def target(self, region: str) -> Target:
        """The target in that region; BadInput lists the known ones."""
        if region not in self.targets:
            raise BadInput(
                f"unknown target {self.name}/{region}",
                hint=did_you_mean(region, self.targets),
            )
        return self.targets[region]


@dataclass(frozen=True, kw_only=True)
class Geography:
    """The registries of an estate: the home that is pushed to, and the endpoint of each region."""

    home: str
    regions: Mapping[str, str]
    """`{region: endpoint}`, the home first if it is one of them."""
    replication: str | None
    deadline: float
    """Seconds."""


def geography(environments: Sequence[Environment]) -> Geography:
    """Which registries the targets of these environments pull from, and which of them is the home.

    BadInput when no environment says it, or two of them say different things.
    """
    estate = environments[0].estate
    said = {one.registries for one in environments}
    if len(said) != 1 or None in said:
        problem = "does not say" if said == {None} else "says in more than one way"
        raise BadInput(
            f"the estate {estate} {problem} which registry is its home",
            hint="write `registries: {home: host:port}` once, in the file that all of "
            f"environments/{estate} extend",
        )
    (registries,) = said
    assert registries is not None
    regions: dict[str, str] = {}
    for environment in environments:
        for region, target in environment.targets.items():
            if regions.setdefault(region, target.registry) != target.registry:
                raise BadInput(
                    f"{target.name} pulls from {target.registry}, other targets in {region} from "
                    f"{regions[region]}",
                    hint=f"a region has one endpoint: mend environments/{estate}/{environment.name}.yaml",
                )
    ordered = sorted(regions, key=lambda region: (regions[region] != registries.home, region))
    return Geography(
        home=registries.home,
        regions={region: regions[region] for region in ordered},
        replication=registries.replication,
        deadline=registries.deadline,
    )
