"""Traefik as the Gateway API controller: straight to the pods, by the weights of HTTPRoutes.

On the host where there is one cluster; of several each has its own, inside its network, to be lost with it.
"""

from __future__ import annotations

from ci import tools
from ci.platform.daemon import Daemon, answers, as_part
from ci.platform.instance import Instance, Region
from ci.platform.node import enter, node_folder
from ci.platform.part import Part

__all__ = ["CONTROLLER", "gateway"]

CONTROLLER = "traefik.io/gateway-controller"


def gateway(place: Instance, region: Region) -> Part:
    """Serves HTTP on the gateway's port; its health and metrics are on the next one."""
    name, address = place.named(region, "gateway"), place.serving(region)

    def daemon() -> Daemon:
        kubeconfig = node_folder(place, region) / "kubernetes" / "gateway.conf"
        return Daemon(
            name=name,
            argv=(
                str(tools.path("traefik")),
                f"--entrypoints.web.address={address}:{place.gateway}",
                f"--entrypoints.admin.address={address}:{place.gateway_admin}",
                "--entrypoints.web.transport.lifecycle.gracetimeout=10s",
                "--providers.kubernetesgateway=true",
                f"--providers.kubernetesgateway.statusaddress.ip={address}",
                # How long a change of weights or pods may wait for more changes.
                "--providers.kubernetesgateway.throttleduration=100ms",
                "--providers.providersthrottleduration=100ms",
                "--ping=true",
                "--ping.entrypoint=admin",
                "--metrics.prometheus=true",
                "--metrics.prometheus.entrypoint=admin",
                "--metrics.prometheus.addserviceslabels=true",
                "--global.checknewversion=false",
                "--global.sendanonymoususage=false",
                "--log.level=INFO",
            ),
            env={"KUBECONFIG": str(kubeconfig)},
            check=answers(f"http://{address}:{place.gateway_admin}/ping"),
            ports=() if place.apart else (place.gateway, place.gateway_admin),
            enter=lambda: enter(place, region) if place.apart else (),
        )

    return as_part(place, daemon, name=name, needs=(f"{region.node} objects",), tools=("traefik",))
