"""Helm releases of a target, through pyhelm3 and the `helm` program. The only place that runs it.

pyhelm3's Command has the words; its Client asks for Helm's version each time it is made, and for a chart's
name each time that one is installed, both with a process of their own.

An upgrade is there with all pods ready, or it has failed, and Site has the revision before back. Helm's own
`--atomic` and `rollback` write old manifests as they were, with the fence of then (ci.delivery.fence), and
the cluster refuses them: going back is an upgrade with the chart and the values that Helm keeps. What is
installed is read from Helm's own Secrets, without it (ci.delivery.revisions). Charts are pulled by digest
from the target's registry and verified before Helm sees them.
"""

from __future__ import annotations

import asyncio
import base64
import fcntl
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from pyhelm3.command import Command
from pyhelm3.errors import Error as HelmError
from pyhelm3.errors import ReleaseNotFoundError

from ci import places, tools
from ci.delivery.fence import TAKEN_OVER
from ci.delivery.lease import LeaseLost
from ci.delivery.masked import masked
from ci.delivery.revisions import BACK, FENCE, Revision, Values
from ci.errors import BadInput, StepFailed, SystemUnavailable
from ci.registry import Registry, digest_of
from ci.release import Chart

__all__ = ["Helm", "changes", "pull_chart"]

CHART_LAYER = "application/vnd.cncf.helm.chart.content.v1.tar+gzip"
_CHARTS = "charts"
_OWN = str(Path(sys.executable).parent)
"""Where `va` is, which a kubeconfig may name as its plugin (ci.delivery.kubeconfig)."""
_DOWN = re.compile(
    r"kubernetes cluster unreachable|connection refused|no route to host|i/o timeout|etcdserver|"
    r"tls handshake timeout|context deadline exceeded.*(get|post) \"https",
    re.IGNORECASE,
)


class Helm:
    """Helm in one namespace of one cluster.

    Two processes never work on one namespace at once: while a `helm` of ours runs it holds a lock file, which
    it keeps when we are killed. Then the next run waits for it instead of working against it.
    """

    def __init__(self, *, kubeconfig: Path, context: str, namespace: str) -> None:
        self._namespace = namespace
        self._command = _Command(
            executable=str(tools.path("helm")),
            kubeconfig=kubeconfig,
            kubecontext=context,
            lock=places.state() / "locks" / f"helm-{context}-{namespace}.lock",
        )

    async def upgrade(
        self,
        name: str,
        chart: Path,
        values: Values,
        *,
        timeout: float,
        description: str,
        fence: int | None = None,
        hooks: bool = True,
    ) -> None:
        """Install or upgrade: returns when all pods are ready, within `timeout` seconds.

        StepFailed when the release does not get ready: it is left as it is then. LeaseLost when the cluster
        knows a newer fence.
        """
        given = dict(values) if fence is None else {**values, FENCE: fence}
        try:
            await self._command.install_or_upgrade(
                name,
                chart,
                given,
                wait=True,
                reset_values=True,
                cleanup_on_fail=True,
                create_namespace=False,
                no_hooks=not hooks,
                namespace=self._namespace,
                timeout=f"{timeout:.0f}s",
                description=description,
            )
        except HelmError as error:
            raise self._failed(error, f"{name} was not installed to {self._namespace}") from error

    async def rollback(self, kept: Revision, *, timeout: float, fence: int | None = None) -> None:
        """Make what that revision installed the current one again and wait until its pods are ready.

        Its hooks do not run again: what they had to make ready is there.
        """
        name, number = kept.name, kept.number
        if kept.chart:
            with tempfile.TemporaryDirectory(prefix="va-chart-") as folder:
                _write_chart(kept.chart, Path(folder))
                knows = FENCE in (kept.chart.get("values") or {})  # one of before refuses it
                await self.upgrade(
                    name,
                    Path(folder),
                    kept.values,
                    timeout=timeout,
                    description=f"{BACK} {number}",
                    fence=fence if knows else None,
                    hooks=False,
                )
            return
        try:
            await self._command.rollback(
                name,
                number,
                cleanup_on_fail=True,
                namespace=self._namespace,
                timeout=f"{timeout:.0f}s",
                wait=True,
            )
        except HelmError as error:
            raise self._failed(error, f"{name} did not go back to revision {number}") from error

    async def uninstall(self, name: str, *, timeout: float = 60.0) -> None:
        """Remove a release; fine when it is not there. Its pods end in their own time (running calls)."""
        try:
            await self._command.uninstall(
                name, namespace=self._namespace, timeout=f"{timeout:.0f}s", wait=False
            )
        except ReleaseNotFoundError:
            return
        except HelmError as error:
            raise self._failed(error, f"{name} was not removed") from error

    async def test(self, name: str, *, timeout: float) -> None:
        """Run the tests that the release's chart has (`helm test`); StepFailed when one fails."""
        try:
            await self._command.run(
                ["test", name, "--namespace", self._namespace, "--timeout", f"{timeout:.0f}s"]
            )
        except HelmError as error:
            raise self._failed(error, f"the tests of {name} did not pass") from error

    async def idle(self) -> None:
        """Return when no `helm` of ours is at work there: that of a run which was killed goes on."""
        os.close(await _locked(self._command.lock))

    def _failed(self, error: HelmError, what: str) -> SystemUnavailable | StepFailed | LeaseLost:
        said = error.stderr.decode(errors="replace").strip().removeprefix("Error: ")
        last = said.splitlines()[-1] if said else f"exit code {error.returncode}"
        if TAKEN_OVER in said:
            return LeaseLost(
                f"{what}: {TAKEN_OVER}", hint="run the same command again: it looks first, and goes on"
            )
        if _DOWN.search(said):
            return SystemUnavailable(
                f"{what}: the cluster does not answer ({last})",
                hint="va status says which part is down, va up starts it again; then run the same command",
            )
        return StepFailed(f"{what}: {last}", hint=f"kubectl -n {self._namespace} get pods,events shows more")


async def pull_chart(registry: Registry, chart: Chart) -> Path:
    """The chart's package, fetched by digest from that registry and kept in the cache.

    What lies in the cache is anybody's who may write there: its bytes are compared with the digest each time.
    """
    manifest = await registry.manifest(chart.name, chart.digest)
    layer = next((layer for layer in manifest.layers if layer.media_type == CHART_LAYER), None)
    if layer is None:
        raise BadInput(f"{registry.endpoint}/{chart.name}@{chart.digest} is not a Helm chart")
    kept = places.cache() / _CHARTS / f"{layer.digest.removeprefix('sha256:')}.tgz"
    if kept.is_file() and digest_of(kept.read_bytes()) == layer.digest:
        return kept
    content = await registry.blob(chart.name, layer)
    kept.parent.mkdir(parents=True, exist_ok=True)
    part = kept.with_suffix(f".{os.getpid()}.part")
    part.write_bytes(content)
    part.replace(kept)
    return kept


def _write_chart(chart: Mapping[str, Any], folder: Path) -> None:
    """The files of a chart that Helm keeps, as `helm` reads a folder (JSON is YAML)."""
    files = {
        "Chart.yaml": json.dumps(chart["metadata"]).encode(),
        "values.yaml": json.dumps(chart.get("values") or {}).encode(),
    }
    if schema := chart.get("schema"):
        files["values.schema.json"] = base64.b64decode(schema)
    for one in (*(chart.get("templates") or ()), *(chart.get("files") or ())):
        files[str(one["name"])] = base64.b64decode(one["data"] or "")
    for name, content in files.items():
        inside = PurePosixPath(name)
        if inside.is_absolute() or ".." in inside.parts:
            raise StepFailed(f"the chart that Helm keeps has a file {name!r}")
        path = folder / inside
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def changes(before: Values, after: Values) -> tuple[str, ...]:
    """What differs between two sets of values: `images.api.digest: sha256:… -> sha256:…`, one line each.

    Of a secret it is told that it differs.
    """
    return tuple(
        f"{path}: {_shown(masked(old, key=key))} -> {_shown(masked(new, key=key))}"
        for path, old, new in _differences(dict(before), dict(after), "")
        for key in [path.rpartition(".")[2]]
    )


def _differences(before: Any, after: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(before, dict) and isinstance(after, dict):
        for key in sorted(before.keys() | after.keys()):
            yield from _differences(before.get(key), after.get(key), f"{path}.{key}" if path else key)
    elif before != after:
        yield path, before, after


def _shown(value: Any) -> str:
    if isinstance(value, str):
        return value[:19] if value.startswith("sha256:") else value
    return "nothing" if value is None else json.dumps(value)


class _Command(Command):  # type: ignore[misc]  # pyhelm3 has no types
    """pyhelm3's command, run without a shell, out of reach of the terminal's Ctrl-C, and under a lock.

    Ctrl-C reaches our process alone, which then tells Helm to stop (SIGTERM) and waits until it has.
    The lock is inherited by the child: it outlives us with it.
    """

    def __init__(self, *, executable: str, kubeconfig: Path, kubecontext: str, lock: Path) -> None:
        super().__init__(executable=executable, kubeconfig=kubeconfig, kubecontext=kubecontext)
        self._access = ["--kubeconfig", str(kubeconfig), "--kube-context", kubecontext]
        self.lock = lock

    async def run(self, command: list[Any], input: bytes | None = None) -> bytes:
        """Run `helm` with these arguments; pyhelm3's errors for what went wrong."""
        words = [self._executable, *(str(part) for part in command), *self._access]
        held = await _locked(self.lock)
        try:
            child = await asyncio.create_subprocess_exec(
                *words,
                stdin=asyncio.subprocess.PIPE if input is not None else asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                start_new_session=True,
                pass_fds=(held,),
                env={**os.environ, "PATH": os.pathsep.join((_OWN, os.environ.get("PATH", os.defpath)))},
            )
        finally:
            os.close(held)  # from here on the child alone holds it
        try:
            stdout, stderr = await child.communicate(input)
        except asyncio.CancelledError:
            if child.returncode is None:
                child.terminate()
            await child.communicate()  # and not only wait: it may have more to say than a pipe holds
            raise
        if child.returncode == 0:
            return stdout
        said = stderr.decode(errors="replace").lower()
        kind = ReleaseNotFoundError if "release: not found" in said else HelmError
        raise kind(child.returncode, stdout, stderr)


async def _locked(path: Path) -> int:
    """A file descriptor that holds the lock; waits for a `helm` that is still at work there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    held = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        while True:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return held
            except BlockingIOError:
                await asyncio.sleep(0.1)
    except BaseException:
        os.close(held)
        raise
