"""What is stored is what happened: whatever a cache has been through, it answers as an empty one does.

Pipelines of a small language run one after the other, and at once, on one cache: with and without secrets
that are words of their output, with mounts, redirects and changes. Between them the cache is pruned, and
sessions and prunings are killed. What each gives (output, files, the digest of its image) is compared with
what it gives on an empty cache.

    VA_TRUTH_SECONDS=3600 pytest -s tests/ci/engine/test_truth.py

runs other examples in each run, for so long, and says how many. Needs root and runc.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, ClassVar

import dagger
import pytest
from hypothesis import HealthCheck, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from tiny_image import can_run_containers, write_tiny_image

from ci.engine import session
from ci.engine.cache import prune, usage
from ci.reporting import SilentReporter

_SECONDS = float(os.environ.get("VA_TRUTH_SECONDS", "0"))

pytestmark = [
    pytest.mark.skipif(bool(can_run_containers()), reason=can_run_containers()),
    pytest.mark.timeout(max(300, _SECONDS + 900)),
]

Op = tuple[str, ...]
Program = tuple[Op, ...]

_WORDS = ("root", "staff", "one", "m")
_SCRIPTS = (
    "id -un; id -un > /who",
    "tail -1 /etc/group; echo $A >> /said",
    "cat /run/s; cat /run/s >> /m/said",
    "echo one >> /m/f; cat /m/f",
    "echo two >> /m/sub/g; ls /m /m/sub >&2",
    "rm -rf /m/sub; mkdir -p /m/sub; echo new > /m/sub/n",
    "echo line >> /notes; cat /notes",
    "chmod 700 /m /notes; chown 50 /notes",
    "ls -lnR /d /m 2>/dev/null | awk '{print $1, $3, $5, $9}'",
    "printf '\\377\\376\\000'; echo one >&2; exit 3",
    "cat /out /m/out; rm -f /who; ln /etc/group /d/linked",
    "head -c 300000 /dev/zero | tr '\\0' o",
)
_PATHS = ("/out", "/m/out", "/d/out", "/notes", "/m/sub/g")
_FOLDERS = ("plain", "twice", "other")

_ops = st.one_of(
    st.tuples(st.just("exec"), st.sampled_from(_SCRIPTS)),
    st.tuples(st.just("exec"), st.sampled_from(_SCRIPTS)),
    st.tuples(
        st.sampled_from(("to stdout", "to stderr")), st.sampled_from(_SCRIPTS), st.sampled_from(_PATHS)
    ),
    st.tuples(st.sampled_from(("secret variable", "secret file")), st.sampled_from(_WORDS)),
    st.tuples(st.sampled_from(("mount", "mount part", "put", "put into mount")), st.sampled_from(_FOLDERS)),
    st.tuples(st.just("mount file"), st.sampled_from(_WORDS)),
    st.tuples(st.just("write"), st.sampled_from(_PATHS), st.sampled_from(_WORDS)),
    st.tuples(st.just("without"), st.sampled_from(_PATHS)),
    st.tuples(st.just("unmount"), st.sampled_from(("/m", "/notes"))),
)
programs = st.lists(_ops, min_size=1, max_size=5).map(tuple)
_ALWAYS: Program = (
    ("put", "twice"),
    ("mount part", "other"),
    ("exec", _SCRIPTS[3]),
    ("to stdout", _SCRIPTS[0], "/m/out"),
    ("mount file", "one"),
    ("exec", _SCRIPTS[6]),
)
"""What each cache has at its beginning, and gives still at its end."""


def _folder(client: dagger.Client, name: str) -> dagger.Directory:
    """Folders of the same content that were made in different ways, and one that is another."""
    if name == "twice":
        file = client.file("a", "same")
        folder = client.directory().with_file("a", file).with_file("sub/g", file)
    else:
        folder = client.directory().with_new_file("a", "same").with_new_file("sub/g", "same")
    return folder.with_new_file("more", "m") if name == "other" else folder


def _after(client: dagger.Client, ctr: dagger.Container, op: Op) -> dagger.Container:
    match op:
        case "exec", script:
            return ctr.with_exec(["sh", "-c", script], expect=dagger.ReturnType.ANY)
        case "to stdout", script, path:
            args = ["sh", "-c", script]
            return ctr.with_exec(args, expect=dagger.ReturnType.ANY, redirect_stdout=path)
        case "to stderr", script, path:
            args = ["sh", "-c", script]
            return ctr.with_exec(args, expect=dagger.ReturnType.ANY, redirect_stderr=path)
        case "secret variable", word:
            return ctr.with_secret_variable("A", client.set_secret("a", word))
        case "secret file", word:
            return ctr.with_mounted_secret("/run/s", client.set_secret("s", word))
        case "mount", name:
            return ctr.with_mounted_directory("/m", _folder(client, name))
        case "mount part", name:
            return ctr.with_mounted_directory(
                "/m", client.directory().with_directory("deep/er", _folder(client, name)).directory("deep/er")
            )
        case "put", name:
            return ctr.with_directory("/d", _folder(client, name))
        case "put into mount", name:
            return ctr.with_directory("/m", _folder(client, name))
        case "mount file", word:
            return ctr.with_mounted_file("/notes", client.file("notes", word, permissions=0o666))
        case "write", path, word:
            return ctr.with_new_file(path, word)
        case "without", path:
            return ctr.without_file(path)
        case "unmount", path:
            return ctr.without_mount(path)
    raise AssertionError(op)


async def _contents(folder: dagger.Directory) -> dict[str, Any]:
    names = [
        name for name in await folder.glob("**") if not name.endswith("/") and not name.startswith("bin/")
    ]
    return {
        name: [await folder.file(name).size(), await folder.file(name).contents()] for name in sorted(names)
    }


async def result(client: dagger.Client, base: dagger.Container, program: Program, out: Path) -> Any:
    """All that can be seen of a program: what its last command said, what it left, and its image."""
    ctr = base
    for op in program:
        ctr = _after(client, ctr, op)
    try:
        said = None
        if any(op[0] in ("exec", "to stdout", "to stderr") for op in program):
            said = [await ctr.stdout(), await ctr.stderr(), await ctr.exit_code()]
        mounts = await ctr.mounts()
        mounted = await _contents(ctr.directory("/m")) if "/m" in mounts else None
        notes = await ctr.file("/notes").contents() if "/notes" in mounts else None
        tree = await _contents(ctr.rootfs())
        await ctr.as_tarball().export(str(out))
        with tarfile.open(out) as tar:
            index = json.load(tar.extractfile("index.json"))  # type: ignore[arg-type]
        return [said, mounts, mounted, notes, tree, index["manifests"][0]["digest"]]
    except dagger.QueryError as error:
        return str(error)


async def results(work: Path, *together: Program) -> list[Any]:
    """What programs give that run at once in one session, on the cache that VA_CACHE names."""
    async with session(SilentReporter(), workdir=work) as (client, _):
        base = client.container().import_(client.host().file("tiny.tar"))
        outs = [work / f"{os.getpid()}-{number}.tar" for number in range(len(together))]
        try:
            return await asyncio.gather(*map(result, [client] * 9, [base] * 9, together, outs))
        finally:
            for out in outs:
                out.unlink(missing_ok=True)


class Truth(RuleBasedStateMachine):
    """A cache, and what it goes through."""

    clean: ClassVar[dict[Program, Any]] = {}
    """What programs give on an empty cache."""
    did: ClassVar[Counter[str]] = Counter()
    until: ClassVar[float] = math.inf
    """When to do no more, by time.monotonic: on a busy machine an example may take longer than all should."""
    chance = random.Random(1)

    @initialize()
    def begin(self) -> None:
        self.work = Path(tempfile.mkdtemp(prefix="va-truth-"))
        self.cache = self.work / "cache"
        write_tiny_image(self.work / "tiny.tar")
        self.did["caches"] += 1
        self._check(_ALWAYS)

    def teardown(self) -> None:
        try:
            self._check(_ALWAYS, (("secret file", "root"), *_ALWAYS))
        finally:
            shutil.rmtree(self.work, ignore_errors=True)
            if _SECONDS:
                print(dict(self.did), flush=True)

    @property
    def over(self) -> bool:
        return time.monotonic() > self.until

    def _run(self, cache: Path, *together: Program) -> list[Any]:
        os.environ["VA_CACHE"] = str(cache)
        return asyncio.run(results(self.work, *together))

    def _check(self, *together: Program) -> None:
        if self.over:
            return
        given = self._run(self.cache, *together)
        for program, found in zip(together, given, strict=True):
            if program not in self.clean:
                empty = self.work / "empty"
                (self.clean[program],) = self._run(empty, program)
                shutil.rmtree(empty)
            self.did["programs"] += 1
            self.did["refused"] += isinstance(found, str)
            assert found == self.clean[program], program

    @rule(program=programs)
    def run_one(self, program: Program) -> None:
        self._check(program)

    @rule(one=programs, other=programs)
    def run_two_at_once(self, one: Program, other: Program) -> None:
        self._check(one, other)

    @rule(program=programs)
    def run_it_with_the_words_known_to_others(self, program: Program) -> None:
        """Every word is a secret of somebody in the same session."""
        secret = (("secret variable", "root"), ("secret file", "staff"), ("exec", _SCRIPTS[0]))
        self._check(secret, program, (*program, ("secret variable", "one"), ("exec", _SCRIPTS[1])))

    @rule(part=st.sampled_from((0.0, 0.5, 0.9, 0.99, 1.0)))
    def prune_it(self, part: float) -> None:
        if self.over:
            return
        root = self.cache / "engine"
        prune(max(0, int(usage(root).size * part) - 1), root)
        self.did["prunings"] += 1

    def _killed(self, body: str, *args: str) -> None:
        if self.over:
            return
        child = subprocess.Popen(
            [sys.executable, "-c", body, *args],
            env=os.environ | {"VA_CACHE": str(self.cache), "PYTHONPATH": os.pathsep.join(sys.path)},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        assert child.stdout
        child.stdout.readline()
        time.sleep(self.chance.uniform(0, 1.5))
        self.did["killed at work"] += child.poll() is None
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()

    @rule(program=programs)
    def kill_it(self, program: Program) -> None:
        body = (
            "import asyncio, json, sys; from pathlib import Path; import test_truth\n"
            "program = tuple(map(tuple, json.loads(sys.argv[2]))); print(flush=True)\n"
            "asyncio.run(test_truth.results(Path(sys.argv[1]), program))"
        )
        here = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); "
        self._killed(here + body, str(self.work), json.dumps(program))

    @rule()
    def kill_a_pruning(self) -> None:
        body = "from ci.engine.cache import prune; print(flush=True); prune(0)"
        self._killed(body)


@pytest.mark.e2e
@pytest.mark.skipif(bool(_SECONDS), reason="examples are drawn")
def test_each_thing_that_can_happen_to_a_cache_leaves_it_true(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is drawn below may be next to nothing in few examples: here all of it happens once."""
    monkeypatch.setenv("VA_ENGINE", "embedded")
    monkeypatch.setenv("VA_CACHE", "")
    monkeypatch.delenv("DAGGER_SESSION_PORT", raising=False)
    program = (("secret variable", "root"), ("mount", "twice"), ("to stderr", _SCRIPTS[4], "/m/sub/g"))
    cache = Truth()  # type: ignore[no-untyped-call]
    cache.begin()
    try:
        cache.prune_it(part=1.0)
        cache.run_two_at_once(one=program, other=_ALWAYS)
        cache.kill_a_pruning()
        cache.kill_it(program=program[1:])
        cache.prune_it(part=0.5)
        cache.run_it_with_the_words_known_to_others(program=program[1:])
    finally:
        cache.teardown()


def test_what_is_stored_is_what_happened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VA_ENGINE", "embedded")
    monkeypatch.setenv("VA_CACHE", "")
    monkeypatch.delenv("DAGGER_SESSION_PORT", raising=False)
    how = settings(
        max_examples=2 if not _SECONDS else 5,
        stateful_step_count=3 if not _SECONDS else 15,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    if not _SECONDS:
        run_state_machine_as_test(Truth, settings=how)  # type: ignore[no-untyped-call]
        return
    until, number = time.monotonic() + _SECONDS, time.time_ns()
    monkeypatch.setattr(Truth, "until", until)
    while time.monotonic() < until:
        number += 1
        Truth.chance.seed(number)
        machine = seed(number)(type("Truth", (Truth,), {}))
        run_state_machine_as_test(machine, settings=settings(how, derandomize=False))  # type: ignore[no-untyped-call]
        print(f"seed {number}, {until - time.monotonic():.0f} s to go", flush=True)
