from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ci.engine.store import Store, digest_of, full_disk_is_told, prune, usage
from ci.errors import SystemUnavailable


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    held = Store(tmp_path / "cache")
    yield held
    held.close()


def _layer(store: Store, size: int = 10, id: str | None = None) -> str:
    folder = store.scratch()
    (folder / "file").write_bytes(os.urandom(size))
    return store.add_layer(folder, id)


def test_a_result_is_found_again_by_another_session(tmp_path: Path, store: Store) -> None:
    layer = _layer(store)
    store.keep("key", {"layers": [layer], "code": 0})

    other = Store(tmp_path / "cache")

    assert other.result("key") == {"layers": [layer], "code": 0}
    assert other.result("unknown") is None
    other.close()


def test_a_result_whose_layer_is_gone_is_none(store: Store) -> None:
    layer = _layer(store)
    store.keep("key", {"layers": [layer]})
    (store.layers / layer / "file").unlink()
    (store.layers / layer).rmdir()

    assert store.result("key") is None
    assert store.keep("key", {"layers": []}) == {"layers": []}


def test_the_first_of_two_results_stands(tmp_path: Path, store: Store) -> None:
    other = Store(tmp_path / "cache")
    first = store.keep("key", {"layers": [_layer(store)]})

    assert other.keep("key", {"layers": [_layer(other)]}) == first
    other.close()


def test_a_layer_named_by_its_content_may_be_added_twice(store: Store) -> None:
    id = digest_of("same")

    assert _layer(store, id=id) == _layer(store, id=id)
    assert len(list(store.layers.iterdir())) == 1


def test_work_of_a_killed_session_is_cleared_and_that_of_a_running_one_is_not(
    tmp_path: Path, store: Store
) -> None:
    script = (
        "import sys, time; from pathlib import Path; from ci.engine.store import Store\n"
        "s = Store(Path(sys.argv[1])); s.scratch(); print(s.tmp, flush=True); time.sleep(60)"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "cache")], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout
    left = Path(child.stdout.readline().strip())
    Store(tmp_path / "cache").close()
    assert left.is_dir()

    child.kill()
    child.wait()
    Store(tmp_path / "cache").close()

    assert not left.exists()
    assert store.tmp.is_dir()


def test_pruning_drops_what_was_used_longest_ago_with_its_results(tmp_path: Path) -> None:
    root = tmp_path / "cache"
    first = Store(root)
    old, new = _layer(first, 300_000), _layer(first, 300_000)
    first.keep("old", {"layers": [old]})
    first.keep("new", {"layers": [new]})
    first.close()
    time.sleep(0.01)
    second = Store(root)
    assert second.result("new")
    second.close()

    left = prune(400_000, root)

    assert left.layers < 400_000 and left.results == 1
    third = Store(root)
    assert third.result("old") is None and third.result("new") is not None
    third.close()
    assert prune(0, root).size == 0


def test_pruning_waits_for_no_session(tmp_path: Path, store: Store) -> None:
    _layer(store, 5000)
    with pytest.raises(SystemUnavailable, match="in use by a running pipeline"):
        prune(0, tmp_path / "cache")


def test_a_session_that_ends_keeps_the_cache_within_its_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VA_ENGINE_CACHE_BYTES", "100000")
    store = Store(tmp_path / "cache")
    store.keep("key", {"layers": [_layer(store, 300_000)]})
    store.close()

    assert usage(tmp_path / "cache").size <= 100_000


def test_usage_of_no_cache_is_nothing(tmp_path: Path) -> None:
    assert usage(tmp_path / "none").size == 0
    assert prune(0, tmp_path / "none").size == 0


def test_the_key_of_macs_is_made_once_and_is_secret(tmp_path: Path, store: Store) -> None:
    other = Store(tmp_path / "cache")

    assert store.secret_key() == other.secret_key() != bytes(32)
    assert (tmp_path / "cache" / "mac.key").stat().st_mode & 0o077 == 0
    other.close()


def test_a_full_disk_says_how_to_make_room(tmp_path: Path) -> None:
    with pytest.raises(SystemUnavailable, match="disk is full") as caught, full_disk_is_told(tmp_path):
        Path("/dev/full").write_bytes(b"x" * 10)

    assert "prune" in caught.value.hint


def test_the_key_of_a_step_is_over_all_its_parts() -> None:
    assert digest_of("a", ["b"]) == digest_of("a", ("b",))
    assert len({digest_of("a", "b"), digest_of("ab"), digest_of("a", ["b"]), digest_of("a", None)}) == 4
