"""A step calls a server that another step runs, or a service that it is not bound to."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import dagger

if TYPE_CHECKING:
    from conftest import Machine

_MINE = "ip -4 address show eth0 | sed -n 's/.*inet \\([0-9.]*\\).*/\\1/p'"


def test_only_what_is_bound_is_reached(machine: Machine) -> None:
    async def pipeline(client: dagger.Client, base: dagger.Container) -> tuple[str, str, str]:
        met = base.with_mounted_cache("/met", client.cache_volume("met"))
        files = base.with_new_file("/www/index.html", "only-for-the-bound")
        service = files.with_exposed_port(8080).as_service(args=["httpd", "-f", "-p", "8080", "-h", "/www"])
        bound = met.with_service_binding("web", service).with_new_file("/www/index.html", "of-a-step")
        serves = bound.with_exec(
            [
                "sh", "-c",
                f"wget -qO- http://web:8080/; httpd -p 9090 -h /www; {_MINE} > /met/step; "
                "sed -n 's/ web .*//p' /etc/hosts > /met/service; until [ -e /met/done ]; do sleep 0.1; done",
            ]
        )  # fmt: skip
        asks = met.with_exec(
            [
                "sh", "-c",
                "until [ -s /met/service ]; do sleep 0.1; done; exec 2>&1; "
                "for each in $(cat /met/step):9090 $(cat /met/service):8080; do "
                "echo asked $each; timeout 4 wget -qO- http://$each/; done; touch /met/done",
            ]
        )  # fmt: skip
        return tuple(await asyncio.gather(serves.stdout(), asks.stdout()))  # type: ignore[return-value]

    seen, heard = machine.run(pipeline)

    assert seen == "only-for-the-bound"
    assert heard.count("asked 10.") == 2
    assert "of-a-step" not in heard and "only-for-the-bound" not in heard
