"""What a command is among processes, networks and capabilities, as on a Dagger engine. Needs root, runc."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import dagger
import pytest
from tiny_image import can_run_containers, write_tiny_image

from ci.engine import run as engine_run

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(bool(can_run_containers()), reason=can_run_containers()),
    pytest.mark.timeout(180),
]
ANY = dagger.ReturnType.ANY


@pytest.mark.parametrize(("number", "code"), [("KILL", 137), ("TERM", 143), ("SEGV", 139), ("0", 0)])
def test_a_command_that_a_signal_ends_says_so(step: Any, number: str, code: int) -> None:
    async def pipeline(_: dagger.Client, base: dagger.Container) -> int:
        return await base.with_exec(["sh", "-c", f"kill -{number} $$"], expect=ANY).exit_code()

    assert step(pipeline) == code


def test_without_an_init_a_command_is_process_1(step: Any) -> None:
    async def pipeline(_: dagger.Client, base: dagger.Container) -> Any:
        bare = base.with_exec(["sh", "-c", "kill -9 $$; echo $$"], no_init=True)
        own = base.with_exec(["sh", "-c", "echo $$; ls /dev/init; cat /proc/1/comm"])
        return await bare.stdout(), await own.stdout()

    bare, own = step(pipeline)
    assert bare == "1\n"
    assert own.splitlines()[0] != "1" and own.splitlines()[1:] == ["/dev/init", "init"]


def test_what_nobody_waits_for_is_reaped_and_ends_with_the_command(step: Any) -> None:
    async def pipeline(_: dagger.Client, base: dagger.Container) -> Any:
        # The child of a child that is gone: an orphan, which ends before it is looked for.
        orphan = "(sleep 0.1 & echo $! > /tmp/pid); sleep 0.5; ls /proc/$(cat /tmp/pid) 2>&1"
        left = "sleep 1000 & echo started"
        return (
            await base.with_exec(["sh", "-c", orphan], expect=ANY).stdout(),
            await base.with_exec(["sh", "-c", left]).stdout(),
        )

    gone, started = step(pipeline)
    assert "No such file" in gone and started == "started\n"


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["nowhere-to-be-found"], "nowhere-to-be-found"),
        (["/etc/passwd"], "permission denied"),
        (["-x"], "-x"),
        (["/etc"], "/etc"),
    ],
)
def test_a_command_that_cannot_be_run_is_code_1_and_names_it(step: Any, args: list[str], said: str) -> None:
    async def pipeline(_: dagger.Client, base: dagger.Container) -> Any:
        done = base.with_exec(args, expect=ANY)
        return await done.exit_code(), await done.stderr()

    code, told = step(pipeline)
    assert code == 1 and said in told and "tini" not in told and "\n" not in told.strip()


def test_codes_126_and_127_of_a_shell_stay(step: Any) -> None:
    async def pipeline(_: dagger.Client, base: dagger.Container) -> Any:
        return [
            await base.with_exec(["sh", "-c", script], expect=ANY).exit_code()
            for script in ("nowhere-to-be-found", "/etc/passwd", "exit 127")
        ]

    assert step(pipeline) == [127, 126, 127]


def test_nothing_of_an_init_is_in_the_image(step: Any) -> None:
    async def pipeline(_: dagger.Client, base: dagger.Container) -> list[str]:
        return await base.with_exec(["true"]).rootfs().glob("dev/**")

    assert step(pipeline) == []


def test_steps_at_once_have_one_port_each(step: Any) -> None:
    async def pipeline(client: dagger.Client, base: dagger.Container) -> list[str]:
        meet = base.with_mounted_cache("/meet", client.cache_volume("meet"))
        script = (
            "mkdir /w && echo {0} > /w/index.html && httpd -p 8080 -h /w && > /meet/{0}; "
            "until [ -e /meet/1 ] && [ -e /meet/2 ] && [ -e /meet/3 ]; do sleep 0.05; done; "
            "wget -q -O - http://127.0.0.1:8080/"
        )
        steps = [meet.with_exec(["sh", "-c", script.format(number)]).stdout() for number in (1, 2, 3)]
        return list(await asyncio.gather(*steps))

    assert step(pipeline) == ["1\n", "2\n", "3\n"]


def test_all_capabilities_are_those_that_there_are(tmp_path: Path) -> None:
    """In a session that lacks two of them itself, as one in a container does."""
    if not shutil.which("setpriv"):
        pytest.skip("needs setpriv")
    write_tiny_image(tmp_path / "tiny.tar")
    script = """
    import asyncio, sys
    import dagger
    from ci.engine import session
    from ci.reporting import SilentReporter

    async def main():
        async with session(SilentReporter()) as (client, _):
            base = client.container().import_(client.host().file("tiny.tar"))
            look = ["grep", "CapEff", "/proc/self/status"]
            print(await base.with_exec(look, insecure_root_capabilities=True).stdout())

    asyncio.run(main())
    """
    environ = {"VA_CACHE": str(tmp_path / "cache"), "VA_ENGINE": "embedded", "VA_ALLOW_INSECURE": "1"}
    done = subprocess.run(
        ["setpriv", "--bounding-set", "-sys_boot,-wake_alarm", "--inh-caps", "-sys_boot,-wake_alarm", "--",
         sys.executable, "-c", textwrap.dedent(script)],
        cwd=tmp_path, capture_output=True, text=True, check=False,
        env={**os.environ, **environ, "PYTHONPATH": str(Path(__file__).parents[3])},
    )  # fmt: skip

    assert done.returncode == 0, done.stderr[-2000:]
    effective = int(done.stdout.split()[1], 16)
    assert not effective >> 22 & 1 and not effective >> 35 & 1  # CAP_SYS_BOOT, CAP_WAKE_ALARM
    assert effective >> 21 & 1  # CAP_SYS_ADMIN


def test_an_image_of_hundreds_of_layers(step: Any) -> None:
    """More than overlayfs takes at once (500): what was made, changed and deleted, below and above."""

    async def pipeline(_: dagger.Client, base: dagger.Container) -> Any:
        for number in range(600):
            base = base.with_new_file(f"/made/{number}", str(number))
            if number in (50, 590):
                base = base.without_file("/made/3" if number == 50 else "/made/4").with_new_file(
                    "/made/5", "-"
                )
            if number % 100 == 99:
                base = await base.sync()
        script = "ls /made | wc -l; cat /made/5 /made/599; rm /made/7; echo 8 > /made/8; ls /made | wc -l"
        done = base.with_exec(["sh", "-c", script])
        again = done.with_exec(["sh", "-c", "ls /made | wc -l"])
        return await done.stdout(), await again.stdout()

    assert step(pipeline) == ("598\n-599597\n", "597\n")


def test_more_layers_than_the_kernel_shows_are_refused_in_a_line(
    step: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_run, "MOST_LAYERS", 2)

    async def pipeline(_: dagger.Client, base: dagger.Container) -> None:
        await base.with_new_file("/1", "").with_new_file("/2", "").with_exec(["true"]).sync()  # three
        more = base.with_new_file("/1", "").with_new_file("/2", "").with_new_file("/3", "")
        with pytest.raises(dagger.QueryError, match="a command in 4 layers: the kernel shows 3"):
            await more.with_exec(["true"]).sync()

    step(pipeline)


def test_no_more_commands_run_at_once_than_there_are_slots(step: Any) -> None:
    slots = max(4, 2 * (os.cpu_count() or 1))

    async def pipeline(client: dagger.Client, base: dagger.Container) -> list[int]:
        running = base.with_mounted_cache("/running", client.cache_volume("running"))
        script = "> /running/{0}; sleep 0.3; ls /running | wc -l; rm /running/{0}"
        steps = [running.with_exec(["sh", "-c", script.format(number)]) for number in range(2 * slots)]
        return [int(said) for said in await asyncio.gather(*(one.stdout() for one in steps))]

    assert 1 < max(step(pipeline)) <= slots


def test_folders_without_end_that_a_step_makes(step: Any, tmp_path: Path) -> None:
    """Read, packed and exported, or refused in a line where no path names them; the next session begins."""
    script = "i=0; while [ $i -lt {} ]; do mkdir {} && cd {} || exit 1; i=$((i+1)); done; echo end > f"

    async def pipeline(_: dagger.Client, base: dagger.Container) -> Any:
        deep = base.with_workdir("/deep").with_exec(["sh", "-c", script.format(1200, "d", "d")])
        await deep.directory("/deep").export("out")
        await deep.as_tarball().export("out.tar")
        copied = base.with_directory("/copy", deep.directory("/deep"))
        said = await copied.with_exec(["find", "/copy", "-name", "f"]).stdout()
        found = await deep.directory("/deep").glob("**/f")
        long = "long" * 50
        deeper = base.with_workdir("/deep").with_exec(["sh", "-c", script.format(20, long, long)])
        with pytest.raises(dagger.QueryError, match="too long"):
            await deeper.directory("/deep").digest()
        return said.count("/d"), found[0].count("d/"), await deeper.with_exec(["echo", "fine"]).stdout()

    try:
        assert step(pipeline) == (1200, 1200, "fine\n")
        assert (tmp_path / "work" / "out.tar").stat().st_size > 0

        async def later(_: dagger.Client, base: dagger.Container) -> str:
            return await base.with_exec(["echo", "later"]).stdout()

        assert step(later) == "later\n"
        assert [path.name for path in (tmp_path / "cache" / "engine" / "tmp").iterdir()] == []
    finally:
        subprocess.run(
            ["rm", "-rf", tmp_path / "cache", tmp_path / "work" / "out"], check=True
        )  # pytest could not
