"""docker-registry processes of a test's own, and the replicator between them."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx
import yaml

from ci.platform.registry import configuration

__all__ = ["Replicator", "free_port", "registry_on"]


_TOKEN = "a-test's-own"
"""What the home registry and a test show the replicator."""
_PORTS = range(20_000, 30_000)
"""Below those that the kernel gives to outgoing connections: none takes a port before it is listened on, nor
while the registry that had it is stopped. Above those of every platform's instance."""


def free_port() -> int:
    """A port of 127.0.0.1 on which nobody listens."""
    while True:
        port = secrets.choice(_PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


@contextlib.contextmanager
def registry_on(folder: Path, port: int, *, notify: str = "") -> Iterator[str]:
    """A registry as the platform configures it; its content stays in `folder` when it ends (it is killed)."""
    config = folder.parent / f"registry-{port}.yaml"
    config.parent.mkdir(parents=True, exist_ok=True)
    settings = configuration(
        f"127.0.0.1:{port}", str(folder), pull_only=False, notify=notify, token=_TOKEN if notify else ""
    )
    config.write_text(yaml.safe_dump(settings))
    with _running(["docker-registry", "serve", str(config)], f"http://127.0.0.1:{port}/v2/"):
        yield f"127.0.0.1:{port}"


@dataclass(frozen=True)
class Replicator:
    """The platform's replicator on a port of its own, told by the home registry."""

    folder: Path
    port: int
    home: str
    replicas: Mapping[str, str]

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @contextlib.contextmanager
    def running(self, *, reconcile_every: float = 1000.0) -> Iterator[None]:
        """Its process, until the block ends; then it is killed."""
        config = self.folder / "replicator.json"
        said = {"port": self.port, "home": self.home, "replicas": dict(self.replicas), "token": _TOKEN}
        config.write_text(json.dumps({**said, "reconcile_every": reconcile_every}))
        words = [sys.executable, "-m", "ci.platform.replicator", str(config)]
        with _running(words, f"{self.address}/faults"):
            yield

    def set(self, region: str, **faults: object) -> None:
        shown = {"Authorization": f"Bearer {_TOKEN}"}
        httpx.put(
            f"{self.address}/faults/{region}", json=faults, headers=shown, timeout=30
        ).raise_for_status()


@contextlib.contextmanager
def _running(words: list[str], url: str) -> Iterator[None]:
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    child = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env)
    try:
        deadline = time.monotonic() + 60
        while not _answers(url):
            assert child.poll() is None, f"{words} ended"
            assert time.monotonic() < deadline, f"{words} does not answer"
            time.sleep(0.02)
        yield
    finally:
        child.kill()
        child.wait()


def _answers(url: str) -> bool:
    try:
        httpx.get(url)
    except httpx.TransportError:
        return False
    return True
