"""A region's Kubernetes: the control plane and the one node, as processes inside the node's namespaces.

The kubelet, containerd, runc and pods are real; nothing comes from a registry but what is deployed later.
"""

from __future__ import annotations

import base64
import functools
import json
import re
import ssl
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import yaml

from ci import tools
from ci.errors import SystemUnavailable
from ci.platform.certificates import DOMAIN, certificates
from ci.platform.daemon import Check, Daemon, answers, as_part, connects
from ci.platform.instance import REGIONS, Instance, Region
from ci.platform.node import enter, listens, node_folder
from ci.platform.part import Part, PartStatus, Say
from ci.platform.sandbox import SANDBOX_IMAGE, busybox_archive
from ci.process import run
from ci.reasons import reason_of

__all__ = ["CLUSTER_TOOLS", "client", "cluster"]

CLUSTER_TOOLS = (
    # Debian's
    "etcd",
    "containerd",
    "runc",
    "cni-plugins",
    "iptables",
    "busybox",
    "ip",
    # built
    "kubeadm",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
    "coredns",
)

_SOCKET = "/run/containerd/containerd.sock"


def cluster(place: Instance, region: Region) -> tuple[Part, ...]:
    """The cluster's parts, in the order of their needs."""
    home = node_folder(place, region)
    space = f"{region.node} namespaces"

    def inside(
        name: str,
        program: str,
        arguments: Callable[[], tuple[str, ...]],
        check: Check,
        *,
        needs: tuple[str, ...],
        files: Callable[[], dict[Path, str]] = dict,
        env: dict[str, str] | None = None,
        up_within: float = 90.0,
        beside: tuple[str, ...] = (),
    ) -> Part:
        """A program as a part; `beside` are the tools that it starts itself."""

        def make() -> Daemon:
            return Daemon(
                name=f"{region.node} {name}",
                argv=(str(tools.path(program)), *arguments()),
                check=check,
                files=files(),
                env=env or {},
                enter=lambda: enter(place, region),
                up_within=up_within,
            )

        wanted = tuple(f"{region.node} {need}" for need in needs)
        # The API server would wait a minute for its watchers to leave.
        return as_part(
            place,
            make,
            name=f"{region.node} {name}",
            needs=(space, *wanted),
            tools=(program, *beside),
            grace=3,
        )

    pki, conf = home / "pki", home / "kubernetes"

    def flags(**values: str | Path | int) -> tuple[str, ...]:
        return tuple(f"--{name.replace('_', '-')}={value}" for name, value in values.items())

    certs = certificates(place, region)
    etcd = inside(
        "etcd",
        "etcd",
        lambda: flags(
            name=region.node,
            data_dir=home / "etcd",
            # For whoever shows a certificate, on the node alone: every Secret of the cluster is in it.
            listen_client_urls="https://127.0.0.1:2379",
            advertise_client_urls="https://127.0.0.1:2379",
            cert_file=pki / "etcd" / "server.crt",
            key_file=pki / "etcd" / "server.key",
            client_cert_auth="true",
            trusted_ca_file=pki / "etcd" / "ca.crt",
            listen_peer_urls="https://127.0.0.1:2380",
            initial_advertise_peer_urls="https://127.0.0.1:2380",
            initial_cluster=f"{region.node}=https://127.0.0.1:2380",
            peer_cert_file=pki / "etcd" / "peer.crt",
            peer_key_file=pki / "etcd" / "peer.key",
            peer_client_cert_auth="true",
            peer_trusted_ca_file=pki / "etcd" / "ca.crt",
            # A promotion's worth of changes; the default keeps far more in memory.
            snapshot_count=2000,
        ),
        listens(place, region, "etcd", 2379),
        needs=("certificates",),
    )
    apiserver = inside(
        "kube-apiserver",
        "kube-apiserver",
        lambda: flags(
            advertise_address=region.node_ip,
            bind_address=region.node_ip,
            etcd_servers="https://127.0.0.1:2379",
            etcd_cafile=pki / "etcd" / "ca.crt",
            etcd_certfile=pki / "apiserver-etcd-client.crt",
            etcd_keyfile=pki / "apiserver-etcd-client.key",
            service_cluster_ip_range=region.services,
            authorization_mode="Node,RBAC",
            enable_admission_plugins="NodeRestriction",
            allow_privileged="true",
            client_ca_file=pki / "ca.crt",
            tls_cert_file=pki / "apiserver.crt",
            tls_private_key_file=pki / "apiserver.key",
            kubelet_client_certificate=pki / "apiserver-kubelet-client.crt",
            kubelet_client_key=pki / "apiserver-kubelet-client.key",
            kubelet_preferred_address_types="InternalIP",
            service_account_issuer=f"https://kubernetes.default.svc.{DOMAIN}",
            service_account_key_file=pki / "sa.pub",
            service_account_signing_key_file=pki / "sa.key",
            profiling="false",
            # It asks etcd for more than Debian's 3.4 can, and fails each time.
            feature_gates="SizeBasedListCostEstimate=false",
        ),
        _asks(home, "/readyz"),
        needs=("certificates", "etcd"),
    )
    controllers = inside(
        "kube-controller-manager",
        "kube-controller-manager",
        lambda: flags(
            kubeconfig=conf / "controller-manager.conf",
            root_ca_file=pki / "ca.crt",
            cluster_signing_cert_file=pki / "ca.crt",
            cluster_signing_key_file=pki / "ca.key",
            service_account_private_key_file=pki / "sa.key",
            use_service_account_credentials="true",
            bind_address="127.0.0.1",
            # One process: nobody to elect.
            leader_elect="false",
            profiling="false",
        ),
        listens(place, region, "kube-controller-manager", 10257),
        needs=("kube-apiserver",),
    )
    scheduler = inside(
        "kube-scheduler",
        "kube-scheduler",
        lambda: flags(
            kubeconfig=conf / "scheduler.conf",
            bind_address="127.0.0.1",
            leader_elect="false",
            profiling="false",
        ),
        listens(place, region, "kube-scheduler", 10259),
        needs=("kube-apiserver",),
    )
    containerd = inside(
        "containerd",
        "containerd",
        lambda: ("--config", str(home / "containerd.toml")),
        _containerd_answers(place, region),
        files=lambda: {
            home / "containerd.toml": _containerd_config(home),
            home / "cni" / "10-pods.conflist": json.dumps(_cni_config(region), indent=2),
            **_registry_hosts(place, region, home),
        },
        needs=(),
        beside=("runc", "cni-plugins"),
    )
    sandbox = _sandbox(place, region)
    kubelet = inside(
        "kubelet",
        "kubelet",
        lambda: flags(
            config=home / "kubelet.yaml",
            kubeconfig=conf / "kubelet.conf",
            hostname_override=region.node,
            node_ip=region.node_ip,
            cert_dir=home / "kubelet-pki",
        ),
        _node_ready(region, home),
        files=lambda: {
            home / "kubelet.yaml": yaml.safe_dump(_kubelet_config(region, home)),
            home / "resolv.conf": "# pods ask the cluster's DNS only\n",
        },
        needs=("kube-apiserver", "sandbox image"),
    )
    proxy = inside(
        "kube-proxy",
        "kube-proxy",
        lambda: flags(config=home / "kube-proxy.yaml"),
        listens(place, region, "kube-proxy", 10256),
        files=lambda: {home / "kube-proxy.yaml": yaml.safe_dump(_proxy_config(region, conf))},
        # kube-proxy calls iptables by name, and Debian has it in sbin.
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
        needs=("kube-apiserver",),
        beside=("iptables",),
    )
    dns = inside(
        "coredns",
        "coredns",
        lambda: ("-conf", str(home / "Corefile")),
        answers(f"http://{region.node_ip}:8181/ready"),
        files=lambda: {home / "Corefile": _corefile(region, conf)},
        needs=("objects",),  # one of them is its role
    )
    return (certs, etcd, apiserver, controllers, scheduler, containerd, sandbox, kubelet, proxy, dns)


# Configuration files -------------------------------------------------------------------------------------


def _containerd_config(home: Path) -> str:
    return f"""\
version = 2
root = "{home}/containerd"
state = "/run/containerd"

[grpc]
  address = "{_SOCKET}"

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{SANDBOX_IMAGE}"
  # Without CAP_SYS_RESOURCE no score may be lowered, and runc would die of it.
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{tools.path("cni-plugins").parent}"
    conf_dir = "{home}/cni"
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "{home}/hosts"

[plugins."io.containerd.internal.v1.opt"]
  path = "{home}/opt"
"""


def _registry_hosts(place: Instance, region: Region, home: Path) -> dict[Path, str]:
    """127.0.0.1 of a reference means the host: a node finds that registry at its end of the link.

    Its own region's is beside it, where regions can fail apart; those of others that can, it does not reach.
    """
    files = {}
    for name in REGIONS:
        port = place.registry(name)
        address = "127.0.0.1" if place.apart and name == region.name else place.cluster.host_ip
        files[home / "hosts" / f"127.0.0.1:{port}" / "hosts.toml"] = (
            f'server = "http://{address}:{port}"\n\n'
            f'[host."http://{address}:{port}"]\n  capabilities = ["pull", "resolve"]\n'
        )
    return files


def _cni_config(region: Region) -> dict[str, Any]:
    ipam = {"type": "host-local", "ranges": [[{"subnet": region.pods}]], "routes": [{"dst": "0.0.0.0/0"}]}
    return {
        "cniVersion": "0.4.0",
        "name": "pods",
        "plugins": [{"type": "ptp", "ipMasq": False, "ipam": ipam}],
    }


def _kubelet_config(region: Region, home: Path) -> dict[str, Any]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(home / "pki" / "ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{region.node}",
        "clusterDNS": [region.node_ip],
        "clusterDomain": DOMAIN,
        "containerLogMaxSize": "5Mi",
        "containerRuntimeEndpoint": f"unix://{_SOCKET}",
        "enforceNodeAllocatable": ["pods"],
        # The host's disk is not ours to judge by shares of it.
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1Gi", "imagefs.available": "1Gi"},
        "failCgroupV1": False,
        "failSwapOn": False,
        "healthzBindAddress": "127.0.0.1",
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "nodeStatusUpdateFrequency": "5s",
        # Not lowered: see restrict_oom_score_adj.
        "oomScoreAdj": 0,
        "podLogsDir": "/var/log/pods",
        "resolvConf": str(home / "resolv.conf"),
        "serializeImagePulls": False,
        "volumePluginDir": str(home / "volume-plugins"),
    }


def _proxy_config(region: Region, conf: Path) -> dict[str, Any]:
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": str(conf / "kube-proxy.conf")},
        "clusterCIDR": region.pods,
        # The table of connections is the host's: its limits are not ours to change.
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpCloseWaitTimeout": "0s", "tcpEstablishedTimeout": "0s"},
        "healthzBindAddress": "127.0.0.1:10256",
        "hostnameOverride": region.node,
        "metricsBindAddress": "127.0.0.1:10249",
        "mode": "iptables",
        "nodePortAddresses": ["primary"],
        "oomScoreAdj": 0,
    }


def _corefile(region: Region, conf: Path) -> str:
    # No forwarding: the platform is the pods' whole world, and an unknown name fails at once.
    return f"""\
.:53 {{
    bind {region.node_ip}
    errors
    health {region.node_ip}:8080
    ready {region.node_ip}:8181
    kubernetes {DOMAIN} in-addr.arpa {{
        kubeconfig {conf / "coredns.conf"}
        ttl 5
    }}
    cache 5
}}
"""


# Checks --------------------------------------------------------------------------------------------------


def client(kubeconfig: Path) -> httpx.AsyncClient:
    """An HTTP client of the cluster's API with the rights of the kubeconfig's user."""
    return _client(kubeconfig, kubeconfig.stat().st_mtime_ns)


def _client(kubeconfig: Path, changed: int) -> httpx.AsyncClient:
    server, context = _tls(kubeconfig, changed)
    return httpx.AsyncClient(base_url=server, verify=context, trust_env=False, timeout=30)


@functools.lru_cache(maxsize=8)
def _tls(kubeconfig: Path, _changed: int) -> tuple[str, ssl.SSLContext]:
    content = yaml.safe_load(kubeconfig.read_text())
    where, user = content["clusters"][0]["cluster"], content["users"][0]["user"]
    context = ssl.create_default_context(
        cadata=base64.b64decode(where["certificate-authority-data"]).decode()
    )
    # The ssl module takes a client's key from a file only.
    with tempfile.NamedTemporaryFile(dir=kubeconfig.parent) as pem:
        for part in ("client-certificate-data", "client-key-data"):
            pem.write(base64.b64decode(user[part]))
        pem.flush()
        context.load_cert_chain(pem.name)
    return str(where["server"]), context


async def _get(home: Path, path: str) -> httpx.Response:
    async with client(home / "kubernetes" / "super-admin.conf") as api:
        return await api.get(path, timeout=3)


def _asks(home: Path, path: str) -> Check:
    async def check() -> str:
        try:
            response = await _get(home, path)
        except (OSError, httpx.HTTPError) as error:
            return f"{path}: {reason_of(error)}"
        return "" if response.is_success else f"{path}: {_last_line(response.text)}"

    return check


def _last_line(text: str) -> str:
    failed = re.findall(r"^\[-\].*$", text, re.MULTILINE)
    return str(failed[0]) if failed else text.strip()[-200:]


def _node_ready(region: Region, home: Path) -> Check:
    listens = connects(region.node_ip, 10250)

    async def check() -> str:
        # What the API says of a node stays for a while when its kubelet is gone.
        if problem := await listens():
            return problem
        try:
            response = await _get(home, f"/api/v1/nodes/{region.node}")
        except (OSError, httpx.HTTPError) as error:
            return reason_of(error)
        if not response.is_success:
            return "the node is not registered"
        for condition in response.json()["status"].get("conditions", []):
            if condition["type"] == "Ready":
                return "" if condition["status"] == "True" else str(condition["message"])
        return "the node says nothing yet"

    return check


def _containerd_answers(place: Instance, region: Region) -> Check:
    async def check() -> str:
        done = await run(
            *(*enter(place, region), "ctr", "--address", _SOCKET, "version"),
            check=False,
        )
        return "" if done.code == 0 else _last_line(done.stderr)

    return check


# The image of every pod's sandbox ------------------------------------------------------------------------


def _sandbox(place: Instance, region: Region) -> Part:
    name = f"{region.node} sandbox image"

    async def ctr(*words: str | Path) -> str:
        done = await run(
            *(*enter(place, region), "ctr", "--address", _SOCKET, "--namespace", "k8s.io", *words),
            failure=SystemUnavailable,
        )
        return done.stdout

    async def problem() -> str:
        try:
            return "" if SANDBOX_IMAGE in (await ctr("images", "list", "--quiet")).split() else "not imported"
        except SystemUnavailable as error:
            return str(error).splitlines()[-1]

    async def up(say: Say) -> bool:
        if not await problem():
            return False
        say(SANDBOX_IMAGE)
        archive = node_folder(place, region) / "sandbox.tar"
        sleep = ("sleep", "2147483647")
        busybox_archive(tools.path("busybox"), archive, name=SANDBOX_IMAGE, command=sleep)
        await ctr("images", "import", archive)
        return True

    async def status() -> PartStatus:
        return PartStatus(name=name, problem=await problem(), detail=SANDBOX_IMAGE)

    async def down() -> None:
        """It goes with the node's folder."""

    return Part(
        name=name, up=up, status=status, down=down, needs=(f"{region.node} containerd",), tools=("busybox",)
    )
