"""A session to run pipelines in: a real Dagger engine where there is one, else the embedded engine."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

from ci import errors
from ci.engine.engine import LogLine
from ci.engine.sdk import dagger
from ci.engine.server import embedded
from ci.errors import PipelineError, StepFailed, SystemUnavailable
from ci.reporting import Reporter

__all__ = ["explained", "session", "uses_real_engine"]

_RUNTIMES = ("docker", "podman", "nerdctl")


def uses_real_engine() -> bool:
    """Whether sessions are of a real Dagger engine: under `dagger run`, or with its CLI and a runtime."""
    if os.environ.get("DAGGER_SESSION_PORT"):
        return True
    runtime = os.environ.get("_EXPERIMENTAL_DAGGER_RUNNER_HOST") or any(map(shutil.which, _RUNTIMES))
    return bool(shutil.which("dagger") and runtime and os.environ.get("VA_ENGINE") != "embedded")


@contextlib.asynccontextmanager
async def session(
    reporter: Reporter,
    log: Callable[[LogLine], None] | None = None,
    *,
    workdir: Path | None = None,
) -> AsyncIterator[tuple[dagger.Client, str]]:
    """A Dagger client, and the name of the engine behind it: `embedded`, or `dagger v0.20.0`.

    The real engine is used when DAGGER_SESSION_PORT is set (`dagger run …`), or when the dagger CLI and a
    container runtime are on PATH, unless VA_ENGINE is `embedded`. `log` gets each line that commands print,
    in the embedded session. Errors of the SDK that leave the block are raised as ours: StepFailed for a
    command that failed.
    """
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(_explaining())
        if uses_real_engine():
            cli = None if os.environ.get("DAGGER_SESSION_PORT") else shutil.which("dagger")
            how = {"_EXPERIMENTAL_DAGGER_CLI_BIN": cli} if cli else {}
            client = await stack.enter_async_context(_connection(**how))
        else:
            address = await stack.enter_async_context(embedded(reporter, log, workdir=workdir))
            client = await stack.enter_async_context(
                _connection(DAGGER_SESSION_PORT=str(address.port), DAGGER_SESSION_TOKEN=address.token)
            )
            yield client, "embedded"
            return
        yield client, f"dagger {await client.version()}"


@contextlib.asynccontextmanager
async def _connection(**environ: str) -> AsyncIterator[dagger.Client]:
    """The SDK's own connection. It reads where to connect from the environment, so that is set for a
    moment."""
    config = dagger.Config(retry=dagger.Retry(execute=False))
    connection = dagger.Connection(config)
    before = {name: os.environ.get(name) for name in environ}
    os.environ.update(environ)
    try:
        client = await connection.__aenter__()
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
    try:
        yield client
    finally:
        await connection.aclose()


@contextlib.contextmanager
def _explaining() -> Iterator[None]:
    try:
        yield
    except dagger.DaggerError as error:
        raise explained(error) from error
    except ExceptionGroup as group:
        found: Exception = group
        while isinstance(found, ExceptionGroup) and found.exceptions:
            found = found.exceptions[0]
        if isinstance(found, dagger.DaggerError):
            raise explained(found) from group
        raise


def explained(error: dagger.DaggerError) -> PipelineError:
    """An error of the SDK as one of ours, with the last lines that the command printed."""
    if isinstance(error, dagger.ExecError):
        said = (error.stderr.strip() or error.stdout.strip()).splitlines()[-20:]
        return StepFailed("\n".join([str(error), *said]))
    if isinstance(error, dagger.QueryError):
        extensions = error.error.extensions or {}
        kind = getattr(errors, str(extensions.get("kind")), None)
        if isinstance(kind, type) and issubclass(kind, PipelineError):
            return kind(str(error), hint=str(extensions.get("hint") or ""))
        return StepFailed(str(error))
    return SystemUnavailable(
        f"the Dagger session: {error}", hint="VA_ENGINE=embedded runs the pipeline without a Dagger engine"
    )
