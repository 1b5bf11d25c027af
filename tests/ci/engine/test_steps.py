"""What a step shows and what it leaves: its own secrets, bytes, mounts, the disk. Needs root and runc."""

from __future__ import annotations

import asyncio
import os
import subprocess
from pathlib import Path
from typing import Any

import dagger
import pytest
from tiny_image import can_run_containers

from ci.errors import BadInput, StepFailed

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(bool(can_run_containers()), reason=can_run_containers()),
    pytest.mark.timeout(120),
]


# secrets


def test_a_command_is_masked_by_its_own_secrets_only(step: Any) -> None:
    who = ["sh", "-c", "id -un; id -un >&2; id -un > /who"]

    async def pipeline(client: dagger.Client, base: dagger.Container) -> Any:
        secret = client.set_secret("word", "root")
        having = base.with_secret_variable("WORD", secret)
        mounted = base.with_mounted_secret("/run/word", secret)
        shown = await having.with_exec(["sh", "-c", "echo it is $WORD"]).stdout()
        both = [one.with_exec(who) for one in (having, mounted, base)]
        told = [(await one.stdout(), await one.stderr(), await one.file("/who").contents()) for one in both]
        with pytest.raises(dagger.ExecError) as caught:
            await base.with_exec(["sh", "-c", "id -un; exit 4"]).sync()
        return shown, told, caught.value.stdout, str(caught.value)

    shown, (having, mounted, without), failed, said = step(pipeline)
    assert shown == "it is ***\n"
    assert having == mounted == ("***\n", "***\n", "root\n")
    assert without == ("root\n", "root\n", "root\n")
    assert failed == "root" and "***" not in said


def test_a_redirect_has_the_bytes_of_the_step_also_where_they_are_a_secret_s(step: Any) -> None:
    async def pipeline(client: dagger.Client, base: dagger.Container) -> Any:
        having = base.with_secret_variable("WORD", client.set_secret("word", "sesame"))
        done = having.with_exec(["sh", "-c", "echo open $WORD"], redirect_stdout="/said")
        return await done.stdout(), await done.file("/said").contents()

    assert step(pipeline) == ("open ***\n", "open sesame\n")


@pytest.mark.parametrize("first", [True, False])
def test_a_result_is_not_that_of_a_step_to_which_the_same_word_was_secret_or_was_not(
    step: Any, first: bool
) -> None:
    def shown(secret: bool) -> Any:
        async def pipeline(client: dagger.Client, base: dagger.Container) -> str:
            if secret:
                base = base.with_secret_variable("W", client.set_secret("w", "staff"))
            return await base.with_exec(["sh", "-c", "tail -1 /etc/group"]).stdout()

        return step(pipeline)

    told = {secret: shown(secret) for secret in (first, not first)}
    assert told == {True: "***:x:50:app\n", False: "staff:x:50:app\n"}


def test_a_service_is_another_one_with_another_mounted_secret(step: Any) -> None:
    async def pipeline(client: dagger.Client, base: dagger.Container) -> Any:
        async def asked(value: str) -> str:
            secret = client.set_secret("page", value)
            web = (
                base.with_mounted_secret("/www/index.html", secret, mode=0o444)
                .with_exposed_port(80)
                .as_service(args=["httpd", "-f", "-p", "80", "-h", "/www"])
            )
            return (
                await base.with_service_binding("web", web)
                .with_exec(["wget", "-qO-", "http://web/"])
                .stdout()
            )

        return [await asked("page one"), await asked("page two"), await asked("page one")]

    assert step(pipeline) == ["page one", "page two", "page one"]


# what is redirected


@pytest.mark.parametrize(
    "where", ["/out", "/deep/er/out", "/mnt/out", "/mnt/deep/out", "/vol/out", "rel", "/f"]
)
def test_what_is_redirected_is_the_bytes_wherever_it_goes(step: Any, where: str) -> None:
    async def pipeline(client: dagger.Client, base: dagger.Container) -> Any:
        volume = client.cache_volume("v")
        there = (
            base.with_mounted_directory("/mnt", client.directory().with_new_file("kept", ""))
            .with_mounted_cache("/vol", volume)
            .with_mounted_file("/f", client.file("f", "before"))
            .with_workdir("/mnt")
        )
        said = ["printf", r"\377\376\000a\r\n\200"]
        for field in ("redirect_stdout", "redirect_stderr"):
            args = said if field == "redirect_stdout" else ["sh", "-c", f"printf '{said[1]}' >&2"]
            there = there.with_exec(args, **{field: where})
            shown = await there.with_exec(["od", "-An", "-tx1", where]).stdout()
            assert shown == " ff fe 00 61 0d 0a 80\n", field
            there = there.with_exec(["sh", "-c", f": > {where}"])
        return await there.rootfs().exists("mnt/out"), await there.rootfs().exists("vol/out")

    assert step(pipeline) == (False, False)


def test_what_is_redirected_belongs_to_the_command_s_user_and_replaces_what_was_there(step: Any) -> None:
    async def pipeline(client: dagger.Client, base: dagger.Container) -> Any:
        there = base.with_new_file("/tmp/old", "longer than what comes", permissions=0o640).with_user("app")
        for path in ("/tmp/old", "/tmp/new", "/tmp/link"):
            there = there.with_symlink("new", "/tmp/link").with_exec(["echo", path], redirect_stdout=path)
        show = "cd /tmp; stat -c '%n %U %a' old new; cat old new; readlink link"
        return await there.with_exec(["sh", "-c", show]).stdout()

    assert step(pipeline) == "old app 640\nnew app 600\n/tmp/old\n/tmp/link\nnew\n"


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("/ro/out", "/ro/out: /ro is mounted to be read only"),
        ("/mnt", "/mnt: /mnt is a folder"),
        ("/s", "/s: /s is mounted to be read only"),
        ("/f/x", "/f/x: /f is a file"),
    ],
)
def test_where_nothing_can_be_redirected_is_said_before_the_command_runs(
    step: Any, where: str, said: str
) -> None:
    async def pipeline(client: dagger.Client, base: dagger.Container) -> None:
        there = (
            base.with_mounted_directory("/ro", client.directory(), read_only=True)
            .with_mounted_directory("/mnt", client.directory())
            .with_mounted_secret("/s", client.set_secret("s", "hush"))
            .with_mounted_file("/f", client.file("f", ""))
        )
        await there.with_exec(["false"], redirect_stdout=where).sync()

    with pytest.raises(BadInput, match=f"^{said}$"):
        step(pipeline)


# what is mounted


def test_what_a_step_writes_to_a_mounted_file_is_kept(step: Any) -> None:
    async def pipeline(client: dagger.Client, base: dagger.Container) -> Any:
        source = client.file("notes", "one\n", permissions=0o666)
        mounted = base.with_mounted_file("/notes", source)
        written = mounted.with_exec(["sh", "-c", "echo two >> /notes"])
        again = written.with_user("app").with_exec(["sh", "-c", "echo three >> /notes; cat /notes"])
        changed = mounted.with_exec(["chown", "app", "/notes"]).with_exec(["stat", "-c", "%U %a", "/notes"])
        return (
            await written.file("/notes").contents(),
            await again.stdout(),
            await again.file("/notes").contents(),
            await source.contents(),
            await again.rootfs().exists("notes"),
            await changed.stdout(),
        )

    whole = "one\ntwo\nthree\n"
    assert step(pipeline) == ("one\ntwo\n", whole, whole, "one\n", False, "app 666\n")


def test_what_a_step_changes_in_part_of_a_folder_is_kept_and_so_is_its_mode(step: Any) -> None:
    async def pipeline(client: dagger.Client, base: dagger.Container) -> Any:
        whole = client.directory().with_new_file("a/b/old", "").with_new_file("a/out", "")
        whole = whole.with_new_directory("a", permissions=0o750)
        mounted = base.with_mounted_directory("/m", whole.directory("a/b"))
        changed = mounted.with_exec(["sh", "-c", "echo new > /m/new; rm /m/old"])
        shut = changed.with_exec(["chmod", "700", "/m"])
        return (
            await changed.directory("/m").entries(),
            await changed.with_exec(["ls", "/m"]).stdout(),
            await changed.with_new_file("/m/more", "").directory("/m").entries(),
            await shut.with_exec(["stat", "-c", "%a", "/m"]).stdout(),
        )

    assert step(pipeline) == (["new"], "new\n", ["more", "new"], "700\n")


# the disk, and what is told


def _held(tmp_path: Path) -> int:
    """KiB that the cache takes on disk now."""
    done = subprocess.run(["du", "-sk", tmp_path / "cache"], capture_output=True, text=True, check=True)
    return int(done.stdout.split()[0])


def test_what_failed_steps_and_mounted_files_took_is_given_back_at_once(step: Any, tmp_path: Path) -> None:
    (tmp_path / "work" / "big").write_bytes(os.urandom(4_000_000))

    async def pipeline(client: dagger.Client, base: dagger.Container) -> Any:
        big = client.host().file("big")
        await base.with_mounted_file("/big", big).sync()
        await base.with_exec(["true"]).sync()
        before = _held(tmp_path)
        for number in range(3):
            for redirect in ({}, {"redirect_stdout": "/out"}):
                fill = f"head -c 4000000 /dev/urandom > /{number}; head -c 4000000 /dev/zero; exit 1"
                with pytest.raises(dagger.ExecError):
                    await base.with_exec(["sh", "-c", fill], **redirect).sync()
            await base.with_mounted_file("/big", big).with_exec(["wc", "-c", f"/big{number}"[:4]]).sync()
        return _held(tmp_path) - before

    assert step(pipeline) < 1000


def test_a_full_disk_spoils_no_later_step(step: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "va-test", disk], check=True)
    monkeypatch.setenv("VA_CACHE", str(disk))
    (tmp_path / "work" / "big").write_bytes(os.urandom(70_000_000))
    try:

        async def pipeline(client: dagger.Client, base: dagger.Container) -> str:
            await base.sync()
            fills = (
                base.with_exec(["sh", "-c", "head -c 90000000 /dev/zero > /big"]).sync,
                base.with_exec(["sh", "-c", "head -c 90000000 /dev/zero"], redirect_stdout="/big").sync,
                base.with_file("/big", client.host().file("big")).sync,
                base.with_directory("/big", client.host().directory(".", include=["big"])).sync,
            )
            for fill in fills:
                with pytest.raises(dagger.QueryError, match="full"):
                    await fill()
            return await base.with_exec(["sh", "-c", "head -c 9000000 /dev/zero > /b; wc -c < /b"]).stdout()

        assert step(pipeline) == "9000000\n"
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def test_an_error_tells_the_last_100_kib_and_how_much_is_missing(step: Any) -> None:
    async def pipeline(client: dagger.Client, base: dagger.Container) -> Any:
        script = "yes 123456789 | head -c {0}; yes abcdefghi | head -c {1} >&2; exit 1"
        with pytest.raises(dagger.ExecError) as caught:
            await base.with_exec(["sh", "-c", script.format(102_400 + 70, 12_000_000)]).sync()
        return caught.value.stdout, caught.value.stderr

    stdout, stderr = step(pipeline)
    for said, line, over in ((stdout, "123456789\n", 70), (stderr, "abcdefghi\n", 12_000_000 - 102_400)):
        mark = f"[omitting {over} bytes]..."
        assert said == (mark + (line * 10240)[len(mark) :]).strip()


def test_a_failure_that_was_expected_is_no_success(step: Any) -> None:
    """A step that ends otherwise the next time is kept for each expectation by itself."""

    async def pipeline(client: dagger.Client, base: dagger.Container) -> Any:
        there = base.with_mounted_cache("/v", client.cache_volume("v"))
        flaky = ["sh", "-c", "test -e /v/once && echo well || { touch /v/once; exit 7; }"]
        either = there.with_exec(flaky, expect=dagger.ReturnType.ANY)
        return (
            await either.exit_code(),
            await there.with_exec(flaky).exit_code(),
            await there.with_exec(flaky).stdout(),
            await there.with_exec(flaky, expect=dagger.ReturnType.ANY).exit_code(),
        )

    assert step(pipeline) == (7, 0, "well\n", 7)


def test_a_failing_service_tells_what_it_said(step: Any) -> None:
    async def pipeline(client: dagger.Client, base: dagger.Container) -> None:
        broken = base.with_exposed_port(1).as_service(args=["sh", "-c", "sleep 0.2; echo tired >&2; exit 9"])
        await asyncio.gather(base.with_service_binding("x", broken).with_exec(["true"]).sync())

    with pytest.raises(StepFailed, match="exit code 9 before it was ready\ntired"):
        step(pipeline)
