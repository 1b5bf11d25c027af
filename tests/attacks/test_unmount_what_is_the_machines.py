"""A session's own helpers let go of what this machine has mounted: its named network namespaces."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import dagger

if TYPE_CHECKING:
    from conftest import Machine

_NAME = "va-outlives"


def _mounted() -> bool:
    return f"/run/netns/{_NAME} " in Path("/proc/self/mountinfo").read_text()


def test_a_named_network_namespace_outlives_a_session(machine: Machine) -> None:
    """`ip netns` shares the mounts of /run/netns: who unmounts a copy of them unmounts them everywhere."""
    subprocess.run(["ip", "netns", "add", _NAME], check=True)
    try:

        async def pipeline(_: dagger.Client, base: dagger.Container) -> bool:
            await base.with_exec(["true"]).sync()
            return _mounted()

        assert machine.run(pipeline)
        assert _mounted()
    finally:
        subprocess.run(["ip", "netns", "delete", _NAME], check=True)
