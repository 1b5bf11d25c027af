"""Where each ledger is, and how it is opened."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from ci import places
from ci.delivery.ledger.blob import Blobs
from ci.delivery.ledger.entry import Action, Draft, Entry, Kind
from ci.delivery.ledger.ledger import Ledger
from ci.delivery.ledger.sqlite import Sqlite
from ci.delivery.ledger.taken_over import take_over
from ci.environments import Environment, read_environments
from ci.errors import BadInput

__all__ = ["all_entries", "folder", "open_ledger", "open_named", "order"]

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


async def all_entries(estate: str) -> list[Entry]:
    """All that happened in an estate, in the order of time; also in environments that are no more."""
    shared = {one.name: one.ledger for one in read_environments(estate)}
    names = shared.keys() | {file.stem for file in folder(estate).glob("*.*") if file.suffix in _KEPT}
    found: list[Entry] = []
    for name in names:
        async with open_named(estate, name, shared=shared.get(name)) as ledger:
            found += await ledger.entries()
    return sorted(found, key=lambda entry: (entry.when, entry.sequence))
