"""AKS: the cluster, its node pools, and the workloads that run on them."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from ci.architecture.kinds import Duration, Frozen, KubernetesVersion, Percent, Size, Slug, VmSize

__all__ = ["Autoscaler", "Kubernetes", "NodePool", "Scaling", "Taint", "Workload"]


class Taint(Frozen):
    """Keeps pods without the matching toleration away."""

    key: str
    value: str = "true"
    effect: Literal["NoSchedule", "NoExecute", "PreferNoSchedule"] = "NoSchedule"

    def __str__(self) -> str:
        return f"{self.key}={self.value}:{self.effect}"


class NodePool(Frozen):
    """Machines of one size, between `min` and `max` of them."""

    mode: Literal["system", "user"] = "user"
    vm_size: VmSize
    min: int = Field(ge=0, le=1000)
    max: int = Field(ge=1, le=1000)
    os_disk: Size = 128
    os: Literal["AzureLinux", "Ubuntu"] = "AzureLinux"
    max_pods: int = Field(default=30, ge=10, le=250)
    taints: tuple[Taint, ...] = ()
    labels: dict[str, str] = Field(default_factory=dict)
    public_ip_per_node: bool = False
    spot: bool = False

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.min > self.max:
            raise ValueError(f"min {self.min} is more than max {self.max}")
        return self


class Autoscaler(Frozen):
    """The cluster autoscaler's profile."""

    scale_down_delay_after_add: Duration
    scale_down_unneeded_time: Duration
    scale_down_utilization_threshold: Percent
    expander: Literal["least-waste", "priority", "random", "most-pods"] = "least-waste"


class Scaling(Frozen):
    """Between how many pods, and what decides."""

    min: int = Field(ge=0)
    max: int = Field(ge=1)
    by: Literal["cpu", "active-jobs", "participants", "none"] = "cpu"
    target: int = Field(default=60, ge=1, description="percent of CPU, or jobs or participants per pod")


class Workload(Frozen):
    """One deployment of the chart, as far as the architecture depends on it."""

    pool: Slug
    scaling: Scaling
    cpu_millicores: int = Field(ge=10)
    memory_mib: int = Field(ge=16)
    tolerates: tuple[Taint, ...] = ()
    grace: Duration
    drain: Duration = Field(description="the longest it may take to let go of its work after SIGTERM")
    host_network: bool = False
    image: str | None = Field(default=None, description="only where it is not one of a release's, by digest")


class Kubernetes(Frozen):
    """One AKS cluster a region."""

    version: KubernetesVersion
    tier: Literal["Free", "Standard", "Premium"]
    network_plugin: Literal["azure-cni", "azure-cni-overlay", "kubenet"]
    network_policy: Literal["azure-network-policy-manager", "cilium", "calico"]
    ingress: Literal["gateway-api", "ingress-nginx"]
    private_api: bool = Field(
        default=False, description="no public API server; CI needs a runner inside then"
    )
    api_allowed_from: tuple[str, ...] = ()
    entra_id: bool = True
    azure_rbac: bool = True
    local_accounts: bool = False
    oidc_issuer: bool = True
    workload_identity: bool = True
    image_cleaner: bool = True
    upgrade_channel: Literal["patch", "stable", "none"] = "patch"
    node_os_upgrade: Literal["NodeImage", "SecurityPatch", "None"] = "NodeImage"
    max_surge: Percent = 0.33
    drain_timeout: Duration = Field(
        description="how long an upgrade waits for a node to drain (at most 24 h)"
    )
    autoscaler: Autoscaler
    pools: dict[Slug, NodePool] = Field(min_length=1)
    workloads: dict[Slug, Workload] = Field(default_factory=dict)

    @property
    def nodes(self) -> tuple[int, int]:
        """The fewest and the most nodes of one cluster."""
        return sum(p.min for p in self.pools.values()), sum(p.max for p in self.pools.values())
