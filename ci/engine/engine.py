"""The embedded engine of one session: it turns chains of calls into values, each chain once.

Whatever a chain needs is evaluated first and independent branches run at the same time. Requests for the same
step share one evaluation, which is cancelled when the last of them is. What a step made on disk is found
again by its key, so that a warm chain starts no process at all.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from ci.engine.boundary import Boundary
from ci.engine.chain import ITEM, Call
from ci.engine.masking import Masker, Secrets
from ci.engine.store import Store, digest_of, full_disk_is_told
from ci.engine.tree import Layer, Tree
from ci.engine.waiting import Spare
from ci.errors import BadInput

if TYPE_CHECKING:
    from ci.engine.network import Plug
    from ci.engine.run import Printed
    from ci.engine.values import Container, Service
    from ci.reporting import Reporter

__all__ = ["EPOCH", "Engine", "ExecFailed", "LogLine", "NotSupported", "Services", "answer", "answers"]

EPOCH = 315532800
"""1980-01-01 UTC, the time stamp of all that the engine puts into images unless SOURCE_DATE_EPOCH says
another: the earliest that zip archives can hold. One for every commit, so that what did not change keeps its
digest."""

_TOLD = 100 * 1024
"""How many bytes an error tells of what a command printed, as a Dagger engine does."""

T = TypeVar("T")


@dataclass(frozen=True)
class LogLine:
    """A line that a running command printed, masked, and the step that it belongs to."""

    step: str
    text: str


class NotSupported(BadInput):
    """The embedded session does not answer this."""

    def __init__(self, what: str, instead: str = "") -> None:
        nearest = f"instead: {instead}, or " if instead else ""
        super().__init__(
            f"not supported by the embedded session: {what}; {nearest}run it on a Dagger engine",
            hint="`dagger run` in front of the same command uses a Dagger engine",
        )


class ExecFailed(Exception):
    """A command ended otherwise than expected; the extensions are the API's EXEC_ERROR. All is masked."""

    def __init__(self, message: str, *, cmd: list[str], code: int, stdout: Printed, stderr: Printed) -> None:
        super().__init__(message)
        self.extensions = {
            "_type": "EXEC_ERROR",
            "cmd": cmd,
            "exitCode": code,
            "stdout": stdout.last(_TOLD).strip(),
            "stderr": stderr.last(_TOLD).strip(),
        }


class Started(Protocol):
    """A service that runs: its network."""

    @property
    def plug(self) -> Plug: ...


class Services(Protocol):
    """The services of a session, as its commands need them; whoever makes the engine hands them in."""

    async def start(self, service: Service) -> Started:
        """The service, running and accepting connections on its exposed ports."""
        ...

    async def open(self, service: Service) -> None:
        """Start it for all commands of the session: they reach it by its hostname."""
        ...

    async def reached(self, service: Service, port: int) -> int:
        """The port of this machine's loopback by which the session reaches one of the service, which is
        started."""
        ...

    async def opened(self, service: Service) -> Sequence[int]:
        """The ports of this machine's loopback that a tunnel has, which is opened."""
        ...

    async def ended(self, service: Service) -> None:
        """Wait until a service that was started has ended."""
        ...

    async def bound(self, container: Container) -> Sequence[Started]:
        """Start all services that a container's commands may call."""
        ...

    def hosts(self, container: Container, hostname: str) -> bytes:
        """The /etc/hosts of a container: itself, and its services by alias and hostname."""
        ...

    async def stop(self, service: Service, *, kill: bool) -> None:
        """End a service; nothing happens when it does not run."""
        ...

    async def close(self) -> None:
        """End all of them."""
        ...


class Engine:
    """What one session holds: the store, its secrets, its running services, and the values of its chains."""

    def __init__(
        self,
        store: Store,
        reporter: Reporter,
        *,
        services: Callable[[Engine], Services],
        log: Callable[[LogLine], None] | None = None,
        workdir: Path | None = None,
        epoch: int | None = None,
        parallel: int | None = None,
    ) -> None:
        self.store = store
        self.reporter = reporter
        self._log = log
        self.workdir = (workdir or Path.cwd()).resolve()
        self.epoch = int(os.environ.get("SOURCE_DATE_EPOCH") or EPOCH) if epoch is None else epoch
        self.masker = Masker()
        self.secrets = Secrets(store.secret_key(), self.masker)
        self.auth: dict[str, tuple[str, str]] = {}
        slots = parallel or max(4, 2 * (os.cpu_count() or 1))
        self.slots = asyncio.Semaphore(slots)
        """Commands that run at once."""
        self.seats = asyncio.Semaphore(2 * slots)
        """Those that run, are made ready for it, or are put away."""
        self.volume_locks: dict[str, asyncio.Lock] = {}
        self._own: set[str] = set()
        self._trees = lru_cache(64)(
            lambda layers: Tree([store.layers / layer for layer in layers], store.names)
        )
        self.services = services(self)
        self._shared = _Shared()
        self._boundary: Boundary | None = None
        self._spare: Spare | None = None

    def tell(self, step: str, lines: str) -> None:
        """Tell whoever wants to know lines that a step printed, masked, without the end of the last one."""
        if self._log:
            for line in lines.split("\n"):
                self._log(LogLine(step, line.rstrip("\r")))

    async def close(self) -> None:
        """End everything that still runs."""
        await self._shared.close()
        await self.services.close()
        if self._spare:
            await self._spare.close()
        if self._boundary:
            await self._boundary.close()

    async def spare(self) -> Spare:
        """Where steps get what starts them."""
        boundary = await self.boundary()
        self._spare = self._spare or Spare(boundary)
        return self._spare

    async def boundary(self) -> Boundary:
        """What stands between steps and this machine; what it lacks is told once."""

        async def make() -> Boundary:
            found = self._boundary = await Boundary.of(self.store.root)
            for gap in found.gaps:
                self.reporter.note(f"not protected: {gap}")
            return found

        return await self.once("boundary", make)

    async def value(self, call: Call) -> Any:
        """The value of a chain's object."""
        return await self._shared.get(call.digest, lambda: self.answered(call))

    async def answered(self, call: Call) -> Any:
        """What a call gives, asked anew."""
        if (number := call.args.get(ITEM)) is not None:  # one of the objects of a list
            return (await self.value(call.of_list()))[number]
        parent = await self.value(call.parent) if call.parent else None
        try:
            return await answers[call.name](self, parent, call)
        except UnicodeEncodeError as error:
            what = error.object[error.start : error.end]
            raise BadInput(f"{call.field}: {what!r} is no character of a text") from error
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:
                raise
            raise BadInput(
                f"{call.field}: a path is too long: a name has at most 255 bytes, a path some 4000"
            ) from error

    async def once(self, key: Hashable, make: Callable[[], Awaitable[T]]) -> T:
        """Run `make` once for all who ask for the key while the session lasts; failures are not kept."""
        return await self._shared.get(key, make)

    def tree(self, layers: tuple[str, ...]) -> Tree:
        """What those layers show."""
        return self._trees(layers)

    async def layered(
        self, base: tuple[str, ...], what: tuple[Any, ...], write: Callable[[Layer], None]
    ) -> tuple[str, ...]:
        """`base` with one layer more, that `write` makes; `what` says all that the layer depends on."""
        key = digest_of("layer", what, base)

        def make() -> tuple[str, ...]:
            known = self.store.result(key)
            if known is None:
                with full_disk_is_told(self.store.root), self.store.work("layer") as folder:
                    layer = Layer(self.tree(base), folder)
                    layer.folder("")
                    write(layer)
                    made = self.store.add_layer(folder, key)
                known = self.store.keep(key, {"layers": [*base, made]})
            return tuple(known["layers"])

        return await self.once(key, lambda: asyncio.to_thread(make))

    def vouch(self, made: tuple[str, ...], *of: tuple[str, ...]) -> tuple[str, ...]:
        """Note that nothing but the pipeline's text, this machine's files and what those layers hold is in
        the ones made."""
        if all(map(self.is_own, of)):
            self._own.update(made)
        return made

    def is_own(self, layers: tuple[str, ...]) -> bool:
        """Whether no step, image, repository or download had a part in them, as far as this session saw."""
        return self._own.issuperset(layers)

    async def remembered(self, key: tuple[Any, ...], needs: tuple[str, ...], make: Callable[[], Any]) -> Any:
        """A fact about layers, which never change: computed once, then read from the index."""
        name = digest_of("fact", key, needs)

        def compute() -> Any:
            known = self.store.result(name)
            if known is None:
                known = self.store.keep(name, {"fact": make(), "layers": list(needs)})
            return known["fact"]

        return await self.once(name, lambda: asyncio.to_thread(compute))


@dataclass
class _Sharing:
    task: asyncio.Task[Any]
    waiting: int = 0


@dataclass
class _Shared:
    """Evaluations by key: those under way, and the results of those that went well."""

    _known: dict[Hashable, _Sharing] = field(default_factory=dict)
    _ending: set[asyncio.Task[Any]] = field(default_factory=set)
    """Cancelled ones that still clean up: waited for at the end, and not cancelled again."""

    async def get(self, key: Hashable, make: Callable[[], Awaitable[T]]) -> T:
        sharing = self._known.get(key)
        if sharing is None:
            sharing = self._known[key] = _Sharing(asyncio.ensure_future(make()))
        sharing.waiting += 1
        try:
            result: T = await asyncio.shield(sharing.task)
        except BaseException:
            if self._known.get(key) is sharing and (sharing.waiting == 1 or sharing.task.done()):
                del self._known[key]
                if sharing.task.cancel():
                    self._ending.add(sharing.task)
                    sharing.task.add_done_callback(self._ending.discard)
            raise
        finally:
            sharing.waiting -= 1
        return result

    async def close(self) -> None:
        tasks = [sharing.task for sharing in self._known.values()]
        self._known.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, *self._ending, return_exceptions=True)
        while self._ending:
            await asyncio.gather(*self._ending, return_exceptions=True)


Answer = Callable[[Engine, Any, "Call"], Awaitable[Any]]
AnAnswer = TypeVar("AnAnswer", bound=Answer)

answers: dict[str, Answer] = {}
"""Who answers which field of the API, by `Type.field`."""


def answer(*names: str) -> Callable[[AnAnswer], AnAnswer]:
    """Register a function `(engine, parent's value, call) -> value` as the answer to fields."""

    def register(function: AnAnswer) -> AnAnswer:
        for name in names:
            answers[name] = function
        return function

    return register
