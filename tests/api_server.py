"""A Kubernetes API server alone: real admission, roles and Leases, and nothing that runs a pod.

It can be killed and started again, and have the controllers that make pods of Deployments beside it.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import subprocess
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from waiting import until

from ci import tools
from ci.reporting import SilentReporter

TOKEN = "of-a-test"


@dataclass(frozen=True)
class Program:
    """A program that can be started again."""

    words: tuple[str | Path, ...]
    log: Path
    running: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self) -> None:
        """Have it running."""
        with self.log.open("a") as log:
            self.running.append(subprocess.Popen(list(self.words), stdout=log, stderr=log))

    def kill(self) -> None:
        """End it at once."""
        child = self.running.pop()
        child.kill()
        child.wait()

    def end(self) -> None:
        """End it in good order, if it runs."""
        while self.running:
            _end(self.running.pop())


@dataclass(frozen=True)
class ApiServer:
    """Where it is; the context `va-eastus` of `kubeconfig` is its administrator."""

    url: str
    kubeconfig: Path
    context: str = "va-eastus"
    program: Program = field(kw_only=True)

    def ready(self) -> bool:
        """Whether it answers."""
        return _ready(self.url)

    def kubectl(self, *words: str, check: bool = True, stdin: object = None) -> str:
        """What it prints; the end of a refusal too, where it is not checked."""
        given = yaml.safe_dump_all(stdin if isinstance(stdin, list) else [stdin]) if stdin else None
        done = subprocess.run(
            [tools.path("kubectl"), f"--kubeconfig={self.kubeconfig}", f"--context={self.context}", *words],
            input=given, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert not check or done.returncode == 0, done.stderr
        return done.stdout + ("" if done.returncode == 0 else done.stderr)


@contextlib.contextmanager
def api_server(folder: Path, *, controllers: str = "", more: Sequence[str] = ()) -> Iterator[ApiServer]:
    """One while this lasts, with the Gateway API's HTTPRoute, and with these controllers of Kubernetes.

    `more` are flags of the API server beside those that it needs.
    """
    needed = ["kube-apiserver", "kubectl", "etcd", "gateway-api"]
    needed += ["kube-controller-manager"] if controllers else []
    asyncio.run(tools.ensure(needed, SilentReporter()))
    etcd, peers, secure = (_free() for _ in range(3))
    (folder / "tokens.csv").write_text(f"{TOKEN},admin,admin,system:masters\n")
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    (folder / "sa.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    url = f"https://127.0.0.1:{secure}"
    (folder / "kubeconfig").write_text(
        yaml.safe_dump(_kubeconfig(url, folder / "certificates/apiserver.crt"))
    )
    programs: dict[str, Program] = {}
    with contextlib.ExitStack() as stack:
        for name, words in {
            "etcd": (
                f"--data-dir={folder / 'etcd'}",
                f"--listen-client-urls=http://127.0.0.1:{etcd}",
                f"--advertise-client-urls=http://127.0.0.1:{etcd}",
                f"--listen-peer-urls=http://127.0.0.1:{peers}",
                f"--initial-advertise-peer-urls=http://127.0.0.1:{peers}",
                f"--initial-cluster=default=http://127.0.0.1:{peers}",
                "--unsafe-no-fsync",
            ),
            "kube-apiserver": (
                f"--etcd-servers=http://127.0.0.1:{etcd}",
                "--bind-address=127.0.0.1",
                f"--secure-port={secure}",
                f"--cert-dir={folder / 'certificates'}",
                f"--token-auth-file={folder / 'tokens.csv'}",
                "--authorization-mode=RBAC",
                "--service-cluster-ip-range=10.222.0.0/24",
                "--service-account-issuer=https://kubernetes.default.svc",
                f"--service-account-key-file={folder / 'sa.key'}",
                f"--service-account-signing-key-file={folder / 'sa.key'}",
                # Nobody is there to make them.
                "--disable-admission-plugins=ServiceAccount",
                *more,
            ),
        }.items():
            programs[name] = Program((tools.path(name), *words), folder / f"{name}.log")
            programs[name].start()
            stack.callback(programs[name].end)
        server = ApiServer(url, folder / "kubeconfig", program=programs["kube-apiserver"])
        until(server.ready, "the API server does not come up", seconds=120, every=0.5)
        routes = tools.path("gateway-api") / "gateway.networking.k8s.io_httproutes.yaml"
        server.kubectl("create", "-f", str(routes))
        served = ("get", "--raw", "/apis/gateway.networking.k8s.io/v1")
        until(lambda: '"httproutes"' in server.kubectl(*served, check=False), seconds=60, every=0.5)
        if controllers:
            words = (
                f"--kubeconfig={server.kubeconfig}", f"--controllers={controllers}", "--leader-elect=false",
                "--secure-port=0", f"--cert-dir={folder / 'controllers'}",
            )  # fmt: skip
            manager = Program((tools.path("kube-controller-manager"), *words), folder / "controllers.log")
            manager.start()
            stack.callback(manager.end)
        yield server


def _kubeconfig(url: str, authority: Path) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": url, "certificate-authority": str(authority)}}],
        "users": [{"name": "u", "user": {"token": TOKEN}}],
        "contexts": [{"name": "va-eastus", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "va-eastus",
    }


def _ready(url: str) -> bool:
    trusting = ssl.create_default_context()
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    asked = urllib.request.Request(f"{url}/readyz", headers={"Authorization": f"Bearer {TOKEN}"})
    try:
        with urllib.request.urlopen(asked, context=trusting, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _free() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _end(child: subprocess.Popen[bytes]) -> None:
    child.terminate()
    try:
        child.wait(20)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
