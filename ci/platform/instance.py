"""Names, addresses and folders of one embedded platform; a second one can stand beside it, say for a test.

Instance 0 is the platform that `environments/local` names. Instance n has its ports 1000 * n higher, its own
subnets and names, and its own folder, so that the two never touch. $VA_INSTANCE chooses.

Each region's cluster lives in a network namespace behind a link of its own:

    host  10.(200 + n).r.1 ── veth ── 10.(200 + n).r.2  node of region r
                                      10.(200 + n).(64 + r).0/24  its pods
                                      10.(200 + n).(128 + r).0/24  its Services
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

from ci.errors import BadInput
from ci.files import new_file
from ci.places import state

__all__ = ["ENVIRONMENTS", "REGIONS", "Instance", "Region", "instance", "sized"]

REGIONS = ("eastus", "westeurope", "southeastasia")
"""Each has a registry. The first has a cluster, which stands in for those that have none of their own."""

ENVIRONMENTS = ("dev", "staging", "prod")
"""Each has a Redis, and cannot reach the others'."""

_CLUSTERS = "clusters"


@dataclass(frozen=True, kw_only=True)
class Region:
    """Where one region's cluster is: addresses are IPv4 without a prefix length unless they are a subnet."""

    name: str
    node: str
    """The network namespace, the Kubernetes node, the kubeconfig context and the root cgroup."""
    link: str
    """The host's end of the link; the other end is eth0."""
    host_ip: str
    node_ip: str
    pods: str
    services: str
    kubernetes_ip: str
    """The Service `kubernetes`, the first address of `services`."""


@dataclass(frozen=True, kw_only=True)
class Instance:
    """One platform. Ports are on the host's 127.0.0.1 unless said otherwise."""

    number: int
    folder: Path
    clusters: int = 1
    """How many regions have one, counted from the first."""

    @property
    def apart(self) -> bool:
        """Whether regions can fail apart: then what serves one is inside its own network."""
        return self.clusters > 1

    def port(self, base: int) -> int:
        """The port that is `base` on instance 0."""
        return base + 1000 * self.number

    def region(self, name: str) -> Region:
        """Where a region is."""
        index = REGIONS.index(name)
        prefix = f"10.{200 + self.number}"
        mark = f"va{self.number or ''}"
        return Region(
            name=name,
            node=f"{mark}-{name}",
            link=f"{mark}-link{index}",
            host_ip=f"{prefix}.{index}.1",
            node_ip=f"{prefix}.{index}.2",
            pods=f"{prefix}.{64 + index}.0/24",
            services=f"{prefix}.{128 + index}.0/24",
            kubernetes_ip=f"{prefix}.{128 + index}.1",
        )

    @property
    def cluster(self) -> Region:
        """The first region: it has dev and staging, and all else when it has the one cluster."""
        return self.region(REGIONS[0])

    @property
    def regions(self) -> tuple[Region, ...]:
        """Those that have a cluster, the first one first."""
        return tuple(self.region(name) for name in REGIONS[: self.clusters])

    def serving(self, region: Region) -> str:
        """The address at which the gateway and the Prometheus of that region's cluster listen."""
        return region.node_ip if self.apart else "127.0.0.1"

    def named(self, region: Region, part: str) -> str:
        """What a part is called that each cluster has: by its region where there is more than one."""
        return f"{region.node} {part}" if self.apart else part

    @property
    def kubeconfig(self) -> Path:
        """For people and for promotion: the context is the node's name."""
        return self.folder / "kubeconfig"

    @property
    def livekit_env(self) -> Path:
        """LIVEKIT_URL, LIVEKIT_API_KEY and LIVEKIT_API_SECRET as seen from the host; mode 600."""
        return self.folder / "livekit.env"

    @property
    def gateway(self) -> int:
        return self.port(8480)

    @property
    def gateway_admin(self) -> int:
        """Health and metrics of the gateway."""
        return self.port(8481)

    @property
    def prometheus(self) -> int:
        return self.port(9490)

    @property
    def livekit(self) -> int:
        """Signalling; the next port is WebRTC over TCP, the one after it WebRTC over UDP."""
        return self.port(7880)

    @property
    def livekit_metrics(self) -> int:
        return self.port(6789)

    @property
    def admission(self) -> int:
        """The webhook that the API server asks about pods; on the host's end of the link."""
        return self.port(9443)

    @property
    def signing(self) -> Path:
        """The folder of the key pair that releases are signed with here; mode 700."""
        return self.folder / "signing"

    @property
    def replicator(self) -> int:
        return self.port(5510)

    @property
    def replicator_token(self) -> Path:
        """What whoever sets faults there has to show; mode 600."""
        return self.folder / "replicator.token"

    @property
    def traffic_manager(self) -> int:
        """The API of what sends users to regions; its DNS, over UDP and TCP, is on the next port."""
        return self.port(5520)

    @property
    def traffic_manager_token(self) -> Path:
        """What whoever asks it has to show; mode 600."""
        return self.folder / "traffic-manager.token"

    def postgres(self, number: int) -> int:
        """Of the namespace of stores with that number: on a socket, so it only tells the namespaces apart."""
        return self.port(5532 + number)

    def redis(self, environment: str) -> int:
        return self.port(6470 + ENVIRONMENTS.index(environment))

    def redis_password(self, user: str) -> Path:
        """What that user of a Redis logs in with; mode 600. Users: an environment's `voice`, and `backup`."""
        return self.folder / "redis" / f"{user}.password"

    def store_redis(self, number: int) -> int:
        return self.port(6480 + number)

    def storage(self, number: int, region: str) -> int:
        return self.port(10100 + 10 * number + REGIONS.index(region))

    def registry(self, region: str) -> int:
        """The same port serves the host on 127.0.0.1 and, for pulls only, the nodes on `host_ip`."""
        return self.port(5501 + REGIONS.index(region))


def instance() -> Instance:
    """The one that $VA_INSTANCE (0 to 9, default 0) names; its files are below `state()`."""
    text = os.environ.get("VA_INSTANCE", "0")
    if text not in {str(number) for number in range(10)}:
        raise BadInput(f"VA_INSTANCE is {text!r}: it must be a number from 0 to 9")
    number = int(text)
    folder = state() / (f"platform-{number}" if number else "platform")
    return Instance(number=number, folder=folder, clusters=_clusters(folder))


def sized(place: Instance, clusters: int) -> Instance:
    """The same with so many clusters, remembered for whoever asks for it next."""
    if not 1 <= clusters <= len(REGIONS):
        raise BadInput(f"{clusters} clusters: there are from 1 to {len(REGIONS)}, one a region")
    with new_file(place.folder / _CLUSTERS) as draft:
        draft.write_text(str(clusters))
    return replace(place, clusters=clusters)


def _clusters(folder: Path) -> int:
    try:
        text = (folder / _CLUSTERS).read_text()
    except OSError:
        return 1  # nothing is up, or what is was made before there was a choice
    return int(text) if text in {str(count + 1) for count in range(len(REGIONS))} else 1
