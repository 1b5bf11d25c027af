"""A RUN of a Dockerfile does what a step may not: it listens, calls this machine, asks for more rights."""

from __future__ import annotations

import shutil
import socket
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

import dagger
import pytest

from ci.errors import BadInput

if TYPE_CHECKING:
    from conftest import Machine

pytestmark = pytest.mark.skipif(not shutil.which("buildah"), reason="needs buildah")


def _built(machine: Machine, run: str) -> str:
    """What a RUN leaves in /said."""

    async def pipeline(client: dagger.Client, base: dagger.Container) -> str:
        context = (
            client.directory()
            .with_directory("bin", base.directory("/bin"))
            .with_new_file("Dockerfile", f"FROM scratch\nCOPY bin /bin\nENV PATH=/bin\nRUN {run}\n")
        )
        return await context.docker_build().file("/said").contents()

    return str(machine.run(pipeline))


def test_it_reaches_nobody_on_this_machine(machine: Machine) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        heard: list[bytes] = []

        def serve() -> None:
            with suppress(OSError), server.accept()[0] as client:
                heard.append(client.recv(100))

        threading.Thread(target=serve, daemon=True).start()
        port = server.getsockname()[1]
        said = _built(
            machine,
            "exec > /said 2>&1; "
            + "".join(f"wget -O- http://{one}:{port}/; " for one in ("127.0.0.1", "10.213.0.2"))
            + "unshare -U true && echo unshared; grep -e CapEff -e Seccomp: /proc/self/status",
        )

    assert heard == [] and "unshared" not in said
    rows = dict(line.split(":") for line in said.splitlines() if line.startswith(("CapEff", "Seccomp:")))
    assert not int(rows["CapEff"], 16) & (1 << 13 | 1 << 21)  # NET_RAW, SYS_ADMIN
    assert rows["Seccomp"].strip() == "2"


@pytest.mark.parametrize(
    "option", ["--network=host", "--security=insecure", "--mount=type=tmpfs,target=/x --network=host"]
)
def test_it_asks_for_more(machine: Machine, option: str) -> None:
    with pytest.raises(BadInput, match="is refused"):
        _built(machine, f"{option} id > /said")
