"""The stores of `va dr`: each assertion is a fact that was found the hard way."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import stat
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from ci.errors import BadInput
from ci.platform.instance import Instance
from ci.platform.postgres import _ARCHIVE, USER, archive_of
from ci.platform.stores import account_key, stores


@pytest.fixture
def place(tmp_path: Path) -> Instance:
    return Instance(number=0, folder=tmp_path)


def test_namespaces_share_nothing(place: Instance) -> None:
    live, drill = stores(place, "live"), stores(place, "drill")

    assert set(live.parts) == {"postgres", "redis prod", "storage eastus", "storage westeurope"}
    assert not set(live.parts) & set(drill.parts)
    for one, other in (
        ({live.postgres_socket}, {drill.postgres_socket}),
        ({live.redis_port, *live.storage_ports}, {drill.redis_port, *drill.storage_ports}),
        ({live.redis_folder, live.postgres_folder}, {drill.redis_folder, drill.postgres_folder}),
    ):
        assert not one & other
    with pytest.raises(BadInput, match="no stores 'test'"):
        stores(place, "test")


def test_a_sockets_path_is_short_however_deep_the_platform_lies(tmp_path: Path) -> None:
    deep = Instance(number=9, folder=tmp_path / ("x" * 200))

    own = stores(deep, "drill")

    assert len(f"{own.postgres_socket}/.s.PGSQL.{own.postgres_port}") < 107


def test_the_account_key_is_made_once_for_its_owner_alone(place: Instance) -> None:
    key = account_key(place)

    file = place.folder / "stores" / "account-key"
    assert account_key(place) == key == file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_key_that_could_not_be_written_whole_is_made_anew(
    place: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", killed)
        with pytest.raises(KeyboardInterrupt):
            account_key(place)

    assert account_key(place)


_MAKES_A_CLUSTER = """
import subprocess, sys
from pathlib import Path
from ci.platform.postgres import _enter
words = ("sh", "-c", "echo $$; exec sleep 600")
child = subprocess.Popen([*_enter(Path(sys.argv[1]), with_us=True), *words])
child.wait()
"""


@pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("setpriv") or USER not in {one.pw_name for one in pwd.getpwall()},
    reason="needs root and PostgreSQL's user",
)
def test_what_makes_a_cluster_is_killed_with_whoever_asked_for_it() -> None:
    Path("/var/lib/postgresql").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as home:
        Path(home).chmod(0o755)
        asks = subprocess.Popen(
            [sys.executable, "-c", _MAKES_A_CLUSTER, home], stdout=subprocess.PIPE, text=True
        )
        assert asks.stdout is not None
        makes = int(asks.stdout.readline())
        asks.kill()
        asks.wait()
        asks.stdout.close()

        deadline = time.monotonic() + 30
        while _runs(makes):
            assert time.monotonic() < deadline, "it goes on"
            time.sleep(0.02)


def _runs(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def test_each_cluster_archives_to_a_folder_of_its_own(tmp_path: Path) -> None:
    control = tmp_path / "data" / "global" / "pg_control"
    control.parent.mkdir(parents=True)
    control.write_bytes(struct.pack("<Q", 7_000_000_000_000_000_001) + b"\0" * 8184)

    assert archive_of(tmp_path) == tmp_path / "archive" / "7000000000000000001"


@pytest.mark.parametrize(
    ("there", "code"),
    [(None, 0), (b"the segment", 0), (b"another segment", 1)],
    ids=["not there yet", "there already: the server died before it noted that", "there, but another one"],
)
def test_a_segment_is_archived_once_and_never_replaced(
    tmp_path: Path, there: bytes | None, code: int
) -> None:
    archive, segment = tmp_path / "archive", tmp_path / "0001"
    archive.mkdir()
    segment.write_bytes(b"the segment")
    if there is not None:
        (archive / "0001").write_bytes(there)

    command = _ARCHIVE.format(to=archive).replace("%f", "0001").replace("%p", str(segment))
    done = subprocess.run(["sh", "-c", command], env=os.environ, capture_output=True, check=False)

    assert (done.returncode != 0) == bool(code)
    assert (archive / "0001").read_bytes() == (there or b"the segment")
    assert [file.name for file in archive.iterdir()] == ["0001"]
