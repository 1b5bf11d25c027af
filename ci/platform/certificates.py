"""Who is who in a region's cluster: certificates and kubeconfigs, all by kubeadm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from ci import tools
from ci.platform.instance import Instance, Region
from ci.platform.node import node_folder
from ci.platform.part import Part, PartStatus, Say
from ci.platform.secret import write_private
from ci.process import run

__all__ = ["DOMAIN", "USERS", "administrator", "certificates"]

DOMAIN = "cluster.local"
_KUBERNETES = "v1.34.4"
_CERTIFICATES = (
    "ca", "apiserver", "apiserver-kubelet-client", "etcd-ca", "etcd-server", "etcd-peer",
    "apiserver-etcd-client", "sa",
)  # fmt: skip
_KUBECONFIGS = ("admin", "super-admin", "kubelet", "controller-manager", "scheduler")
USERS = {
    "kube-proxy": "system:kube-proxy",
    "coredns": "va:coredns",
    "gateway": "va:gateway",
    "discovery": "va:discovery",
}
"""Programs that ask the API server, by their kubeconfig, and as whom. What each may is in objects.py."""


def certificates(place: Instance, region: Region) -> Part:
    home = node_folder(place, region)
    pki, conf = home / "pki", home / "kubernetes"
    name = f"{region.node} certificates"
    people, done = conf / "people.conf", home / "certificates-made"
    wanted = " ".join((*_CERTIFICATES, *_KUBECONFIGS, *USERS))

    async def up(say: Say) -> bool:
        # What is there stays: kubeadm makes what is missing of it.
        if done.exists() and done.read_text() == wanted and people.exists():
            return _gather(place)
        home.mkdir(parents=True, exist_ok=True)
        kubeadm = str(tools.path("kubeadm"))
        config = home / "kubeadm.yaml"
        config.write_text(yaml.safe_dump_all(_kubeadm_config(region, pki)))
        for which in _CERTIFICATES:
            say(which)
            await run(kubeadm, "init", "phase", "certs", which, "--config", config)
        for which in _KUBECONFIGS:
            say(which)
            await run(
                kubeadm, "init", "phase", "kubeconfig", which, "--config", config, "--kubeconfig-dir", conf
            )
        for which, user in USERS.items():
            say(which)
            made = await run(*(kubeadm, "kubeconfig", "user", "--config", config, "--client-name", user))
            write_private(conf / f"{which}.conf", made.stdout)
        write_private(people, _for_people(administrator(place, region), region.node))
        _gather(place)
        done.write_text(wanted)
        return True

    async def status() -> PartStatus:
        return PartStatus(
            name=name, problem="" if done.exists() else "not made", detail=str(place.kubeconfig)
        )

    async def down() -> None:
        people.unlink(missing_ok=True)
        _gather(place)

    return Part(name=name, up=up, status=status, down=down, tools=("kubeadm",))


def _kubeadm_config(region: Region, pki: Path) -> list[dict[str, Any]]:
    version = {"apiVersion": "kubeadm.k8s.io/v1beta4"}
    return [
        {
            **version,
            "kind": "InitConfiguration",
            "localAPIEndpoint": {"advertiseAddress": region.node_ip, "bindPort": 6443},
            "nodeRegistration": {"name": region.node},
        },
        {
            **version,
            "kind": "ClusterConfiguration",
            "kubernetesVersion": _KUBERNETES,
            "clusterName": region.node,
            "certificatesDir": str(pki),
            "controlPlaneEndpoint": f"{region.node_ip}:6443",
            "networking": {"serviceSubnet": region.services, "podSubnet": region.pods, "dnsDomain": DOMAIN},
            # kubeadm's shortest: RSA keys take seconds each.
            "encryptionAlgorithm": "ECDSA-P256",
        },
    ]


def administrator(place: Instance, region: Region) -> Path:
    """The kubeconfig in system:masters: there is no RBAC rule for the other one at first."""
    return node_folder(place, region) / "kubernetes" / "super-admin.conf"


def _gather(place: Instance) -> bool:
    """Write what people use, a context a cluster; True when that changed it."""
    files = [node_folder(place, region) / "kubernetes" / "people.conf" for region in place.regions]
    found = [yaml.safe_load(file.read_text()) for file in files if file.exists()]
    if not found:
        place.kubeconfig.unlink(missing_ok=True)
        return True
    lists = {key: [one for each in found for one in each[key]] for key in ("clusters", "contexts", "users")}
    wanted = yaml.safe_dump({**found[0], **lists})
    if place.kubeconfig.exists() and place.kubeconfig.read_text() == wanted:
        return False
    write_private(place.kubeconfig, wanted)
    return True


def _for_people(kubeconfig: Path, name: str) -> str:
    """kubeadm's file with plain names: the context, the cluster and the user are all called `name`."""
    content = yaml.safe_load(kubeconfig.read_text())
    content["clusters"][0]["name"] = content["users"][0]["name"] = content["contexts"][0]["name"] = name
    content["contexts"][0]["context"] = {"cluster": name, "user": name}
    content["current-context"] = name
    return yaml.safe_dump(content)
