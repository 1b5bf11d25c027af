from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import stat
import sys
import textwrap
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ci.delivery import helm as rooms
from ci.delivery.fence import TAKEN_OVER
from ci.delivery.helm import Helm, changes, pull_chart
from ci.delivery.lease import LeaseLost
from ci.delivery.revisions import Revision
from ci.errors import BadInput, StepFailed, SystemUnavailable
from ci.registry import digest_of
from ci.release import Chart

# A stand-in for the `helm` program: it logs its arguments and answers from a small state file.
FAKE = """\
#!{python}
import json, os, sys, time
state = json.load(open("{state}"))
arguments = sys.argv[1:]
with open("{log}", "a") as log:
    log.write(" ".join(arguments) + chr(10))
verb = arguments[0]
if verb == "version":
    sys.stdout.write("v3.22.0"); sys.exit()
if state.get("fail", {{}}).get(verb):
    sys.stderr.write("Error: " + state["fail"][verb]); sys.exit(1)
if state.get("slow") == verb:
    open("{log}.slow", "w").write(str(os.getpid()))
    time.sleep(60)
revisions = state["revisions"]
if not revisions:
    sys.stderr.write("Error: release: not found"); sys.exit(1)
def status(one):
    return {{"name": "voice", "namespace": "ns", "version": one["revision"], "manifest": "", "config": {{}},
            "info": {{"status": one["status"], "last_deployed": "2026-01-01T00:00:00Z", "description": "d"}}}}
if verb == "status":
    print(json.dumps(status(revisions[-1])))
elif verb == "history":
    print(json.dumps([{{"revision": r["revision"], "status": r["status"], "updated": "2026-01-01T00:00:00Z",
                        "description": "d"}} for r in revisions]))
elif verb == "get":
    wanted = int(arguments[arguments.index("--revision") + 1]) if "--revision" in arguments else 0
    chosen = next((r for r in revisions if r["revision"] == wanted), revisions[-1])
    print(json.dumps(chosen["values"]))
elif verb == "show":
    print(json.dumps({{"apiVersion": "v2", "name": "voice-assistant", "version": "0.1.0"}}))
elif verb == "upgrade":
    values = json.load(sys.stdin)
    number = revisions[-1]["revision"] + 1
    revisions.append({{"revision": number, "status": "deployed", "values": values}})
    json.dump(state, open("{state}", "w"))
    print(json.dumps(status(revisions[-1])))
"""


class Program:
    """The fake program, its state and what it was asked."""

    def __init__(self, folder: Path) -> None:
        self.path, self.state, self.log = folder / "helm", folder / "state.json", folder / "log"
        self.path.write_text(
            textwrap.dedent(FAKE).format(python=sys.executable, state=self.state, log=self.log)
        )
        self.chart = folder / "chart.tgz"
        self.chart.write_bytes(b"")
        self.path.chmod(self.path.stat().st_mode | stat.S_IXUSR)
        self.has()

    def has(self, *revisions: tuple[int, str, str], **more: object) -> None:
        rows = [{"revision": n, "status": s, "values": {"release": r}} for n, s, r in revisions]
        self.state.write_text(json.dumps({"revisions": rows} | more))

    def asked(self, verb: str) -> list[str]:
        return [line for line in self.log.read_text().splitlines() if line.startswith(verb)]


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Program:
    made = Program(tmp_path)
    monkeypatch.setenv("VA_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("VA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(rooms.tools, "path", lambda name: made.path)
    return made


def helm() -> Helm:
    return Helm(kubeconfig=Path("/k"), context="va-eastus", namespace="ns")


def test_an_upgrade_waits_and_never_goes_back_by_itself(program: Program) -> None:
    program.has((1, "deployed", "r1"))

    asyncio.run(
        helm().upgrade("voice", program.chart, {"release": "r2"}, timeout=90, description="r2 (stable)")
    )

    (asked,) = program.asked("")  # one process: neither Helm's version nor the chart's name is asked first
    assert (
        asked.startswith("upgrade voice")
        and "--wait" in asked
        and "--reset-values" in asked
        and "--timeout 90s" in asked
    )
    assert "--atomic" not in asked  # it would write the manifests of before, with the fence of then
    assert "--kubeconfig /k --kube-context va-eastus" in asked
    assert json.loads(program.state.read_text())["revisions"][-1]["values"] == {"release": "r2"}


@pytest.mark.parametrize(
    ("said", "kind", "shown"),
    [
        ("release voice failed: timed out waiting for the condition", StepFailed, "timed out"),
        (
            "Kubernetes cluster unreachable: dial tcp: connection refused",
            SystemUnavailable,
            "does not answer",
        ),
    ],
)
def test_a_failed_upgrade_says_whose_fault_it_was(
    program: Program, said: str, kind: type, shown: str
) -> None:
    program.has((1, "deployed", "r1"), fail={"upgrade": said})

    with pytest.raises(kind, match=shown):
        asyncio.run(helm().upgrade("voice", program.chart, {}, timeout=9, description="d"))


def test_the_next_run_waits_for_the_helm_of_a_killed_one(program: Program, tmp_path: Path) -> None:
    program.has((1, "deployed", "r1"), slow="upgrade")
    script = textwrap.dedent(f"""
        import asyncio
        from pathlib import Path
        from ci import tools
        from ci.delivery import helm
        tools.path = lambda name: Path({str(program.path)!r})
        one = helm.Helm(kubeconfig=Path("/k"), context="va-eastus", namespace="ns")
        asyncio.run(one.upgrade("voice", Path({str(program.chart)!r}), {{}}, timeout=9, description="d"))
    """)

    async def run() -> float:
        child = await asyncio.create_subprocess_exec(sys.executable, "-c", script)
        slow = Path(f"{program.log}.slow")
        while not slow.exists() or not slow.read_text():
            assert child.returncode is None
            await asyncio.sleep(0.05)
        child.send_signal(signal.SIGKILL)
        await child.wait()
        orphan = int(slow.read_text())
        started = time.monotonic()
        waiting = asyncio.create_task(helm().idle())
        await asyncio.sleep(0.5)
        assert not waiting.done()
        os.kill(orphan, signal.SIGKILL)
        await waiting
        return time.monotonic() - started

    assert asyncio.run(run()) >= 0.5


def test_changes_name_each_value() -> None:
    before = {"release": "r1", "images": {"api": {"digest": "sha256:a"}}, "gone": 1}
    after = {"release": "r2", "images": {"api": {"digest": "sha256:b"}}, "new": [1]}

    assert changes(before, after) == (
        "gone: 1 -> nothing",
        "images.api.digest: sha256:a -> sha256:b",
        "new: nothing -> [1]",
        "release: r1 -> r2",
    )


class Layer:
    def __init__(self, media_type: str, digest: str) -> None:
        self.media_type, self.digest = media_type, digest


class Registry:
    endpoint = "r:1"

    def __init__(self, media_type: str) -> None:
        self.layers, self.fetched = (Layer(media_type, digest_of(b"chart")),), 0

    async def manifest(self, repository: str, reference: str) -> Registry:
        return self

    async def blob(self, repository: str, digest: str) -> bytes:
        self.fetched += 1
        return b"chart"


def test_a_chart_is_fetched_once(program: Program) -> None:
    chart = Chart(name="voice-assistant", version="0.1.0", digest="sha256:" + "a" * 64)
    registry = Registry(rooms.CHART_LAYER)

    first, again = (asyncio.run(pull_chart(registry, chart)) for _ in range(2))  # type: ignore[arg-type]

    assert first == again and first.read_bytes() == b"chart"
    assert registry.fetched == 1


def test_what_was_altered_in_the_cache_is_not_used(program: Program) -> None:
    chart = Chart(name="voice-assistant", version="0.1.0", digest="sha256:" + "a" * 64)
    registry = Registry(rooms.CHART_LAYER)
    kept = asyncio.run(pull_chart(registry, chart))  # type: ignore[arg-type]
    kept.write_bytes(b"evil!")

    assert asyncio.run(pull_chart(registry, chart)).read_bytes() == b"chart"  # type: ignore[arg-type]
    assert registry.fetched == 2


def test_what_is_no_chart_is_refused(program: Program) -> None:
    chart = Chart(name="voice-assistant", version="0.1.0", digest="sha256:" + "b" * 64)
    with pytest.raises(BadInput, match="is not a Helm chart"):
        asyncio.run(pull_chart(Registry("application/x"), chart))  # type: ignore[arg-type]


def test_going_back_installs_the_chart_of_then_under_the_fence_of_now(program: Program) -> None:
    program.has((1, "superseded", "r1"), (2, "deployed", "r2"))
    chart = {
        "metadata": {"apiVersion": "v2", "name": "voice-assistant", "version": "0.1.0"},
        "values": {"fence": 0, "release": ""},
        "templates": [{"name": "templates/api.yaml", "data": base64.b64encode(b"kind: A").decode()}],
        "files": [{"name": "files/x.py", "data": base64.b64encode(b"pass").decode()}],
        "schema": base64.b64encode(b"{}").decode(),
    }
    kept = Revision(
        name="voice", number=1, status="superseded", updated=datetime(2026, 1, 1, tzinfo=UTC),
        description="", values={"release": "r1"}, chart=chart,
    )  # fmt: skip

    asyncio.run(helm().rollback(kept, timeout=9, fence=7))

    (asked,) = program.asked("upgrade")
    assert "--no-hooks" in asked and "--wait" in asked and not program.asked("rollback")
    description = asked.partition("--description ")[2].partition(" --")[0]
    assert replace(kept, number=5, description=description).put_back and not kept.put_back
    assert json.loads(program.state.read_text())["revisions"][-1]["values"] == {"release": "r1", "fence": 7}

    old = replace(kept, chart={**chart, "values": {"release": ""}})  # a chart of before refuses the value
    asyncio.run(helm().rollback(old, timeout=9, fence=8))
    assert json.loads(program.state.read_text())["revisions"][-1]["values"] == {"release": "r1"}


def test_a_chart_of_helms_that_names_a_file_elsewhere_is_refused(program: Program, tmp_path: Path) -> None:
    for name in ("../x", "/x", "templates/../../x"):
        chart = {"metadata": {}, "templates": [{"name": name, "data": ""}]}
        with pytest.raises(StepFailed, match="has a file"):
            rooms._write_chart(chart, tmp_path / "inside")


def test_what_the_cluster_refused_is_a_lost_lease(program: Program) -> None:
    said = f"denied request: the fence 3 of this write is older than 4 of the lease: {TAKEN_OVER}"
    program.has((1, "deployed", "r1"), fail={"upgrade": said})
    with pytest.raises(LeaseLost, match=TAKEN_OVER):
        asyncio.run(helm().upgrade("voice", program.chart, {}, timeout=9, description="d", fence=3))
