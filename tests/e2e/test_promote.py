"""Promotion on the embedded platform: real releases, cluster, gateway and Prometheus, and their faults.

An environment of its own (a namespace of each run's own) is used, so that what is promoted elsewhere stays.
Cluster, registry and Prometheus are reached through a proxy here, which a test can cut.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import yaml
from waiting import until

from ci import environments, platform, tools
from ci.delivery import load
from ci.delivery.cluster import Pod
from ci.delivery.findings import Verdict
from ci.delivery.results import Outcome, PromotionResult
from ci.delivery.site import open_site
from ci.errors import GateFailed, GateInconclusive, PolicyBlocked, StepFailed, SystemUnavailable
from ci.platform.instance import instance
from ci.platform.node import enter
from ci.release import Release
from ci.reporting import SilentReporter
from ci.supply.signing import KeyPair, key_signer
from pipelines import promote as flow
from pipelines import rollback as back

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

PLACE = platform.addresses()
STATE = os.environ.get("VA_STATE")
NAMESPACE = f"va-e2e-{os.getpid()}"
ENVIRONMENT = """\
extends: ../local.yaml
waves: [[eastus]]
targets:
  eastus:
    kubeconfig: {folder}/kubeconfig
    context: {context}
    namespace: {namespace}
    registry: {registry}
    metrics: http://127.0.0.1:{prometheus}
    gateway: {gateway}
    hostname: {namespace}.voice.localhost
canary:
  install: {install}
  steps:
    - {{weight: 30, bake: 3s}}
    - {{weight: 60, bake: 3s}}
gates:
  deadline: {deadline}
  on_inconclusive: hold
  # Not by stable's own quantile: where every session takes milliseconds, a hiccup of the machine is ten times
  # that, and the sessions that it meets are slow together.
  latency: {{threshold: 1s, against: objective, share: 0.05, margin: 1, harm: 2}}
# Late is not lost: a machine that stands still for some seconds loses nothing.
load: {{timeout: 30s}}
# The gateway has to have heard of a pod's end before it comes.
values: {{api: {{drainSeconds: 10}}, web: {{drainSeconds: 10}}}}
trust: {{signers: [{{key: {key}}}]}}
"""


def up() -> bool:
    try:
        return httpx.get(f"{PLACE.prometheus}/-/ready", timeout=30).is_success and PLACE.kubeconfig.is_file()
    except httpx.HTTPError:
        return False


if not up():
    pytest.skip("the embedded platform is not up: va up", allow_module_level=True)


class Proxy:
    """Passes TCP connections on until it is cut."""

    def __init__(self, host: str, port: int) -> None:
        self._to, self.cut = (host, port), False
        self._ready = threading.Event()
        self.port = 0
        threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True).start()
        self._ready.wait(10)

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await asyncio.Event().wait()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            if not self.cut:
                there_reader, there_writer = await asyncio.open_connection(*self._to)
                await asyncio.gather(self._copy(reader, there_writer), self._copy(there_reader, writer))
        writer.close()

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, TimeoutError):
            while not self.cut:
                with contextlib.suppress(TimeoutError):
                    data = await asyncio.wait_for(reader.read(2**16), 0.2)
                    if not data:
                        break
                    writer.write(data)
                    await writer.drain()
        writer.close()


@dataclass
class Estate:
    """The environment of these tests, and what a test may cut or change of it."""

    folder: Path
    cluster: Proxy
    prometheus: Proxy

    def write(self, *, deadline: str = "90s", registry: str = "", install: str = "2m") -> None:
        (self.folder / "environments" / "test").mkdir(parents=True, exist_ok=True)
        (self.folder / "environments" / "test" / "e2e.yaml").write_text(
            ENVIRONMENT.format(
                folder=self.folder,
                namespace=NAMESPACE,
                context=PLACE.context,
                registry=registry or PLACE.registries["eastus"],
                prometheus=self.prometheus.port,
                gateway=PLACE.gateway,
                deadline=deadline,
                install=install,
                key=KeyPair(folder=PLACE.signing).public,
            )
        )

    def read(self, estate: str = "test", through: str | None = None) -> tuple[environments.Environment, ...]:
        return environments.read_environments(estate, through, self.folder / "environments")

    def site(self):
        return open_site(self.read()[0], "eastus")


@pytest.fixture(scope="module")
def estate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Estate]:
    folder = tmp_path_factory.mktemp("estate")
    shutil.copytree(
        Path(__file__).parents[2] / "environments",
        folder / "environments",
        ignore=shutil.ignore_patterns("local", "azure", "architecture"),
    )
    kubeconfig = yaml.safe_load(PLACE.kubeconfig.read_text())
    made = None
    for cluster in kubeconfig["clusters"]:
        host, port = re.fullmatch(r"https://([^:/]+):(\d+)/?", cluster["cluster"]["server"]).groups()
        made = made or Proxy(host, int(port))
        cluster["cluster"] |= {"server": f"https://127.0.0.1:{made.port}", "tls-server-name": host}
    assert made is not None
    (folder / "kubeconfig").write_text(yaml.safe_dump(kubeconfig))
    estate = Estate(folder, made, Proxy("127.0.0.1", int(PLACE.prometheus.rpartition(":")[2])))
    estate.write()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VA_STATE", str(folder / "state"))
        patch.setattr(flow, "read_environments", estate.read)
        patch.setattr(back, "read_environment", lambda *_: estate.read()[0])
        yield estate
    kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found", "--wait=false")


@pytest.fixture(scope="module")
def releases(estate: Estate) -> dict[str, Release]:
    """Three releases of this checkout: the same image with a fault flag that does nothing, or 20 % errors.

    With five, one bad release of ten thousand passes these gates; with twenty, one of 10^14 at most.
    """
    from ci import engine
    from pipelines.registries import estate_registries
    from pipelines.ship import ship

    async def make() -> dict[str, Release]:
        made = {}
        for name, fault in (("good", None), ("better", 0.0), ("bad", 0.2)):
            async with (
                engine.session(SilentReporter()) as (client, engine_name),
                estate_registries("local") as registries,
            ):
                shipped = await ship(
                    client,
                    engine=engine_name,
                    registries=registries,
                    signer=key_signer(KeyPair(folder=PLACE.signing)),
                    reporter=SilentReporter(),
                    reports=estate.folder / "reports",
                    fault=fault,
                )
                made[name] = shipped.release
        return made

    return asyncio.run(make())


def kubectl(*arguments: str) -> str:
    done = subprocess.run(
        [tools.path("kubectl"), f"--kubeconfig={PLACE.kubeconfig}", f"--context={PLACE.context}", *arguments],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def weights() -> list[int]:
    route = json.loads(kubectl("-n", NAMESPACE, "get", "httproute", "voice", "-o", "json"))
    return [backend["weight"] for backend in route["spec"]["rules"][0]["backendRefs"]]


def pods(estate: Estate, track: str) -> list[Pod]:
    async def ask() -> list[Pod]:
        async with estate.site() as site:
            return [pod for pod in await site.pods() if pod.track == track and not pod.leaving]

    return asyncio.run(ask())


def until_only(release: Release, estate: Estate) -> None:
    """Wait until stable's pods are this release's alone: those of the one before end a moment later."""
    until(lambda: {pod.release for pod in pods(estate, "stable") if pod.ready} == {release.name})


def until_no_canary(estate: Estate) -> None:
    """Wait until the canary's pods are told to end, which is a moment after their Deployment is gone."""
    until(lambda: not pods(estate, "canary"))


def promote(release: Release) -> PromotionResult:
    return asyncio.run(flow.promote(release, "test", reporter=SilentReporter()))


@pytest.fixture
def stable(estate: Estate, releases: dict[str, Release]) -> Release:
    """The good release is stable, no canary is there, nothing is cut."""
    estate.cluster.cut = estate.prometheus.cut = False
    estate.write()

    async def ready() -> None:
        async with estate.site() as site:
            if await site.running("canary"):
                await back.rollback("test", "e2e", canary_only=True, reporter=SilentReporter())
            now = await site.running("stable")
            if now is not None and now.release != releases["good"].name:
                await back.rollback("test", "e2e", to=releases["good"].name, reporter=SilentReporter())

    asyncio.run(ready())
    assert promote(releases["good"]).targets[0].outcome in (Outcome.INSTALLED, Outcome.CACHED)
    return releases["good"]


def test_a_good_release_is_promoted_and_no_request_is_lost(stable: Release, estate: Estate, releases) -> None:
    result = promote(releases["better"])

    (target,) = result.targets
    assert (target.outcome, target.previous) == (Outcome.PROMOTED, stable.name)
    assert [(step.weight, step.verdict) for step in target.steps] == [(30, Verdict.PASS), (60, Verdict.PASS)]
    assert target.requests is not None and target.requests.sent > 500
    assert (target.requests.lost, target.requests.failed) == (0, 0)
    until_only(releases["better"], estate)
    assert weights() == [100]
    tested = json.loads(kubectl("-n", NAMESPACE, "get", "pod", "voice-test", "-o", "json"))
    assert tested["status"]["phase"] == "Succeeded"  # `helm test`, of the release's own image
    (api,) = (one for one in releases["better"].images if one.name == "fastapi-backend")
    assert tested["spec"]["containers"][0]["image"].endswith(api.digest)
    assert promote(releases["better"]).targets[0].outcome is Outcome.CACHED


def test_a_bad_release_is_caught_and_the_roll_back_loses_nothing(
    stable: Release, estate: Estate, releases
) -> None:
    result = promote(releases["bad"])

    (target,) = result.targets
    assert isinstance(result.error, GateFailed) and "errors fail, E" in str(result.error)
    assert target.moving is not None and target.moving.sent > 50
    assert (target.moving.lost, target.requests.lost if target.requests else None) == (0, 0)
    assert weights() == [100]
    until_only(stable, estate)


def test_roll_back_returns_to_the_release_before(stable: Release, estate: Estate, releases) -> None:
    promote(releases["better"])

    result = asyncio.run(back.rollback("test", "e2e/eastus", reporter=SilentReporter()))

    assert result.targets[0].reason == f"rolled back from {releases['better'].name} to {stable.name}"
    until_only(stable, estate)


CHILD = """\
import asyncio, sys
from pathlib import Path
from ci import environments
from ci.release import read_release
from ci.reporting import console_reporter
from pipelines import promote as flow
root = Path(sys.argv[1])
flow.read_environments = lambda estate, through=None: environments.read_environments(estate, through, root)
asyncio.run(flow.promote(read_release(Path(sys.argv[2])), "test", reporter=console_reporter()))
"""


@contextlib.asynccontextmanager
async def another_process(
    estate: Estate, release: Release
) -> AsyncIterator[tuple[asyncio.subprocess.Process, Callable]]:
    """A promotion in a process of its own, and a way to wait for a line that it prints."""
    file = estate.folder / f"{release.name}.json"
    file.write_text(release.model_dump_json())
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CHILD, str(estate.folder / "environments"), str(file),
        stderr=asyncio.subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip

    async def line(text: str) -> None:
        assert child.stderr is not None
        seen = b""
        while text.encode() not in seen:
            seen = await asyncio.wait_for(child.stderr.readline(), 120)
            assert seen, f"it ended without saying {text!r}"

    try:
        yield child, line
    finally:
        if child.returncode is None:
            child.kill()
        await child.wait()


STOPS = [
    (signal.SIGINT, "install the canary", 4.0),
    (signal.SIGINT, "60 % to the canary", 0.5),
    (signal.SIGKILL, "30 % to the canary", 2.0),
    (signal.SIGKILL, "60 % to the canary", 0.5),
]
"""With what, which step had just ended (after 60 % stable is upgraded), how many seconds into the next."""


@pytest.mark.parametrize(("number", "ended", "later"), STOPS, ids=[f"{n.name}, {s}" for n, s, _ in STOPS])
def test_stopped_in_the_middle_the_same_command_goes_on(
    stable: Release, estate: Estate, releases, number: signal.Signals, ended: str, later: float
) -> None:
    async def stop() -> None:
        async with another_process(estate, releases["better"]) as (child, line):
            await line(f"✓ e2e/eastus: {ended}")
            await asyncio.sleep(later)
            child.send_signal(number)
            await asyncio.wait_for(child.communicate(), 120)

    asyncio.run(stop())
    if number is signal.SIGINT:
        assert weights() == [100]

    result = promote(releases["better"])

    assert [target.outcome for target in result.targets] in ([Outcome.PROMOTED], [Outcome.CACHED])
    assert result.targets[0].requests is None or result.targets[0].requests.lost == 0
    assert weights() == [100]
    until_no_canary(estate)
    until_only(releases["better"], estate)


def cut_when_baking(proxy: Proxy, release: Release, estate: Estate) -> PromotionResult:
    """Promote, and cut the proxy as soon as the canary gets traffic."""

    def cut() -> None:
        for _ in range(1200):
            with contextlib.suppress(subprocess.CalledProcessError):
                if weights() == [70, 30]:
                    break
            time.sleep(0.1)
        proxy.cut = True

    thread = threading.Thread(target=cut)
    thread.start()
    try:
        return promote(release)
    finally:
        proxy.cut = True
        thread.join()


def test_a_silent_prometheus_is_inconclusive_and_never_a_pass(
    stable: Release, estate: Estate, releases
) -> None:
    estate.write(deadline="20s")

    result = cut_when_baking(estate.prometheus, releases["better"], estate)

    assert isinstance(result.error, GateInconclusive)
    assert result.targets[0].outcome is Outcome.HELD
    assert weights() == [100]
    assert pods(estate, "canary")  # it waits for the next run

    estate.prometheus.cut = False
    estate.write()
    assert promote(releases["better"]).targets[0].outcome is Outcome.PROMOTED


def test_a_cluster_that_goes_away_is_said_so_and_the_same_command_goes_on(
    stable: Release, estate: Estate, releases
) -> None:
    estate.write(deadline="15s")

    with pytest.raises(SystemUnavailable, match="does not answer"):
        cut_when_baking(estate.cluster, releases["better"], estate)

    with pytest.raises(SystemUnavailable, match="the cluster va-eastus does not answer"):
        promote(releases["better"])
    estate.cluster.cut = False
    estate.write()
    assert promote(releases["better"]).targets[0].outcome is Outcome.PROMOTED
    assert weights() == [100]


def test_a_registry_that_is_down_touches_nothing(stable: Release, estate: Estate, releases) -> None:
    estate.write(registry="127.0.0.1:9")
    until_no_canary(estate)  # of the test before

    with pytest.raises(SystemUnavailable, match=r"the registry 127\.0\.0\.1:9 did not answer"):
        promote(releases["better"])
    assert not pods(estate, "canary")


@contextlib.contextmanager
def the_platform() -> Iterator[None]:
    """Its own state folder, not that of the machine which promotes here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("VA_STATE") if STATE is None else patch.setenv("VA_STATE", STATE)
        yield


def on_no_node(images: set[str]) -> None:
    """Take these digests out of the node's store: whoever wants them has to ask a registry."""
    with the_platform():
        place = instance()
        ctr = [*enter(place, place.cluster), "ctr", "--namespace", "k8s.io", "images"]
    there = subprocess.run([*ctr, "list", "--quiet"], capture_output=True, text=True, check=True).stdout
    gone = [one for one in there.split() if one.rpartition("@")[2] in images]
    if gone:
        subprocess.run([*ctr, "remove", *gone], check=True, capture_output=True)


@contextlib.contextmanager
def no_pod_starts() -> Iterator[None]:
    """On the one node there is, while the block runs."""
    node = kubectl("get", "nodes", "-o", "name").strip()
    kubectl("cordon", node)
    try:
        yield
    finally:
        kubectl("uncordon", node)


def test_a_replica_that_is_lost_while_pods_start_leaves_what_ran_until_it_is_back(
    stable: Release, estate: Estate, releases
) -> None:
    """Killed, at both of its ends, once all of the release was found there: its pods have nowhere to go."""
    kept = {image.digest for image in releases["good"].images}
    on_no_node({image.digest for image in releases["better"].images} - kept)
    estate.write(install="25s")

    async def run() -> tuple[str, load.Counts]:
        async with users(estate) as running:
            with no_pod_starts():
                promotion = asyncio.create_task(asyncio.to_thread(promote, releases["better"]))
                await asyncio.to_thread(until, lambda: pods(estate, "canary"), seconds=60)
                with the_platform():
                    there = {part.name: part.pid for part in await platform.status()}
                for name in ("registry eastus for nodes", "registry eastus"):
                    os.kill(there[name], signal.SIGKILL)
            with pytest.raises(StepFailed) as failed:
                await promotion
            return str(failed.value), running.counts

    try:
        said, counts = asyncio.run(run())
        assert "ImagePull" in said and "connection refused" in said, said
        assert weights() == [100]
        until_no_canary(estate)
        until_only(stable, estate)
        assert counts.sent > 100 and (counts.lost, counts.failed) == (0, 0)
        with pytest.raises(SystemUnavailable, match="did not answer"):
            promote(releases["better"])  # it does not begin
    finally:
        with the_platform():
            asyncio.run(platform.up(SilentReporter()))
    estate.write()
    assert promote(releases["better"]).targets[0].outcome is Outcome.PROMOTED
    until_only(releases["better"], estate)


def record() -> dict[str, str]:
    with contextlib.suppress(subprocess.CalledProcessError):
        found = json.loads(kubectl("-n", NAMESPACE, "get", "configmap", "va-guard", "-o", "json"))
        return dict(found.get("data") or {})
    return {}


def seconds_until_on_stable(since: float) -> float:
    until(lambda: weights() == [100], seconds=60, every=0.2)
    return time.monotonic() - since


@contextlib.asynccontextmanager
async def users(estate: Estate) -> AsyncIterator[load.Load]:
    async with estate.site() as site:
        target = site.target
        async with load.generate(
            target.gateway, target.hostname, rate=20, timeout=30, concurrency=12
        ) as running:
            yield running


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=lambda one: one.name)
def test_a_promoter_that_is_gone_leaves_nobody_on_the_canary(
    stable: Release, estate: Estate, releases, number: signal.Signals
) -> None:
    before = record()

    async def run() -> tuple[float, load.Counts, str]:
        async with users(estate) as running, another_process(estate, releases["better"]) as (child, line):
            await line("✓ e2e/eastus: 30 % to the canary")
            assert weights()[0] < 100
            at = time.monotonic()
            child.send_signal(number)
            took = await asyncio.to_thread(seconds_until_on_stable, at)
            # The gateway follows a moment later; users go on.
            await asyncio.sleep(3)
            said = ""
            if number is signal.SIGSTOP:
                route = kubectl("-n", NAMESPACE, "get", "httproute", "voice", "-o", "json")
                child.send_signal(signal.SIGCONT)
                _, err = await asyncio.wait_for(child.communicate(), 60)
                said = err.decode()
                written = json.loads(kubectl("-n", NAMESPACE, "get", "httproute", "voice", "-o", "json"))
                assert written["spec"] == json.loads(route)["spec"]
        return took, running.counts, said

    took, counts, said = asyncio.run(run())
    print(f"{number.name}: all traffic on stable after {took:.1f} s, {counts}")
    assert took < 20
    assert counts.sent > 100 and (counts.lost, counts.failed) == (0, 0)
    until(lambda: record() not in ({}, before), seconds=10)
    assert "has not renewed its lease" in record()["why"] and record()["release"] == releases["better"].name
    if number is signal.SIGSTOP:
        assert "is not ours any more" in said

    result = promote(releases["better"])
    assert [target.outcome for target in result.targets] == [Outcome.PROMOTED]
    assert weights() == [100]
    until_no_canary(estate)


def test_a_canary_without_a_ready_pod_gives_its_traffic_back(
    stable: Release, estate: Estate, releases
) -> None:
    async def run() -> float:
        async with another_process(estate, releases["better"]) as (child, line):
            await line("✓ e2e/eastus: install the canary")
            until(lambda: weights()[0] < 100)
            at = time.monotonic()
            child.send_signal(signal.SIGSTOP)  # it looks too, and would be the first
            kubectl("-n", NAMESPACE, "scale", "deployment", "voice-canary-api", "--replicas=0")
            took = await asyncio.to_thread(seconds_until_on_stable, at)
            child.send_signal(signal.SIGCONT)
            child.send_signal(signal.SIGINT)
            await asyncio.wait_for(child.communicate(), 120)
            return took

    took = asyncio.run(run())
    print(f"no ready pod: all traffic on stable after {took:.1f} s")
    assert took < 20 and "voice-canary-api" in record()["why"]


def test_a_second_promoter_is_told_who_is_at_work(
    stable: Release, estate: Estate, releases, tmp_path
) -> None:
    async def run() -> str:
        async with another_process(estate, releases["better"]) as (child, line):
            await line("✓ e2e/eastus: install the canary")
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("VA_STATE", str(tmp_path / "another-machine"))
                with pytest.raises(PolicyBlocked) as error:
                    await asyncio.to_thread(promote, releases["bad"])
            child.send_signal(signal.SIGINT)
            await asyncio.wait_for(child.communicate(), 120)
            return str(error.value)

    said = asyncio.run(run())
    assert f"{NAMESPACE} is being worked on by" in said and "since" in said
    assert weights() == [100]
