from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ci.errors import SystemUnavailable, ToolMissing
from ci.platform import daemon
from ci.platform.daemon import Daemon, _last_words, answers, as_part, connects
from ci.platform.instance import Instance
from ci.platform.part import Part
from ci.platform.processes import end, marked, port_owner

_SERVER = """
import sys, http.server
greeting = open(sys.argv[2]).read()
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(greeting.encode())
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def _silent(_: str) -> None:
    pass


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Instance]:
    yield Instance(number=0, folder=tmp_path)
    for process in marked(tmp_path):
        os.kill(process.pid, signal.SIGKILL)


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def server(place: Instance, port: int) -> Daemon:
    config = place.folder / "greeting"
    return Daemon(
        name="server",
        argv=(sys.executable, "-c", _SERVER, str(port), str(config)),
        check=answers(f"http://127.0.0.1:{port}/"),
        files={config: "hello"},
        ports=(port,),
        up_within=20,
    )


def _part(place: Instance, daemon: Daemon | Callable[[], Daemon]) -> Part:
    return as_part(place, daemon if callable(daemon) else lambda: daemon, name="server", grace=0.3)


def test_up_starts_it_once_and_down_ends_it(place: Instance, server: Daemon, port: int) -> None:
    async def story() -> None:
        part = _part(place, server)
        assert (await part.status()).problem == "not running"
        assert await part.up(_silent)
        (first,) = marked(place.folder)
        assert not await part.up(_silent)
        assert (await part.status()).pid == first.pid
        await part.down()
        assert (await part.status()).problem == "not running"
        await part.down()  # nothing there: no error

    asyncio.run(story())

    assert marked(place.folder) == []
    assert port_owner(port) is None


def test_it_outlives_who_started_it_and_is_found_again(place: Instance, server: Daemon) -> None:
    asyncio.run(_part(place, server).up(_silent))

    assert not asyncio.run(_part(place, server).up(_silent))


def test_one_that_died_is_started_again(place: Instance, server: Daemon) -> None:
    asyncio.run(_part(place, server).up(_silent))
    (first,) = marked(place.folder)
    os.kill(first.pid, signal.SIGKILL)

    assert asyncio.run(_part(place, server).up(_silent))
    (second,) = marked(place.folder)
    assert second.pid != first.pid


def test_one_that_hangs_is_started_again(
    place: Instance, server: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daemon, "_PATIENCE_SECONDS", (0.05, 0.05, 0.0))
    asyncio.run(_part(place, server).up(_silent))
    (first,) = marked(place.folder)
    os.kill(first.pid, signal.SIGSTOP)

    async def hung() -> str:
        now = marked(place.folder)
        return "no answer" if now and now[0].pid == first.pid else await server.check()

    assert asyncio.run(_part(place, replace(server, check=hung)).up(_silent))
    (second,) = marked(place.folder)
    assert second.pid != first.pid


def test_a_change_of_its_configuration_restarts_it(place: Instance, server: Daemon) -> None:
    asyncio.run(_part(place, server).up(_silent))
    (first,) = marked(place.folder)
    config = place.folder / "greeting"

    assert asyncio.run(_part(place, replace(server, files={config: "good day"})).up(_silent))
    (second,) = marked(place.folder)
    assert second.pid != first.pid
    assert config.read_text() == "good day"


def test_its_configuration_is_for_its_owner_only(place: Instance, server: Daemon) -> None:
    asyncio.run(_part(place, server).up(_silent))

    assert (place.folder / "greeting").stat().st_mode & 0o077 == 0


def test_one_that_ends_at_once_shows_its_last_words(place: Instance, server: Daemon) -> None:
    broken = replace(server, argv=(sys.executable, "-c", "import sys; sys.exit('no such region')"))

    with pytest.raises(SystemUnavailable, match=r"server ended with exit code 1\nno such region") as caught:
        asyncio.run(_part(place, broken).up(_silent))

    assert str(place.folder / "logs" / "server.log") in caught.value.hint


def test_the_status_of_one_whose_program_is_gone_is_a_problem(place: Instance, server: Daemon) -> None:
    asyncio.run(_part(place, server).up(_silent))

    def make() -> Daemon:
        raise ToolMissing("kubelet is not here")

    status = asyncio.run(_part(place, make).status())
    assert status.problem == "kubelet is not here"


def test_a_go_programs_last_words_are_shown_without_its_stack() -> None:
    log = "starting\ncreate wal error\npanic: create wal error: no space left on device\n\n"

    words = _last_words(log + "goroutine 1 [running]:\n" + "main.main()\n\t/main.go:28 +0x17\n" * 9)

    assert words == ["starting", "create wal error", "panic: create wal error: no space left on device"]
    assert _last_words("a\n" * 20 + "the end") == ["a"] * 7 + ["the end"]


def test_one_that_never_gets_well_is_said_to(place: Instance, server: Daemon) -> None:
    deaf = replace(server, argv=(sys.executable, "-c", "import time; time.sleep(60)"), up_within=0.5)

    with pytest.raises(SystemUnavailable, match=r"server is not well after 0\.5 s: http://127\.0\.0\.1"):
        asyncio.run(_part(place, deaf).up(_silent))


def test_a_busy_port_is_named_with_its_owner(place: Instance, server: Daemon, port: int) -> None:
    with socket.create_server(("127.0.0.1", port)):
        wanted = rf"port {port}, which server needs, is taken by process {os.getpid()}: .*python"
        with pytest.raises(SystemUnavailable, match=wanted) as caught:
            asyncio.run(_part(place, server).up(_silent))

    assert f"kill {os.getpid()}" in caught.value.hint
    assert marked(place.folder) == []


def test_a_listener_on_another_address_is_not_in_the_way(port: int) -> None:
    with socket.create_server(("127.0.0.2", port)):
        assert port_owner(port) is None
    with socket.create_server(("0.0.0.0", port)):
        assert port_owner(port) is not None
    with socket.create_server(("::", port), family=socket.AF_INET6):
        assert port_owner(port) is not None


def test_processes_of_another_platform_are_not_ours(place: Instance, tmp_path: Path) -> None:
    other = subprocess.Popen(["sleep", "60"], env={"VA_PLATFORM": f"{tmp_path}-1", "VA_PART": "server"})
    try:
        assert marked(place.folder) == []
        asyncio.run(_part(place, lambda: pytest.fail("not needed")).down())
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_one_that_ignores_sigterm_is_killed() -> None:
    script = "import signal, time; signal.signal(15, signal.SIG_IGN); print(flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()

    asyncio.run(end(lambda: [process.pid] if process.poll() is None else [], grace=0.2))

    assert process.wait(5) == -signal.SIGKILL
    process.stdout.close()


def test_a_check_says_what_is_wrong(port: int) -> None:
    assert f"127.0.0.1:{port}" in asyncio.run(connects("127.0.0.1", port)())
    assert f"127.0.0.1:{port}" in asyncio.run(answers(f"http://127.0.0.1:{port}/")())
