"""Where each ledger is, and how it is opened."""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from ci import places
from ci.concurrency import together
from ci.delivery.ledger.blob import Blobs
from ci.delivery.ledger.chain import Problem
from ci.delivery.ledger.entry import Action, Draft, Entry, Kind
from ci.delivery.ledger.ledger import Ledger
from ci.delivery.ledger.sqlite import Sqlite
from ci.delivery.ledger.taken_over import take_over
from ci.delivery.ledger.who import whoami
from ci.environments import Environment, read_environment, read_environments
from ci.errors import BadInput, PolicyBlocked

__all__ = [
    "Verified",
    "alone",
    "folder",
    "inspect_all",
    "open_ledger",
    "open_named",
    "order",
    "read_all",
    "verify_all",
    "worked_on_by",
]

_KEPT = (".sqlite", ".jsonl")


def folder(estate: str) -> Path:
    """Where this machine keeps an estate's ledgers: `<environment>.sqlite`."""
    return places.state() / "ledger" / estate


@asynccontextmanager
async def open_ledger(environment: Environment) -> AsyncIterator[Ledger]:
    """The ledger of an environment: shared, where the environment says so, else this machine's."""
    async with open_named(environment.estate, environment.name, shared=environment.ledger) as ledger:
        yield ledger


@asynccontextmanager
async def open_named(
    estate: str, name: str, *, shared: str | None = None, as_it_is: bool = False
) -> AsyncIterator[Ledger]:
    """The ledger of that name. `as_it_is`: what an earlier version wrote is not taken over, only left."""
    where = folder(estate) / f"{name}.sqlite"
    store = Blobs(shared, f"{estate}/{name}") if shared else Sqlite(where)
    ledger = Ledger(store)
    try:
        if not as_it_is:
            await take_over(where.with_suffix(".jsonl"), ledger)
        yield ledger
    finally:
        await asyncio.to_thread(store.close)


@contextmanager
def alone(environment: Environment) -> Iterator[None]:
    """Hold an environment for one process of this machine; PolicyBlocked names the one that holds it."""
    lock = _lock(environment)
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = _named_in(lock)
            raise PolicyBlocked(
                f"{environment.name} is being worked on by {holder}", hint="wait until it has ended"
            ) from error
        file.truncate(0)
        file.write(f"process {os.getpid()} of {whoami()}")
        file.flush()
        yield


def worked_on_by(environment: Environment) -> str:
    """The process of this machine that holds it (`alone`); empty when none does.

    Asked of the kernel (proc_locks(5)): trying the lock would keep out whoever wants it at that moment.
    """
    lock = _lock(environment)
    try:
        held = re.findall(r" FLOCK .*:(\d+) 0 EOF$", Path("/proc/locks").read_text(), re.MULTILINE)
        return _named_in(lock) if str(lock.stat().st_ino) in held else ""
    except OSError:
        return ""


def _lock(environment: Environment) -> Path:
    return folder(environment.estate) / f"{environment.name}.lock"


def _named_in(lock: Path) -> str:
    return lock.read_text().strip() or "another process"


async def order(
    environment: Environment, action: Action, *, promotion: str, reason: str, target: str = ""
) -> Entry:
    """Write an order: behind whatever is there, for the run to find at its next look.

    From any process of this machine; from any other machine where the environment's ledger is shared.
    """
    if not reason.strip():
        raise BadInput(f"{action} wants a reason", hint='--reason "…": it is kept in the ledger')
    async with open_ledger(environment) as ledger:
        return await ledger.append(
            Draft(promotion=promotion, kind=Kind.ORDER, action=action, target=target, reason=reason.strip())
        )


class Verified(BaseModel):
    """What verifying one ledger found."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    environment: str
    where: str
    entries: int
    last: str
    """The hash of the last entry; empty where there is none, or something is wrong."""
    problems: tuple[Problem, ...]
    lost: tuple[str, ...] = ()
    """Lines of before that could not be read when they were taken over."""


async def read_all(estate: str, only: str | None = None) -> dict[str, tuple[Entry, ...]]:
    """The entries of each ledger of an estate, by environment, in the order of promotion.

    Those of environments that are no more come last. `only` is one environment.
    """

    async def one(name: str, shared: str | None) -> tuple[Entry, ...]:
        async with open_named(estate, name, shared=shared) as ledger:
            return await ledger.entries()

    named = _named(estate, only)
    return dict(zip(named, await together(one(*each) for each in named.items()), strict=True))


async def verify_all(estate: str, only: str | None = None) -> tuple[Verified, ...]:
    """Verify each ledger of an estate, or that of one environment, as it is."""
    return tuple(verified for _, verified in await inspect_all(estate, only, as_it_is=True))


async def inspect_all(
    estate: str, only: str | None = None, *, as_it_is: bool = False
) -> tuple[tuple[tuple[Entry, ...], Verified], ...]:
    """Each ledger of an estate, or that of one environment: its entries that are whole, and what is wrong."""

    async def one(name: str, shared: str | None) -> tuple[tuple[Entry, ...], Verified]:
        async with open_named(estate, name, shared=shared, as_it_is=as_it_is) as ledger:
            entries, problems = await ledger.inspect()
            return entries, Verified(
                environment=name,
                where=ledger.where,
                entries=len(entries),
                last=entries[-1].hash if entries and not problems else "",
                problems=problems,
                lost=tuple(
                    f"entry {entry.sequence}: {entry.reason}"
                    for entry in entries
                    if entry.action is Action.TAKEN_OVER and entry.result == "damaged"
                ),
            )

    return tuple(await together(one(*each) for each in _named(estate, only).items()))


def _named(estate: str, only: str | None) -> dict[str, str | None]:
    """The ledgers there are: each environment's name, and where it is shared."""
    if only is not None:
        return {only: read_environment(estate, only).ledger}
    shared = {one.name: one.ledger for one in read_environments(estate)}
    once = {file.stem for file in folder(estate).glob("*.*") if file.suffix in _KEPT} - shared.keys()
    return shared | dict.fromkeys(sorted(once))
