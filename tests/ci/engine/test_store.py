from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from ci.engine.cache import prune, usage
from ci.engine.store import Store, digest_of, full_disk_is_told
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


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


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


def test_what_steps_printed_is_counted_and_given_back(tmp_path: Path) -> None:
    root = tmp_path / "cache"
    store = Store(root)
    for number in range(3):
        said = store.add_output({"stdout": "o" * 200_000, "stderr": str(number)})
        store.keep(f"step {number}", {"code": 0, "layers": [], "outputs": [said]})
        store.keep(f"fact {number}", {"fact": "f" * 50_000})
    assert store.output(said)["stderr"] == "2"
    store.close()

    full = usage(root)
    part = prune(500_000, root)
    gone = prune(0, root)

    assert 750_000 < full.outputs == full.size < 900_000 and full.results == 6
    assert part.size <= 500_000 and 0 < part.results < 6
    assert (gone.size, gone.results, _names(root / "outputs")) == (0, 0, [])
    assert (root / "index.sqlite").stat().st_size < 100_000


def test_a_layer_of_an_image_goes_and_stays_with_the_blob_that_it_came_as(tmp_path: Path) -> None:
    root = tmp_path / "cache"

    def image(store: Store) -> str:
        """A layer that came as a blob, and one that a step made on it."""
        layer, blob = digest_of("layer"), digest_of("blob")
        with store.work() as folder:
            (folder / "blob").write_bytes(b"b" * 50_000)
            store.add_blob(folder / "blob", blob)
        store.add_original(layer, blob, {"digest": f"sha256:{blob}"})
        _layer(store, 100_000, layer)
        store.keep("import", {"layers": [layer]})
        return layer

    first = Store(root)
    layer = image(first)
    made = _layer(first, 80_000)
    first.keep("step", {"layer": made, "layers": [layer, made]})
    first.close()
    time.sleep(0.01)
    second = Store(root)
    _layer(second, 10_000)
    assert second.result("step")  # the blob is used by who uses the layer
    second.close()

    left = prune(usage(root).size - 1, root)
    third = Store(root)
    kept = third.result("step")
    third.close()
    assert (left.blobs > 0, kept is not None) == (True, True)

    prune(left.size - 1, root)  # the blob is first in turn, and takes its layer along
    fourth = Store(root)
    assert (fourth.result("import"), fourth.original(layer)) == (None, None)
    assert _names(fourth.blobs) == [] and layer not in _names(fourth.layers)
    image(fourth)
    again = fourth.result("step")
    assert again is not None and again["layer"] == made  # what was made on it stood all the time
    fourth.close()


def test_an_original_that_somebody_deleted_is_missed_and_not_packed_anew(store: Store) -> None:
    layer, blob = digest_of("layer"), digest_of("blob")
    store.add_original(layer, blob, {})
    _layer(store, id=layer)
    store.keep("import", {"layers": [layer]})

    assert store.result("import") is None
    with pytest.raises(SystemUnavailable, match="has lost the blob"):
        store.original(layer)


def test_what_is_there_is_whole_whenever_a_pruning_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "cache"
    store = Store(root)
    layer = _layer(store, 5000)
    store.keep("step", {"layers": [layer]})
    store.close()

    class Killed(BaseException):
        pass

    def killed(folder: Path) -> None:
        raise Killed

    monkeypatch.setattr("ci.engine.cache.remove", killed)
    with pytest.raises(Killed):
        prune(0, root)
    monkeypatch.undo()

    after = Store(root)
    assert after.result("step") is None and not (after.layers / layer).exists()
    assert [path.name for path in (root / "tmp").iterdir()] == [after.tmp.name]
    after.close()


def test_what_a_killed_session_moved_in_and_did_not_note_goes_with_the_next_pruning(tmp_path: Path) -> None:
    root = tmp_path / "cache"
    store = Store(root)
    _layer(store)
    store.close()
    for folder in ("layers", "blobs", "outputs"):
        (root / folder / digest_of(folder)).mkdir()
    (root / "layers" / "none").mkdir()

    prune(10**9, root)

    assert sorted(map(len, _names(root / "layers"))) == [4, 64]
    assert _names(root / "blobs") == _names(root / "outputs") == []


def test_work_goes_with_its_block_however_that_ends(store: Store) -> None:
    with suppress(ValueError), store.work() as folder:
        (folder / "file").write_text("x")
        raise ValueError
    with store.work() as moved:
        store.add_layer(moved, digest_of("moved"))

    assert not folder.exists() and (store.layers / digest_of("moved")).is_dir()


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
