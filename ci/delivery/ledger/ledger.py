"""The ledger of an environment: append, read, verify; in a file of this machine or shared in Azure.

    async with open_ledger(environment) as ledger:
        intent = await ledger.append(Draft(promotion=name, kind=Kind.INTENT, action=Action.MOVE, weight=25))
        for entry in await ledger.entries(promotion=name):
            …

Both stores take a line only behind the last one, so entries are in one order for everybody. Reading stops at
the first damage (`Damaged`): what was decided by half a ledger would be decided wrongly.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Protocol

from ci.delivery.ledger.chain import Damaged, Problem, Row, entry_of, read, sealed
from ci.delivery.ledger.entry import Draft, Entry
from ci.delivery.ledger.who import whoami
from ci.errors import SystemUnavailable

__all__ = ["Conflict", "Ledger", "Store"]


class Conflict(SystemUnavailable):
    """Somebody else has written since the entry that this one was to follow on."""


class Store(Protocol):
    """Where lines are kept, in their order. What it does blocks."""

    @property
    def where(self) -> str:
        """The file or the URL."""

    def rows(self, first: int) -> tuple[list[Row], int]:
        """The rows from that place on, and how many there are by the store's own count."""

    def append(self, make: Callable[[Row | None, int], bytes]) -> None:
        """Add the line that `make` makes of the last row and the count, before anybody else's."""

    def check(self) -> list[str]:
        """What the store itself finds wrong; what it remembers is read anew after that."""

    def close(self) -> None:
        """Let go of files and connections."""


class Ledger:
    """What was decided and done in one environment."""

    def __init__(self, store: Store) -> None:
        self._store = store

    @property
    def where(self) -> str:
        """The file or the URL that it is kept in."""
        return self._store.where

    async def append(self, draft: Draft, *, after: int | None = None) -> Entry:
        """Write an entry; it is kept when this returns, whatever happens to this machine then.

        `after`: only if that sequence is still the last (0: the ledger is empty), else Conflict. None: behind
        whatever is there. Damaged when the end of the ledger is.
        """
        written: list[Entry] = []

        def make(last: Row | None, count: int) -> bytes:
            end = _end(last, count, self.where)
            sequence = end.sequence if end else 0
            if after is not None and sequence != after:
                raise Conflict(
                    f"the ledger {self.where} is at entry {sequence}, not {after}: "
                    f"{end.by if end else 'somebody'} has written to it",
                    hint="run the same command again: it looks at what is there now",
                )
            entry, line = sealed(draft, end, who=whoami(), time=datetime.now(UTC))
            written[:] = [entry]
            return line

        await asyncio.to_thread(self._store.append, make)
        return written[0]

    async def entries(
        self, *, promotion: str | None = None, target: str | None = None, after: int = 0
    ) -> tuple[Entry, ...]:
        """The entries behind sequence `after`, in their order; Damaged when one of them is not whole.

        `promotion`: its entries alone. `target`: that target's, and those of the whole environment.
        """
        found = await asyncio.to_thread(self._read, after)
        problems = tuple(one for one in found if isinstance(one, Problem))
        if problems:
            raise Damaged(problems)
        return tuple(
            entry
            for entry in found
            if isinstance(entry, Entry)
            and promotion in (None, entry.promotion)
            and (target is None or entry.target in ("", target))
        )

    async def verify(self) -> tuple[Problem, ...]:
        """Everything that is wrong with it."""
        return (await self.inspect())[1]

    async def inspect(self) -> tuple[tuple[Entry, ...], tuple[Problem, ...]]:
        """The entries that are whole, and everything that is wrong: to look at, never to decide by."""

        def all_of_it() -> list[Entry | Problem]:
            own = _told(self._own)
            return [*_told(lambda: self._read(0)), *own]

        found = await asyncio.to_thread(all_of_it)
        return (
            tuple(one for one in found if isinstance(one, Entry)),
            tuple(one for one in found if isinstance(one, Problem)),
        )

    def _own(self) -> list[Problem]:
        return [Problem(sequence=0, where=self.where, problem=one) for one in self._store.check()]

    def _read(self, after: int) -> list[Entry | Problem]:
        rows, count = self._store.rows(max(1, after))
        since = None
        if after:
            there = rows and rows[0].number in (None, after)
            since = rows.pop(0) if there else Row(where=self.where, line=b"", number=after)
        return list(read(rows, since=since, count=count, where=self.where))


def _told(look: Callable[[], Iterable[Entry | Problem]]) -> list[Entry | Problem]:
    try:
        return list(look())
    except Damaged as error:
        return list(error.problems)


def _end(last: Row | None, count: int, where: str) -> Entry | None:
    """The entry that the next one follows on; Damaged when it is not whole, or was not the last."""
    end = entry_of(last) if last else None
    sequence = end.sequence if isinstance(end, Entry) else last.number or count if last else 0
    problem = end if isinstance(end, str) else ""
    if not problem and sequence != count:
        sequence, problem = sequence + 1, f"and all others up to entry {count} are missing"
    if problem:
        raise Damaged((Problem(sequence=sequence, where=last.where if last else where, problem=problem),))
    return end if isinstance(end, Entry) else None
