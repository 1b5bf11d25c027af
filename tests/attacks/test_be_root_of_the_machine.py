"""A step is root: what it would do with that to the kernel, to devices, processes and files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import dagger
import pytest

from ci.engine.boundary import gaps

if TYPE_CHECKING:
    from conftest import Machine


def test_root_inside_is_nobody_outside(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "cache" / "engine").mkdir(parents=True)
    if gap := [line for line in gaps(tmp_path / "cache" / "engine") if "root of this machine" in line]:
        pytest.skip(gap[0])

    inside, outside, _ = machine.step("cat /proc/self/uid_map").split()

    assert inside == "0" and int(outside) > 65535


def test_files_of_a_step_belong_to_whom_it_says(machine: Machine) -> None:
    """The other way round: a boundary that pipelines notice is none that stays."""

    async def pipeline(_: dagger.Client, base: dagger.Container) -> tuple[str, str]:
        made = base.with_exec(
            ["sh", "-c", "touch /a && chown app:staff /a && chmod 4750 /a && mkfifo /p && id -u"]
        )
        shown = made.with_user("app").with_exec(
            ["sh", "-c", "stat -c '%u:%g %a' /a; stat -c %u:%g /bin/sh /etc"]
        )
        return await made.stdout(), await shown.stdout()

    assert machine.run(pipeline) == ("0\n", "1000:50 4750\n0:0\n0:0\n")


_TRIED = (
    "mount -t tmpfs none /mnt",
    "mount -t proc none /mnt",
    "mount -o remount,rw /sys",
    "mount -o remount,rw /proc/sys",
    "unshare -U true",
    "unshare -m true",
    "unshare -n true",
    "echo 1 > /proc/sysrq-trigger",
    "echo x > /proc/sys/kernel/core_pattern",
    "echo 1 > /proc/sys/vm/drop_caches",
    "echo x > /sys/kernel/uevent_helper",
    "mkdir /sys/fs/cgroup/x && echo /x > /sys/fs/cgroup/x/release_agent",
    "mknod /disk b $(stat -c '%t %T' /dev/null) && head -c 1 /disk",
    "mknod /disk b 254 0 && head -c 1 /disk",
    "mknod /disk b 8 0 && head -c 1 /disk",
    "mknod /mem c 1 1 && head -c 1 /mem",
    "mknod /kmsg c 1 11 && head -c 1 /kmsg",
    "dd if=/proc/kcore bs=1 count=1 | grep .",
    "hostname mine",
    "date -s 2001-01-01; test $(date +%Y) = 2001",
    "ip link add d type dummy",
    "ip address add 10.9.9.9/32 dev eth0",
    "ip route add 169.254.169.254 dev eth0",
    "ip route del 169.254.0.0/16",
    "chroot /proc/1/root ls /var/lib/dpkg",
    "swapoff -a && false",
    "ls /proc/1/root/var/lib/dpkg",
    "nice -n -5 true",
)


def test_root_in_a_step_may_not(machine: Machine) -> None:
    tried = "\n".join(f"( {each} ) && echo 'it was done: {number}'" for number, each in enumerate(_TRIED))

    said = machine.step(f"mkdir -p /mnt\n{tried}\necho all were tried")

    assert said.endswith("all were tried\n")
    assert [_TRIED[number] for number in range(len(_TRIED)) if f"it was done: {number}\n" in said] == []


def test_a_step_sees_its_own_processes_alone(machine: Machine) -> None:
    os.environ["VA_ATTACK_MARK"] = "a-token-of-the-job"
    try:
        said = machine.step("ls -d /proc/[0-9]*; cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline")
    finally:
        del os.environ["VA_ATTACK_MARK"]

    assert "a-token-of-the-job" not in said and "pytest" not in said
    assert len([line for line in said.splitlines() if line.startswith("/proc/")]) < 5


_CALLS = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
for name, number, arguments in (
    ("keyctl", 250, (0, -3, 0)), ("add_key", 248, (b"user", b"x", b"y", 1, -4)), ("bpf", 321, (0, 0, 0)),
    ("perf_event_open", 298, (0, 0, -1, -1, 0)), ("io_uring_setup", 425, (1, 0)), ("userfaultfd", 323, (0,)),
    ("unshare", 272, (0x10000000,)), ("clone3", 435, (0, 0)), ("open_by_handle_at", 304, (0, 0, 0)),
    ("open_tree", 428, (-100, b"/", 1)), ("setns", 308, (0, 0)), ("kexec_load", 246, (0, 0, 0, 0)),
    ("init_module", 175, (0, 0, 0)), ("pivot_root", 155, (b"/", b"/")),
):
    ctypes.set_errno(0)
    result = libc.syscall(number, *arguments)
    print(name, result, ctypes.get_errno(), flush=True)
print("nnp", libc.prctl(39, 0, 0, 0, 0))
"""


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the numbers are those of x86-64")
def test_a_step_makes_no_system_call_that_it_does_not_need(machine: Machine, python: Path) -> None:
    said = machine.python(_CALLS, python)
    rows = {line.split()[0]: line.split()[1:] for line in said.splitlines() if line}

    assert rows.pop("nnp", said)[0] == "1"
    # EPERM or ENOSYS of the filter; not EFAULT or EINVAL, which say that the kernel looked at it.
    assert {name: row for name, row in rows.items() if row not in (["-1", "1"], ["-1", "38"])} == {}
    assert len(rows) == 14


def test_insecure_root_capabilities_are_refused(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    async def pipeline(_: dagger.Client, base: dagger.Container) -> str:
        done = base.with_exec(["sh", "-c", "grep CapEff /proc/self/status"], insecure_root_capabilities=True)
        return await done.stdout()

    with pytest.raises(Exception, match="is refused"):
        machine.run(pipeline)

    monkeypatch.setenv("VA_ALLOW_INSECURE", "1")
    assert int(machine.run(pipeline).split()[1], 16) & (1 << 21)  # CAP_SYS_ADMIN
