"""A LiveKit server for development: real rooms and real WebRTC between the host and pods."""

from __future__ import annotations

import re
import secrets

import yaml

from ci import tools
from ci.platform.daemon import Daemon, answers, as_part
from ci.platform.instance import Instance
from ci.platform.part import Part, Say
from ci.platform.secret import write_private

__all__ = ["API_KEY", "livekit", "livekit_secret"]

API_KEY = "va-local"


def livekit(place: Instance) -> Part:
    """It signals on the host's 127.0.0.1 and on its end of the link, and sends media from the latter."""
    config = place.folder / "livekit.yaml"
    address = place.cluster.host_ip

    def daemon() -> Daemon:
        settings = {
            "port": place.livekit,
            "bind_addresses": ["127.0.0.1", address],
            "keys": {API_KEY: livekit_secret(place)},
            # The host and the pods both reach this address; nothing else is asked for one.
            "rtc": {
                "tcp_port": place.livekit + 1,
                "udp_port": place.livekit + 2,
                "node_ip": address,
                "use_external_ip": False,
                "ips": {"includes": [f"{address}/32"]},
            },
            "prometheus": {"port": place.livekit_metrics},
            "room": {"empty_timeout": 30, "departure_timeout": 5},
            "logging": {"level": "info", "pion_level": "error"},
        }
        return Daemon(
            name="livekit",
            argv=(str(tools.path("livekit-server")), "--config", str(config)),
            check=answers(f"http://127.0.0.1:{place.livekit}/"),
            files={config: yaml.safe_dump(settings)},
            ports=(place.livekit, place.livekit + 1, place.livekit_metrics),
        )

    process = as_part(place, daemon, name="livekit", needs=(place.cluster.node,))

    async def up(say: Say) -> bool:
        changed = await process.up(say)
        write_private(
            place.livekit_env,
            f"LIVEKIT_URL=ws://127.0.0.1:{place.livekit}\n"
            f"LIVEKIT_API_KEY={API_KEY}\nLIVEKIT_API_SECRET={livekit_secret(place)}\n",
        )
        return changed

    return Part(
        name="livekit",
        up=up,
        status=process.status,
        down=process.down,
        needs=process.needs,
        tools=("livekit-server",),
    )


def livekit_secret(place: Instance) -> str:
    """The secret of `API_KEY`: made once for each platform."""
    if place.livekit_env.exists():
        found = re.search(r"^LIVEKIT_API_SECRET=(\S+)$", place.livekit_env.read_text(), re.MULTILINE)
        if found:
            return found[1]
    secret = secrets.token_urlsafe(36)
    write_private(place.livekit_env, f"LIVEKIT_API_SECRET={secret}\n")
    return secret
