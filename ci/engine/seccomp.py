"""What system calls a step may make: the profile of containers-common, as runc takes it, and a little less.

buildah and podman bring the profile (containers-common's seccomp.json, Docker's with their own changes). It
is made for engines whose containers may contain containers; a build step needs neither namespaces nor mounts
of its own, nor keys of the kernel's keyrings or sockets of AF_VSOCK, which no namespace separates. As in
Docker, those are refused without CAP_SYS_ADMIN.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ci.errors import ToolMissing

__all__ = ["PROFILE", "profile"]

PROFILE = Path("/usr/share/containers/seccomp.json")
"""Where every distribution's containers-common puts it."""

_EPERM, _ENOSYS, _EAFNOSUPPORT = 1, 38, 97
_AF_ALG = 38
"""This family and those after it: ways into the kernel, and with AF_VSOCK to the machine outside, that belong
to no network namespace."""
_NEW_NAMESPACES = 0x7E020000
"""CLONE_NEWNS | …CGROUP | …UTS | …IPC | …USER | …PID | …NET of clone(2)."""
_REFUSED = frozenset(
    [
        "unshare",
        "setns",
        "mount",
        "umount",
        "umount2",
        "pivot_root",
        "fsopen",
        "fsconfig",
        "fsmount",
        "fspick",
        "move_mount",
        "open_tree",
        "mount_setattr",
        "keyctl",
        "add_key",
        "request_key",
        "bpf",
        "perf_event_open",
        "userfaultfd",
        "io_uring_setup",
        "io_uring_enter",
        "io_uring_register",
    ]
)
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def profile(capabilities: Iterable[str]) -> dict[str, Any]:
    """`linux.seccomp` of the runtime-spec's config.json, for a process with these capabilities (`CAP_…`).

    ToolMissing where the profile is not installed: no step runs without one.
    """
    return _profile(frozenset(capabilities))


@functools.cache
def _profile(capabilities: frozenset[str]) -> dict[str, Any]:
    try:
        given = json.loads(PROFILE.read_text())
    except OSError as error:
        raise ToolMissing(
            f"{PROFILE} is not there: a step would run without a seccomp profile",
            hint="it comes with buildah (containers-common); va doctor says how to get it",
        ) from error
    machine = _ARCHITECTURES.get(os.uname().machine, os.uname().machine)
    native = f"SCMP_ARCH_{os.uname().machine.upper()}"
    syscalls = [_rule(row) for row in given["syscalls"] if _applies(row, machine, capabilities)]
    if "CAP_SYS_ADMIN" not in capabilities:
        ours = _REFUSED | {"clone", "clone3", "socket"}
        for rule in syscalls:
            if rule["action"] == "SCMP_ACT_ALLOW" or rule["names"] == ["socket"]:
                rule["names"] = [name for name in rule["names"] if name not in ours]
        told = {name for rule in syscalls for name in rule["names"]}
        syscalls += [
            {
                "names": ["clone"],
                "action": "SCMP_ACT_ALLOW",
                "args": [{"index": 0, "value": _NEW_NAMESPACES, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}],
            },
            # Its flags lie in memory, where no filter looks: C libraries take clone instead.
            {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": _ENOSYS},
            {"names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": [_family("SCMP_CMP_LT")]},
            {
                "names": ["socket"],
                "action": "SCMP_ACT_ERRNO",
                "errnoRet": _EAFNOSUPPORT,
                "args": [_family("SCMP_CMP_GE")],
            },
            {"names": sorted(_REFUSED - told), "action": "SCMP_ACT_ERRNO", "errnoRet": _EPERM},
        ]
    return {
        "defaultAction": given["defaultAction"],
        "defaultErrnoRet": given.get("defaultErrnoRet", _EPERM),
        # Of this machine alone: 32-bit calls have socketcall, whose families no filter sees.
        "architectures": [native],
        "syscalls": [rule for rule in syscalls if rule["names"]],
    }


def _applies(row: Mapping[str, Any], machine: str, capabilities: frozenset[str]) -> bool:
    """Whether a rule is for this architecture and these capabilities."""
    includes, excludes = row.get("includes") or {}, row.get("excludes") or {}
    if "arches" in includes and machine not in includes["arches"]:
        return False
    if machine in excludes.get("arches", ()):
        return False
    if not capabilities.issuperset(includes.get("caps", ())):
        return False
    return not excludes.get("caps") or not capabilities.issuperset(excludes["caps"])


def _family(comparison: str) -> dict[str, Any]:
    return {"index": 0, "value": _AF_ALG, "valueTwo": 0, "op": comparison}


def _rule(row: Mapping[str, Any]) -> dict[str, Any]:
    rule: dict[str, Any] = {"names": list(row["names"]), "action": row["action"]}
    if row.get("args"):
        rule["args"] = [dict(one) for one in row["args"]]
    if row["action"] == "SCMP_ACT_ERRNO":
        rule["errnoRet"] = row.get("errnoRet", _EPERM)
    return rule
