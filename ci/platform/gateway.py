"""Traefik as the Gateway API controller: on the host, straight to the pods, by the weights of HTTPRoutes."""

from __future__ import annotations

from ci import tools
from ci.platform.daemon import Daemon, answers, as_part
from ci.platform.instance import Instance
from ci.platform.node import node_folder
from ci.platform.part import Part

__all__ = ["CONTROLLER", "gateway"]

CONTROLLER = "traefik.io/gateway-controller"


def gateway(place: Instance) -> Part:
    """Serves HTTP on the gateway's port; its health and metrics are on the next one."""
    region = place.cluster

    def daemon() -> Daemon:
        kubeconfig = node_folder(place, region) / "kubernetes" / "gateway.conf"
        return Daemon(
            name="gateway",
            argv=(
                str(tools.path("traefik")),
                f"--entrypoints.web.address=127.0.0.1:{place.gateway}",
                f"--entrypoints.admin.address=127.0.0.1:{place.gateway_admin}",
                "--entrypoints.web.transport.lifecycle.gracetimeout=10s",
                "--providers.kubernetesgateway=true",
                "--providers.kubernetesgateway.statusaddress.ip=127.0.0.1",
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
            check=answers(f"http://127.0.0.1:{place.gateway_admin}/ping"),
            ports=(place.gateway, place.gateway_admin),
        )

    return as_part(place, daemon, name="gateway", needs=(f"{region.node} objects",), tools=("traefik",))
