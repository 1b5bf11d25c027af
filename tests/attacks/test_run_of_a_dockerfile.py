"""A RUN of a Dockerfile does what a step may not: it listens, calls this machine, asks for more rights."""

from __future__ import annotations

import shutil
import socket
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

import dagger
import pytest

from ci.engine.dockerfiles import asks_for_more
from ci.errors import BadInput, StepFailed

if TYPE_CHECKING:
    from pathlib import Path

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


_BEFORE = "FROM scratch AS bad\nRUN ln -s / /root-of\nFROM scratch\nCOPY bin /bin\nENV PATH=/bin\n"
_FOLDER = "../../../../../../../../../../../..{folder}"


@pytest.mark.parametrize(
    "run",
    [
        "RUN --mount=type=bind,from=bad,source=/root-of,target=/m,rw {write} /m{folder}",
        f"RUN --mount=type=cache,id={_FOLDER},target=/m {{write}} /m",
        "RUN --mount=type=cache,from=bad,source=/root-of,target=/m {write} /m{folder}",
        "RUN --mount=type=secret,type=cache,target=/m {write} /m",
        "RUN --mount=type=tmpfs,target=/t --mount=target=/m,type=bind,source=/ {write} /m",
        "RUN \\\n  # in between\n\n  --mount=type=cache,target=/m {write} /m",
        "R\\\nUN --mo\\ \nunt=type=cache,target=/m {write} /m",
        '\trun\t--mo"unt"=type=cache,target=/m {write} /m',
        "RUN echo \\\\\n--mount=type=tmpfs\nRUN --'mount'=type=cache,target=/m {write} /m",
        "ONBUILD RUN --mount=type=cache,target=/m {write} /m",
        "# a comment does not go on \\\nRUN --mount=type=cache,target=/m {write} /m",
        "ARG KIND=cache\nRUN --mount=type=$KIND,target=/m {write} /m",
        "RUN --mount=type=tmpfs,target=/$X,type=bind {write} /m",
        "RUN --network=$N true",
    ],
)
def test_it_mounts_a_folder_of_the_machine(run: str) -> None:
    text = _BEFORE + run.format(folder="/root", write="touch") + "\n"

    assert asks_for_more(text)
    assert asks_for_more("# escape=`\r\n" + text.replace("\\", "`").replace("\n", "\r\n"))


def test_what_it_would_mount_is_as_it_was(machine: Machine, tmp_path: Path) -> None:
    folder = tmp_path / "of-the-machine"
    folder.mkdir()
    text = f"{_BEFORE}RUN --mount=type=bind,from=bad,source=/root-of,target=/m,rw touch /m{folder}/written\n"

    async def pipeline(client: dagger.Client, base: dagger.Container) -> None:
        context = client.directory().with_directory("bin", base.directory("/bin"))
        await context.with_new_file("Dockerfile", text).docker_build().sync()

    with pytest.raises(BadInput, match=r"a RUN asks for .* and is refused"):
        machine.run(pipeline)
    assert [*folder.iterdir()] == []


def test_it_has_the_mounts_that_are_its_own(machine: Machine) -> None:
    async def pipeline(client: dagger.Client, base: dagger.Container) -> str:
        text = (
            "FROM scratch\nCOPY bin /bin\nENV PATH=/bin\n# RUN --mount=type=cache is told of\n"
            "RUN --mount=type=secret,id=word,target=/word,required=true "
            "--mount=type=tmpfs,target=/t "
            "cp /word /t && sh -c 'run() { echo $1; }; run --mount=type=bind' > /said \\\n"
            "  && wc -c < /t/word >> /said\n"
        )
        context = client.directory().with_directory("bin", base.directory("/bin"))
        secret = client.set_secret("word", "12345")
        return (
            await context.with_new_file("Dockerfile", text)
            .docker_build(secrets=[secret])
            .file("/said")
            .contents()
        )

    assert machine.run(pipeline).split() == ["--mount=type=bind", "5"]


def test_it_starts_from_no_archive_of_the_machine(machine: Machine) -> None:
    async def pipeline(client: dagger.Client, _: dagger.Container) -> None:
        text = f"FROM oci-archive:{machine.work}/tiny.tar\nENV A=b\n"
        await client.directory().with_new_file("Dockerfile", text).docker_build().sync()

    with pytest.raises(StepFailed, match="is rejected by policy"):
        machine.run(pipeline)


def test_it_raises_its_own_bounds(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VA_STEP_PROCESSES", "40")

    said = _built(
        machine,
        "exec 2> /dev/null; for each in pids/pids.max pids.max; do echo max > /sys/fs/cgroup/$each; done; "
        "(i=0; while [ $i -lt 100 ]; do sleep 2 & i=$((i+1)); done; echo all > /said); "
        "test -e /said || echo stopped > /said",
    )

    assert said == "stopped\n"
