"""What is read of a real Prometheus: pods that restart, are scraped twice, answer in part, or not at all."""

from __future__ import annotations

import asyncio
import json
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from real_registry import free_port
from waiting import until

from ci import tools
from ci.delivery import metrics
from ci.delivery.findings import Tally
from ci.delivery.metrics import NoData, Prometheus, Reading, Window

# It takes note of other targets every 5 s.
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

BOUNDS = {"stable": ("0.1", "0.5", "2"), "canary": ("0.25", "2", "8")}


@dataclass
class Pod:
    """A process that counts, as client libraries expose it: `counts` by outcome, `born` when it began."""

    track: str
    counts: dict[str, int] = field(default_factory=lambda: {"ok": 0, "error": 0})
    born: float = 1000.0
    down: bool = False
    histogram: bool = True

    def restart(self, **counts: int) -> None:
        self.counts, self.born = {"ok": 0, "error": 0} | counts, self.born + 60

    def exposition(self) -> str:
        lines = ["# TYPE voice_sessions_total counter"]
        lines += [f'voice_sessions_total{{outcome="{of}"}} {count}' for of, count in self.counts.items()]
        lines += [f'voice_sessions_created{{outcome="{of}"}} {self.born}' for of in self.counts]
        if self.histogram:
            whole, name = sum(self.counts.values()), "voice_session_duration_seconds"
            lines += [f"# TYPE {name} histogram"]
            lines += [f'{name}_bucket{{le="{bound}"}} {whole}' for bound in (*BOUNDS[self.track], "+Inf")]
            lines += [f"{name}_sum {whole * 0.01}", f"{name}_count {whole}"]
        return "\n".join(lines) + "\n"


@dataclass
class World:
    url: str
    pods: dict[str, Pod]
    targets: Callable[[dict[str, tuple[str, ...]]], None]

    def look(self, *expected: str, stale: float = 2.0) -> Reading | NoData:
        async def ask() -> Reading | NoData:
            async with Prometheus(self.url) as prometheus:
                return await metrics.read(
                    prometheus, "va", stale=stale, now=0.0, expected=expected or self.pods
                )

        return asyncio.run(ask())

    def reads(self, *expected: str) -> Reading:
        """The reading once every pod's present counts are in it."""
        found: list[Reading] = []

        def there() -> bool:
            read = self.look(*expected)
            if not isinstance(read, Reading):
                return False
            sessions = {
                (one.pod, one.label): value
                for one, value in read.values.items()
                if one.name == metrics.SESSIONS
            }
            wanted = {
                (name, of): count for name, pod in self.pods.items() for of, count in pod.counts.items()
            }
            found.append(read)
            return wanted.items() <= sessions.items()

        until(there, "the counts of every pod")
        return found[-1]

    def hole(self, reason: str, **more: float) -> None:
        def said() -> bool:
            read = self.look(**more)
            return isinstance(read, NoData) and reason in read.reason

        until(said, reason)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    pods = {"s": Pod("stable"), "c": Pod("canary"), "d": Pod("canary")}

    class Metrics(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            pod = pods[self.path.strip("/")]
            body = pod.exposition().encode()
            self.send_response(500 if pod.down else 200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Metrics)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    port = free_port()

    def targets(jobs: dict[str, tuple[str, ...]]) -> None:
        for job in ("pods", "podmonitor"):
            rows = [
                {
                    "targets": [f"127.0.0.1:{server.server_port}"],
                    "labels": {
                        "namespace": "va",
                        "pod": name,
                        "track": pods[name].track,
                        "__metrics_path__": f"/{name}",
                    },
                }
                for name in jobs.get(job, ())
            ]
            draft = tmp_path / f"{job}.new"
            draft.write_text(json.dumps(rows))
            draft.replace(tmp_path / f"{job}.json")

    targets({"pods": tuple(pods)})
    jobs = "".join(
        f"\n- job_name: {job}\n  file_sd_configs: [{{files: [{tmp_path / job}.json]}}]"
        for job in ("pods", "podmonitor")
    )
    config = tmp_path / "prometheus.yaml"
    config.write_text(f"global: {{scrape_interval: 200ms, scrape_timeout: 150ms}}\nscrape_configs:{jobs}\n")
    process = subprocess.Popen(
        [
            tools.path("prometheus"), f"--config.file={config}", f"--storage.tsdb.path={tmp_path / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}", "--log.level=error",
        ]
    )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    try:
        until(lambda: _ready(url), "Prometheus")
        yield World(url, pods, targets)
    finally:
        process.kill()
        process.wait()
        server.shutdown()


def _ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/-/ready").is_success
    except httpx.HTTPError:
        return False


def test_sessions_are_counted_once_through_restarts_twofold_scrapes_and_holes(world: World) -> None:
    stable, canary = world.pods["s"], world.pods["c"]
    window: Window = metrics.begin(world.reads())
    stable.counts |= {"ok": 200}
    canary.counts |= {"ok": 90, "error": 8}
    window = metrics.advance(window, world.reads())
    assert window.sessions == Tally(canary_bad=8, canary=98, stable=200)

    # A restart: errors are as many as before, and yet others.
    canary.restart(ok=11, error=8)
    window = metrics.advance(window, world.reads())
    assert window.sessions == Tally(canary_bad=16, canary=117, stable=200)
    assert window.hole == "counters fell: c"

    # The same pods under a second job.
    world.targets({"pods": tuple(world.pods), "podmonitor": tuple(world.pods)})
    until(lambda: len(httpx.get(f"{world.url}/api/v1/query?query=up==1").json()["data"]["result"]) == 6)
    canary.counts["ok"] += 4
    window = metrics.advance(window, world.reads())
    assert window.sessions == Tally(canary_bad=16, canary=121, stable=200)

    # One target of two is lost, with the scrape that speaks.
    world.targets({"podmonitor": tuple(world.pods)})
    until(lambda: len(httpx.get(f"{world.url}/api/v1/query?query=up==1").json()["data"]["result"]) == 3)
    canary.counts["ok"] += 1
    window = metrics.advance(window, world.reads())
    assert window.sessions == Tally(canary_bad=16, canary=122, stable=200)

    # Both tracks count 2 s; neither's other bounds are the other's.
    assert metrics.frozen_threshold(window, 4.0, share=0.05) == 2.0
    assert metrics.frozen_threshold(window, 0.5, share=0.05) is None
    assert window.slow(0.5) is None


def test_each_doubt_is_a_hole(world: World) -> None:
    world.reads()
    world.pods["d"].histogram = False
    world.hole("no counters of d")
    world.pods["d"].histogram, world.pods["d"].counts = True, {}
    world.hole("no counters of d")
    world.pods["d"].counts = {"ok": 3}  # without the other outcome: what fails would count as nothing
    world.hole("no counters of d")
    world.pods["d"].counts = {"ok": 3, "error": float("nan")}  # type: ignore[dict-item]
    world.hole("a counter is nan")
    world.pods["d"].counts, world.pods["d"].down = {"ok": 3, "error": 0}, True
    world.hole("the last scrape failed: d")
    world.pods["d"].down = False
    until(lambda: isinstance(world.look(), Reading))
    world.hole("not scraped for 0 s", stale=0.0)
    world.targets({"pods": ("s", "c")})
    world.hole("not scraped yet: d")
    world.targets({})
    world.hole("scrapes no pod")
