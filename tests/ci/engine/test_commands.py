"""Commands in containers, through the unmodified SDK: needs root and runc, so it runs with the e2e suite."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tarfile
import textwrap
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import dagger
import httpx
import pytest
from tiny_image import can_run_containers, write_tiny_image

from ci.engine import LogLine, session
from ci.errors import StepFailed, SystemUnavailable
from ci.reporting import SilentReporter

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(bool(can_run_containers()), reason=can_run_containers()),
    pytest.mark.timeout(120),
]

Pipeline = Callable[[dagger.Client, dagger.Container], Awaitable[Any]]


@pytest.fixture
def lines() -> list[LogLine]:
    return []


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: list[LogLine]) -> Callable[[Pipeline], Any]:
    """Run a piece of pipeline; it gets a client and the tiny image's container."""
    monkeypatch.setenv("VA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("VA_ENGINE", "embedded")
    monkeypatch.delenv("DAGGER_SESSION_PORT", raising=False)
    write_tiny_image(tmp_path / "tiny.tar")

    def go(pipeline: Pipeline) -> Any:
        async def main() -> Any:
            async with session(SilentReporter(), lines.append, workdir=tmp_path) as (client, _):
                base = client.container().import_(client.host().file("tiny.tar"))
                return await pipeline(client, base)

        try:
            return asyncio.run(main())
        finally:
            assert _left_behind(tmp_path) == []

    return go


def _left_behind(folder: Path, pid: int | None = None) -> list[str]:
    """Mounts, processes, links, control groups and work of sessions under that folder."""
    mounts = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(folder) in line]
    processes = []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            text = process.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(folder) in text and "pytest" not in text and "va-engine" in text:
            processes.append(text)
    work = [str(path) for path in (folder / "cache" / "engine" / "tmp").glob("*")]
    groups = [str(path) for path in Path("/sys/fs/cgroup").glob(f"*/va-engine-*-{pid or os.getpid()}-*")]
    return mounts + processes + work + groups


def _counting(name: str = "count") -> list[str]:
    """A command that leaves a mark in the cache volume mounted at /marks each time it really runs."""
    return ["sh", "-c", f"echo x >> /marks/{name}; echo ran"]


def test_a_command_runs_once_for_its_output_errors_and_code_and_not_again_in_the_next_session(
    run: Any,
) -> None:
    async def pipeline(client: dagger.Client, base: dagger.Container) -> Any:
        marks = client.cache_volume("marks")
        done = base.with_mounted_cache("/marks", marks).with_exec(_counting())
        results = await asyncio.gather(done.stdout(), done.stderr(), done.exit_code(), done.sync())
        fresh = base.with_mounted_cache("/marks", marks).with_env_variable("NOW", str(time.time_ns()))
        return results[:3], await fresh.with_exec(["cat", "/marks/count"]).stdout()

    assert run(pipeline) == (["ran\n", "", 0], "x\n")
    assert run(pipeline) == (["ran\n", "", 0], "x\n")


def test_only_later_steps_run_again_when_a_source_changes(run: Any, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "a").write_text("1")

    async def pipeline(client: dagger.Client, base: dagger.Container) -> str:
        marks = client.cache_volume("marks")
        built = (
            base.with_mounted_cache("/marks", marks)
            .with_exec(_counting("early"))
            .with_directory("/source", client.host().directory("source"))
            .with_exec(_counting("late"))
            .with_env_variable("NOW", str(time.time_ns()))
        )
        return await built.with_exec(["sh", "-c", "wc -l < /marks/early; wc -l < /marks/late"]).stdout()

    assert run(pipeline) == "1\n1\n"
    (tmp_path / "source" / "a").write_text("2")
    assert run(pipeline) == "1\n2\n"


def test_a_failed_command_says_everything(run: Any) -> None:
    async def pipeline(client: dagger.Client, base: dagger.Container) -> Any:
        with pytest.raises(dagger.ExecError) as caught:
            await base.with_exec(["sh", "-c", "echo out; echo err >&2; exit 3"]).sync()
        return caught.value

    error = run(pipeline)
    assert (error.exit_code, error.stdout, error.stderr) == (3, "out", "err")
    assert error.command == ["sh", "-c", "echo out; echo err >&2; exit 3"]
    assert "exit code: 3" in str(error)


def test_a_failed_command_fails_the_session_as_a_failed_step(run: Any) -> None:
    with pytest.raises(StepFailed, match="exit code: 1\nno such luck"):
        run(lambda _, base: base.with_exec(["sh", "-c", "echo no such luck >&2; exit 1"]).sync())


def test_a_failure_may_be_expected(run: Any) -> None:
    async def pipeline(client: dagger.Client, base: dagger.Container) -> Any:
        failed = base.with_exec(["sh", "-c", "echo x > /made; exit 4"], expect=dagger.ReturnType.ANY)
        with pytest.raises(dagger.ExecError):
            await base.with_exec(["true"], expect=dagger.ReturnType.FAILURE).sync()
        return await failed.exit_code(), await failed.file("/made").contents()

    assert run(pipeline) == (4, "x\n")


def test_a_missing_command_is_code_1_as_with_dagger(run: Any) -> None:
    async def pipeline(client: dagger.Client, base: dagger.Container) -> Any:
        with pytest.raises(dagger.ExecError) as caught:
            await base.with_exec(["no-such-command"]).sync()
        return caught.value.exit_code, caught.value.stderr

    code, said = run(pipeline)
    assert code == 1 and "no-such-command" in said


def test_the_environment_of_a_command(run: Any) -> None:
    async def pipeline(client: dagger.Client, base: dagger.Container) -> list[str]:
        prepared = base.with_env_variable("A", "b").with_user("app").with_workdir("/tmp/work")
        shown = prepared.with_exec(["sh", "-c", "id; pwd; echo $A $HOME; cat"], stdin="in\n")
        args = prepared.with_exec(["echo", "$A", "${A}c", "$NONE."], expand=True)
        return [*(await shown.stdout()).splitlines(), await args.stdout()]

    assert run(pipeline) == [
        "uid=1000(app) gid=1000(app) groups=50(staff),1000(app)",
        "/tmp/work",
        "b /home/app",
        "in",
        "b bc .\n",
    ]


def test_entrypoint_default_arguments_and_redirects(run: Any) -> None:
    async def pipeline(client: dagger.Client, base: dagger.Container) -> Any:
        prepared = base.with_default_args(["default"]).with_entrypoint(
            ["echo", "entry"], keep_default_args=True
        )
        written = base.with_exec(
            ["sh", "-c", "echo out; echo err >&2"], redirect_stdout="/tmp/o", redirect_stderr="/tmp/e"
        )
        read = base.with_new_file("/in", "from a file").with_exec(["cat"], redirect_stdin="/in")
        return (
            await prepared.with_exec([], use_entrypoint=True).stdout(),
            await prepared.with_exec(["x"], use_entrypoint=True).stdout(),
            await written.file("/tmp/o").contents() + await written.file("/tmp/e").contents(),
            await read.stdout(),
        )

    assert run(pipeline) == ("entry default\n", "entry x\n", "out\nerr\n", "from a file")


def test_secrets_reach_the_command_and_nothing_else(run: Any, tmp_path: Path, lines: list[LogLine]) -> None:
    async def pipeline(client: dagger.Client, base: dagger.Container) -> Any:
        secret = client.set_secret("token", "hunter2hunter2")
        prepared = base.with_secret_variable("TOKEN", secret).with_mounted_secret(
            "/run/token", secret, owner="app"
        )
        script = "echo $TOKEN; cat /run/token >&2; stat -c '%a %U' /run/token; echo -n $TOKEN | wc -c"
        done = prepared.with_exec(["sh", "-c", script])
        with pytest.raises(dagger.ExecError) as caught:
            await prepared.with_exec(["sh", "-c", "echo $TOKEN; exit 1"]).sync()
        await done.export("out.tar")
        identity = await done.id()
        return (
            await done.stdout(),
            await done.stderr(),
            caught.value.stdout,
            identity,
            await done.directory("/").entries(),
        )

    out, err, failed, identity, entries = run(pipeline)

    assert out == "***\n400 app\n14\n"
    assert (err, failed) == ("***", "***")
    assert "run/" not in entries
    assert lines and not [line for line in lines if "hunter2" in line.text]
    everything = [path for path in tmp_path.rglob("*") if path.is_file() and not path.is_symlink()]
    assert not [path for path in everything if b"hunter2" in path.read_bytes()]
    from ci.engine.chain import decode

    assert "hunter2" not in repr(decode(identity).args)


def test_a_changed_secret_runs_the_command_again(run: Any) -> None:
    def with_value(value: str) -> str:
        async def pipeline(client: dagger.Client, base: dagger.Container) -> str:
            secret = client.set_secret("token", value)
            return (
                await base.with_secret_variable("T", secret)
                .with_exec(["sh", "-c", "echo -n $T | md5sum"])
                .stdout()
            )

        result: str = run(pipeline)
        return result

    assert with_value("one-one") == with_value("one-one") != with_value("two-two")


def test_nothing_of_a_run_is_left_in_the_image(run: Any, tmp_path: Path) -> None:
    async def pipeline(client: dagger.Client, base: dagger.Container) -> Any:
        done = (
            base.with_mounted_cache("/root/.cache/deep", client.cache_volume("c"))
            .with_mounted_directory("/mnt/source", client.directory().with_new_file("a", "1"))
            .with_mounted_temp("/scratch")
            .with_exec(
                [
                    "sh",
                    "-c",
                    "ls /proc /dev > /made; touch /root/.cache/deep/x /mnt/source/y /scratch/z",
                ]
            )
        )
        await done.as_tarball().export("out.tar")
        return await done.directory("/").glob("**")

    names = run(pipeline)

    assert [name for name in names if not name.startswith("bin/")] == [
        *("dev/", "etc/", "etc/group", "etc/passwd", "home/", "home/app/", "made"),
        *("proc/", "root/", "sys/", "tmp/"),
    ]
    with tarfile.open(tmp_path / "out.tar") as tar:
        layers = [tar.extractfile(member) for member in tar if member.name.startswith("blobs/sha256/")]
        found = set()
        for layer in layers:
            with suppress(tarfile.TarError), tarfile.open(fileobj=layer) as inner:
                found |= {member.name for member in inner}
    assert "made" in found and not found & {
        "etc/hosts",
        "etc/resolv.conf",
        "etc/ssl",
        "mnt",
        "scratch",
    }


def test_two_builds_from_an_empty_cache_give_the_same_image(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def pipeline(client: dagger.Client, base: dagger.Container) -> None:
        built = (
            base.with_directory("/source", client.directory().with_new_file("a", "1"))
            .with_exec(["sh", "-c", "mkdir -p /d && cp /source/a /d/b && rm -r /source && ln /d/b /d/c"])
            .with_exec(["chown", "app", "/d"])
        )
        await built.as_tarball(forced_compression=dagger.ImageLayerCompression.Gzip).export("out.tar")

    images = []
    for number in (1, 2):
        monkeypatch.setenv("VA_CACHE", str(tmp_path / f"cache{number}"))
        run(pipeline)
        images.append((tmp_path / "out.tar").read_bytes())
        time.sleep(1.1)

    assert images[0] == images[1]


def test_what_was_deleted_stays_deleted(run: Any) -> None:
    async def pipeline(client: dagger.Client, base: dagger.Container) -> Any:
        made = base.with_new_file("/d/a", "1").with_new_file("/d/b", "2")
        gone = made.with_exec(["rm", "-r", "/d"])
        again = gone.with_exec(["sh", "-c", "mkdir /d; echo 3 > /d/c"])
        return (
            await gone.directory("/").entries(),
            await again.directory("/d").entries(),
            await again.with_exec(["ls", "/d"]).stdout(),
        )

    root, again, listed = run(pipeline)
    assert "d/" not in root
    assert (again, listed) == (["c"], "c\n")


def test_mounted_folders_take_changes_along_but_not_into_the_image(run: Any) -> None:
    async def pipeline(client: dagger.Client, base: dagger.Container) -> Any:
        mounted = base.with_mounted_directory(
            "/work", client.directory().with_new_file("a", "1"), owner="app"
        ).with_workdir("/work")
        changed = mounted.with_user("app").with_exec(["sh", "-c", "echo 2 > b; rm a; stat -c %U ."])
        return (
            await changed.stdout(),
            await changed.with_exec(["ls"]).stdout(),
            await changed.directory("/work").entries(),
            await changed.rootfs().exists("work"),
            await mounted.with_mounted_directory("/ro", client.directory(), read_only=True)
            .with_exec(["touch", "/ro/x"], expect=dagger.ReturnType.ANY)
            .exit_code(),
        )

    assert run(pipeline) == ("app\n", "b\n", ["b"], False, 1)


def test_branches_run_at_the_same_time(run: Any) -> None:
    meet = "touch /met/{}; until [ $(ls /met | wc -l) = 4 ]; do sleep 0.1; done"

    async def pipeline(client: dagger.Client, base: dagger.Container) -> None:
        there = base.with_mounted_cache("/met", client.cache_volume("met"))
        async with asyncio.timeout(60):  # each waits for the others: one after the other they would for ever
            await asyncio.gather(
                *(there.with_exec(["sh", "-c", meet.format(number)]).sync() for number in range(4))
            )

    run(pipeline)


def test_a_service_is_reached_by_its_alias_and_ends_with_the_session(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VA_ALLOW_LOOPBACK", "1")

    async def pipeline(client: dagger.Client, base: dagger.Container) -> Any:
        web = (
            base.with_new_file("/www/index.html", "hello")
            .with_exposed_port(8080)
            .as_service(args=["httpd", "-f", "-p", "8080", "-h", "/www"])
        )
        bound = base.with_service_binding("web", web)
        return (
            await bound.with_exec(["wget", "-qO-", "http://web:8080/"]).stdout(),
            await bound.with_exec(["wget", "-qO-", "http://web:8080/index.html"]).stdout(),
            endpoint := await client.host().tunnel(web).endpoint(scheme="http"),
            await asyncio.to_thread(lambda: httpx.get(endpoint).text),
        )

    first, second, endpoint, reached = run(pipeline)
    assert (first, second) == ("hello", "hello")
    assert reached == "hello"
    with pytest.raises(httpx.ConnectError):
        httpx.get(endpoint)


def test_a_service_that_ends_early_says_why(run: Any) -> None:
    async def pipeline(client: dagger.Client, base: dagger.Container) -> None:
        broken = base.with_exposed_port(1).as_service(args=["sh", "-c", "echo no config >&2; exit 5"])
        await base.with_service_binding("x", broken).with_exec(["true"]).sync()

    with pytest.raises(StepFailed, match="exit code 5 before it was ready\nno config"):
        run(pipeline)


def test_lines_are_told_as_they_come_with_their_step(run: Any, lines: list[LogLine]) -> None:
    run(lambda _, base: base.with_exec(["sh", "-c", "echo one; echo two >&2"]).sync())

    assert {(line.step, line.text) for line in lines} == {
        ("sh -c 'echo one; echo two >&2'", "one"),
        ("sh -c 'echo one; echo two >&2'", "two"),
    }


def test_a_cancelled_pipeline_ends_its_container_at_once(run: Any, tmp_path: Path) -> None:
    async def pipeline(client: dagger.Client, base: dagger.Container) -> None:
        async with asyncio.timeout(1.5):
            await base.with_exec(["sh", "-c", "trap '' TERM; sleep 60"]).sync()

    start = time.monotonic()
    with pytest.raises(TimeoutError):
        run(pipeline)
    assert time.monotonic() - start < 45


def _elsewhere(tmp_path: Path, body: str) -> subprocess.Popen[str]:
    """A pipeline in a process of its own."""
    script = textwrap.dedent(
        """
        import asyncio, sys
        from pathlib import Path
        from ci.engine import session
        from ci.reporting import SilentReporter
        async def main():
            told = lambda line: print(line.text, flush=True)
            async with session(SilentReporter(), told, workdir=Path(sys.argv[1])) as (client, _):
                base = client.container().import_(client.host().file("tiny.tar"))
                BODY
        asyncio.run(main())
        """
    ).replace("BODY", body)
    return subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


_LONG = 'await base.with_exec(["sh", "-c", "echo started; echo half > /half; sleep 77; echo done"]).sync()'


def test_a_killed_pipeline_leaves_nothing_that_runs_and_nothing_half_made(run: Any, tmp_path: Path) -> None:
    child = _elsewhere(tmp_path, _LONG)
    assert child.stdout and child.stdout.readline() == "started\n"

    child.kill()
    child.wait()
    deadline = time.monotonic() + 30
    while _sleepers() and time.monotonic() < deadline:
        time.sleep(0.05)

    assert _sleepers() == []
    assert run(lambda _, base: base.with_exec(["cat", "/etc/group"]).stdout()).startswith("root:")


def _sleepers() -> list[str]:
    found = []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if b"sleep\x0077" in process.read_bytes():
                found.append(str(process))
        except OSError:
            continue
    return found


@pytest.mark.parametrize("number", [signal.SIGINT])
def test_an_interrupted_pipeline_cleans_up(run: Any, tmp_path: Path, number: signal.Signals) -> None:
    child = _elsewhere(tmp_path, _LONG)
    assert child.stdout and child.stdout.readline() == "started\n"

    child.send_signal(number)
    child.wait(60)

    assert _sleepers() == [] and _left_behind(tmp_path, child.pid) == []


def test_two_sessions_share_a_cache_and_a_locked_volume(run: Any, tmp_path: Path) -> None:
    script = "test -e /v/busy && exit 9; touch /v/busy; sleep 0.5; rm /v/busy; echo fine"
    body = (
        "import dagger; cache = client.cache_volume('v'); "
        "print(await base.with_mounted_cache('/v', cache, sharing=dagger.CacheSharingMode.LOCKED)"
        ".with_env_variable('WHO', str(__import__('os').getpid()))"
        f".with_exec(['sh', '-c', {script!r}]).stdout())"
    )
    children = [_elsewhere(tmp_path, body) for _ in range(3)]

    results = [child.communicate(timeout=90) for child in children]

    assert [child.returncode for child in children] == [0, 0, 0], results
    assert all("fine" in out for out, _ in results)


def test_a_full_disk_is_told_and_nothing_half_made_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "va-test", disk], check=True)
    try:
        monkeypatch.setenv("VA_CACHE", str(disk))
        monkeypatch.setenv("VA_ENGINE", "embedded")
        write_tiny_image(tmp_path / "tiny.tar")

        async def pipeline(size: int) -> str:
            async with session(SilentReporter(), workdir=tmp_path) as (client, _):
                base = client.container().import_(client.host().file("tiny.tar"))
                filled = base.with_exec(["sh", "-c", f"head -c {size} /dev/zero > /big && wc -c < /big"])
                return await filled.stdout()

        with pytest.raises(SystemUnavailable, match="full") as caught:
            asyncio.run(pipeline(60_000_000))
        assert "prune" in caught.value.hint
        assert asyncio.run(pipeline(1000)) == "1000\n"
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def test_the_host_s_certificates_are_there_for_a_command(run: Any) -> None:
    if not Path("/etc/ssl/certs/ca-certificates.crt").exists():
        pytest.skip("this machine has no CA certificates")

    async def pipeline(client: dagger.Client, base: dagger.Container) -> Any:
        done = base.with_exec(["sh", "-c", "wc -c < /etc/ssl/certs/ca-certificates.crt"])
        kept = base.with_exec(["sh", "-c", "echo mine > /etc/ssl/certs/ca-certificates.crt"])
        return (
            await done.stdout(),
            await done.exists("/etc/ssl"),
            await kept.file("/etc/ssl/certs/ca-certificates.crt").contents(),
        )

    size, residue, kept = run(pipeline)
    assert int(size) == Path("/etc/ssl/certs/ca-certificates.crt").stat().st_size
    assert (residue, kept) == (False, "mine\n")
