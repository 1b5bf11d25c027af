"""Groups of sessions that were killed are removed, and no others."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ci import places
from ci.engine import limits

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="control groups need root")

BOUNDS = limits.Limits(processes=9, memory=2**20)


@pytest.fixture
def group() -> Iterator[str]:
    """The name of this process's, made; no step is in it yet."""
    name = f"{os.getpid()}-of-a-test"
    limits.bounded(name, BOUNDS)
    if not _there(name):
        pytest.skip("this machine lets nobody make control groups")
    yield name
    asyncio.run(limits.remove(name))


def _there(name: str) -> list[Path]:
    return [
        path
        for where in ("", "*/")
        for path in Path("/sys/fs/cgroup").glob(where + limits.parent_of(name)[1:])
    ]


def test_a_group_of_a_process_that_is_there_is_left(group: str) -> None:
    before = _there(group)

    limits.remove_of_the_dead()

    assert _there(group) == before


def test_so_is_one_of_a_process_that_cannot_be_seen_from_a_container(group: str) -> None:
    before = _there(group)
    tidy = "from ci.engine import limits; limits.remove_of_the_dead()"

    subprocess.run(
        ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", tidy],
        env={**os.environ, "PYTHONPATH": str(places.checkout())}, check=True,
    )  # fmt: skip

    assert _there(group) == before


def test_one_of_a_process_that_is_gone_is_removed() -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    limits.bounded(f"{gone.pid}-of-a-test", BOUNDS)
    if not _there(f"{gone.pid}-of-a-test"):
        pytest.skip("this machine lets nobody make control groups")

    limits.remove_of_the_dead()

    assert not _there(f"{gone.pid}-of-a-test")
