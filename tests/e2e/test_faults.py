"""Faults of what a promotion stands on, with processes of `va promote` that are real, and killed.

API server, controllers, Helm, the chart, the fence and the ledgers are real; pods and their users stand in
(tests/small_cluster.py), and so does what proves a release. tests/e2e/test_promote.py has real pods.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from small_cluster import SmallCluster, small_cluster
from small_estate import va, write_environment, write_release
from waiting import until

from ci import places, tools
from ci.delivery import load
from ci.delivery.cluster import connect
from ci.delivery.ledger import Action, Entry, Kind, Ledger
from ci.delivery.ledger.sqlite import Sqlite
from ci.delivery.promotion.facts import Facts, look
from ci.reporting import SilentReporter

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

ROOT = places.checkout()
SEED = int(os.environ.get("VA_TEST_SEED") or random.randrange(10**6))
SILENT = float(os.environ.get("VA_TEST_SILENT_SECONDS") or 10)
"""Without Prometheus; docs/promotion.md says for how long it was tried by hand."""


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallCluster]:
    asyncio.run(tools.ensure(["helm"], SilentReporter()))
    with small_cluster(tmp_path_factory.mktemp("small")) as made:
        yield made


@dataclass
class Estate:
    """One environment with one target in a namespace of its own, on machines (state folders) of its own."""

    small: SmallCluster
    folder: Path
    namespace: str
    running: list[subprocess.Popen[str]] = field(default_factory=list)

    def write(self, *, install: str = "60s", deadline: str = "60s") -> None:
        kubeconfig, gateway = self.small.server.kubeconfig, self.small.gateway
        write_environment(
            self.folder / "environments",
            "e2e",
            kubeconfig,
            gateway,
            {"eastus": self.namespace},
            install=install,
            deadline=deadline,
        )

    def start(self, name: str, *, machine: str = "one") -> subprocess.Popen[str]:
        words, env = va(self.folder / "environments", self.folder / machine, "promote", name)
        write_release(self.folder / machine, name)
        child = subprocess.Popen(words, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.running.append(child)
        return child

    def promote(self, name: str, *, machine: str = "one") -> tuple[int, str]:
        """Exit code, and what was said."""
        child = self.start(name, machine=machine)
        said, _ = child.communicate(timeout=150)
        return child.returncode, said

    def facts(self) -> Facts:
        server = self.small.server
        return asyncio.run(look(connect(server.kubeconfig, server.context), self.namespace))

    def ledger(self, machine: str = "one") -> tuple[Entry, ...]:
        """All of it, whole."""

        async def read() -> tuple[Entry, ...]:
            store = Sqlite(self.folder / machine / "ledger" / "test" / "e2e.sqlite")
            try:
                assert await Ledger(store).verify() == ()
                return await Ledger(store).entries()
            finally:
                store.close()

        return asyncio.run(read())

    def runs(self, name: str) -> None:
        """That release is all there is, and has all the traffic."""
        facts = self.facts()
        assert facts.stable is not None and facts.stable.deployed
        assert (facts.runs, facts.canary, facts.on_stable) == (name, None, True)


@pytest.fixture
def estate(small: SmallCluster, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Estate]:
    """The good release is stable there."""
    small.nodes_down = small.pulls_fail = small.prometheus_down = False
    made = Estate(small, tmp_path, f"va-{abs(hash(request.node.name)) % 10**8}")
    made.write()
    code, said = made.promote("good")
    assert code == 0, said
    yield made
    for child in made.running:
        child.kill()
        child.wait()
    small.server.kubectl("delete", "namespace", made.namespace, "--wait=false")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Two mebibytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@contextlib.contextmanager
def users(estate: Estate) -> Iterator[load.Counts]:
    """People who know of no promotion."""
    counts: list[load.Counts] = []
    begun, over = threading.Event(), threading.Event()

    async def send() -> None:
        async with load.generate(
            estate.small.gateway, f"{estate.namespace}.voice.localhost", rate=10, timeout=30, concurrency=8
        ) as running:
            counts.append(running.counts)
            begun.set()
            await asyncio.to_thread(over.wait)

    thread = threading.Thread(target=lambda: asyncio.run(send()))
    thread.start()
    begun.wait(10)
    try:
        yield counts[0]
    finally:
        over.set()
        thread.join()


def once_each(entries: tuple[Entry, ...]) -> None:
    """What was done is not done again, however often the command is given."""
    often = (Action.MOVE, Action.REMOVE, Action.MEND)
    done = Counter(
        (one.promotion, one.action, one.weight, one.result)
        for one in entries
        if one.kind is Kind.OUTCOME
        and one.target
        and one.action not in often
        and one.result not in ("error", "interrupted", "stopped")
    )
    # A canary that Helm was killed in the middle of is made anew, and all of its steps are baked again.
    assert not [one for one, times in done.items() if times > 1 and one[1] is not Action.STEP], done


def helm_of(promoter: int) -> list[int]:
    """The processes that it has started."""
    children = Path(f"/proc/{promoter}/task/{promoter}/children")
    with contextlib.suppress(OSError):
        return [int(one) for one in children.read_text().split()]
    return []


def test_killed_at_random_moments_the_same_command_comes_to_its_end(estate: Estate) -> None:
    print(f"seed {SEED}: VA_TEST_SEED={SEED} does the same again")
    dice = random.Random(SEED)
    kills: list[str] = []
    with users(estate) as counts:
        for _ in range(6):
            child = estate.start("better")
            after, helm_too = dice.uniform(1.0, 9.0), dice.random() < 0.4
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(after)
            below = helm_of(child.pid) if helm_too else []
            if child.poll() is None:
                kills.append(f"after {after:.1f} s{' with its helm' if below else ''}")
            for pid in (child.pid, *below):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            child.communicate()
        print("killed", "; ".join(kills))
        code, said = estate.promote("better")
    assert code == 0, said
    estate.runs("better")
    once_each(estate.ledger())
    assert counts.sent > 100 and (counts.lost, counts.failed) == (0, 0), counts


def test_of_two_promoters_on_two_machines_one_is_refused_and_nothing_is_mixed(estate: Estate) -> None:
    estate.small.fails_every["bad"] = 2
    one, two = estate.start("better", machine="one"), estate.start("bad", machine="two")
    ends = {}
    for name, child in (("better", one), ("bad", two)):
        said, _ = child.communicate(timeout=150)
        ends[name] = (child.returncode, said)
    refused = [name for name, (code, _) in ends.items() if code == 8]
    assert len(refused) == 1, ends
    assert "is being worked on by" in ends[refused[0]][1]
    assert ends["better" if refused == ["bad"] else "bad"][0] == (0 if refused == ["bad"] else 4), ends
    estate.runs("better" if refused == ["bad"] else "good")

    assert estate.promote("bad", machine="two")[0] == 4
    code, said = estate.promote("better", machine="one")
    assert code == 0, said
    estate.runs("better")
    for machine in ("one", "two"):
        estate.ledger(machine)


def until_upgrading(estate: Estate) -> None:
    """Helm is at work on stable."""

    def at_work() -> bool:
        stable = estate.facts().stable
        return stable is not None and stable.status == "pending-upgrade"

    until(at_work, seconds=120)


def test_an_api_server_that_is_gone_in_the_middle_of_an_upgrade(estate: Estate) -> None:
    program = estate.small.server.program
    child = estate.start("better")
    until_upgrading(estate)
    program.kill()
    try:
        time.sleep(4)
    finally:
        program.start()
    until(estate.small.server.ready, seconds=60)
    said, _ = child.communicate(timeout=150)
    print(child.returncode, said)
    assert child.returncode in (0, 3, 6, 8), said
    assert "Traceback" not in said
    for _ in range(2):
        code, said = estate.promote("better")
        if code == 0:
            break
    assert code == 0, said
    estate.runs("better")
    once_each(estate.ledger())


def test_what_somebody_elses_helm_was_killed_in_the_middle_of_is_mended(estate: Estate) -> None:
    estate.write(install="6s")
    estate.small.nodes_down = True
    server = estate.small.server
    helm = subprocess.Popen(
        [tools.path("helm"), "upgrade", "voice", str(ROOT / "helm/voice-assistant"), "--wait",
         "--reuse-values", "--set", "release=somebodys", "--namespace", estate.namespace,
         f"--kubeconfig={server.kubeconfig}", f"--kube-context={server.context}"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    until_upgrading(estate)
    helm.kill()
    helm.communicate()
    estate.small.nodes_down = False
    code, said = estate.promote("better")
    assert code == 0, said
    assert "voice was left pending-upgrade: back at revision 1" in said
    estate.runs("better")


def test_without_prometheus_no_step_passes_and_it_goes_on_when_it_is_back(estate: Estate) -> None:
    estate.write(deadline=f"{SILENT + 60:.0f}s")
    child = estate.start("better")

    def baking() -> bool:
        return any(one.kind is Kind.INTENT and one.action is Action.STEP for one in estate.ledger())

    until(baking, seconds=60)
    estate.small.prometheus_down = True
    time.sleep(SILENT)
    steps = [one for one in estate.ledger() if one.action is Action.STEP and one.kind is Kind.OUTCOME]
    assert child.poll() is None and not steps
    estate.small.prometheus_down = False
    said, _ = child.communicate(timeout=150)
    assert child.returncode == 0, said
    assert "no data, so nothing is judged" in said and "it is away" in said
    assert "there is data again, after" in said
    estate.runs("better")


def test_a_full_disk_ends_it_before_it_acts_and_the_same_command_goes_on(
    estate: Estate, small_disk: Path
) -> None:
    """The ledger's disk is a small one: it is full when the canary has users."""
    shutil.copytree(estate.folder / "one", small_disk / "two")
    (estate.folder / "two").symlink_to(small_disk / "two")
    child = estate.start("better", machine="two")

    def baking() -> bool:
        entries = estate.ledger("two")
        return any(one.kind is Kind.INTENT and one.action is Action.STEP for one in entries)

    until(baking, seconds=60)
    filler = small_disk / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    said, _ = child.communicate(timeout=150)
    assert child.returncode == 6, said
    assert "Traceback" not in said and "is full" in said and "next:" in said, said
    facts = estate.facts()
    assert (facts.runs, facts.weight) == ("good", 0)
    filler.unlink()
    code, said = estate.promote("better", machine="two")
    assert code == 0, said
    estate.runs("better")
    estate.ledger("two")


def test_a_registry_that_is_gone_while_pods_start_leaves_what_ran(estate: Estate) -> None:
    estate.write(install="8s")
    estate.small.pulls_fail = True
    with users(estate) as counts:
        code, said = estate.promote("better")
        assert code == 3, said
        assert "ImagePullBackOff: the registry does not answer" in said
        estate.runs("good")
        estate.small.pulls_fail = False
        code, said = estate.promote("better")
    assert code == 0, said
    estate.runs("better")
    assert (counts.lost, counts.failed) == (0, 0)
