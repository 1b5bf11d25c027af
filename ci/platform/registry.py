"""A region's OCI registry: one process for the host, and a read-only one beside it for the nodes.

Both serve the same folder at the same port, the host's on 127.0.0.1 and the nodes' on the host's end of their
link, so that a node can pull what the host pushed and nothing on a network can push. Where regions can fail
apart, the nodes' is inside the region's own network, for its node alone. The first region's tells the
replicator of each push and deletion.
"""

from __future__ import annotations

import asyncio
import shutil
from dataclasses import replace
from typing import Any

import yaml

from ci import tools
from ci.platform.daemon import Daemon, answers, as_part
from ci.platform.instance import REGIONS, Instance
from ci.platform.node import enter, listens
from ci.platform.part import Part
from ci.platform.secret import secret

__all__ = ["configuration", "registry"]


def registry(place: Instance, region: str) -> tuple[Part, Part]:
    """The host's and the nodes' process."""
    name = f"registry {region}"
    folder = place.folder / f"registry-{region}"
    port = place.registry(region)
    notify = f"http://127.0.0.1:{place.replicator}/events" if region == REGIONS[0] else ""

    def daemon(name: str, address: str, *, pull_only: bool) -> Daemon:
        config = folder / f"{'nodes' if pull_only else 'host'}.yaml"
        settings = configuration(
            f"{address}:{port}",
            str(folder / "data"),
            pull_only=pull_only,
            notify="" if pull_only else notify,
            token=secret(place.replicator_token) if notify and not pull_only else "",
        )
        return Daemon(
            name=name,
            argv=(str(tools.path("docker-registry")), "serve", str(config)),
            check=answers(f"http://{address}:{port}/v2/"),
            files={config: yaml.safe_dump(settings)},
            ports=() if pull_only else (port,),
            # Of no use with one user, but the two must agree.
            env={"REGISTRY_HTTP_SECRET": name},
        )

    def for_host() -> Daemon:
        return daemon(name, "127.0.0.1", pull_only=False)

    own = place.region(region) if place.apart and place.region(region) in place.regions else None

    def for_nodes() -> Daemon:
        if own is None:
            return daemon(f"{name} for nodes", place.cluster.host_ip, pull_only=True)
        inside = daemon(f"{name} for nodes", "127.0.0.1", pull_only=True)
        check = listens(place, own, "the registry", port)
        return replace(inside, check=check, enter=lambda: enter(place, own))

    needs = (name, f"{own.node} namespaces") if own else (name, place.cluster.node)
    host = as_part(place, for_host, name=name, tools=("docker-registry",))
    nodes = as_part(place, for_nodes, name=f"{name} for nodes", needs=needs)

    async def down() -> None:
        await host.down()
        if folder.exists():
            await asyncio.to_thread(shutil.rmtree, folder)

    return Part(name=name, up=host.up, status=host.status, down=down, tools=host.tools), nodes


def configuration(
    address: str, root: str, *, pull_only: bool, notify: str = "", token: str = ""
) -> dict[str, Any]:
    """What docker-registry is told. `notify`: the URL that it tells of what comes and goes, with `token`."""
    told = {
        "name": "replicator",
        "url": notify,
        "headers": {"Authorization": [f"Bearer {token}"]},
        "timeout": "2s",
        # Kept in memory and sent again until it is taken.
        "threshold": 3,
        "backoff": "1s",
        "ignore": {"mediatypes": ["application/octet-stream"], "actions": ["pull", "mount"]},
    }
    return {
        **({"notifications": {"endpoints": [told]}} if notify else {}),
        "version": 0.1,
        "log": {"level": "warn", "accesslog": {"disabled": True}},
        "storage": {
            "filesystem": {"rootdirectory": root},
            "delete": {"enabled": not pull_only},
            # No cache of blobs: each of the two must see at once what the other did.
            "maintenance": {"uploadpurging": {"enabled": False}, "readonly": {"enabled": pull_only}},
        },
        "http": {"addr": address},
    }
