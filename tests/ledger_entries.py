"""Entries of a ledger: in memory, a minute apart (Book), or in this machine's, as a run left them."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

from ci.delivery.ledger import Action, Draft, Entry, Event, Kind, open_named, promotion_id
from ci.delivery.ledger.chain import sealed

_ACTIONS = {
    Event.STARTED: Action.START,
    Event.CANARY: Action.CANARY,
    Event.STEP_PASSED: Action.STEP,
    Event.STEP_FAILED: Action.STEP,
    Event.INCONCLUSIVE: Action.STEP,
    Event.INTERRUPTED: Action.FINISH,
    Event.ROLLED_BACK: Action.FINISH,
    Event.PROMOTED: Action.FINISH,
    Event.NOT_THERE: Action.NOT_THERE,
}


NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
RELEASE = "20261120-080000-abcdef1-01234567"
"""Its commit is of eight in the morning."""


class Book:
    """Entries of one environment, a minute apart unless said otherwise."""

    def __init__(self, begins: datetime = NOON) -> None:
        self.now, self.entries = begins, list[Entry]()

    def write(
        self, kind: Kind, action: Action, promotion: str = "p1", *, minutes: int = 1, **more: object
    ) -> None:
        draft = Draft(promotion=promotion, kind=kind, action=action, **({"release": RELEASE} | more))
        last = self.entries[-1] if self.entries else None
        self.entries.append(sealed(draft, last, who="alice@here", time=self.now)[0])
        self.now += timedelta(minutes=minutes)

    def target(self, name: str, result: str, promotion: str = "p1", **more: object) -> None:
        self.write(Kind.INTENT, Action.START, promotion, target=name, **more)
        self.write(Kind.OUTCOME, Action.FINISH, promotion, target=name, result=result, **more)

    def begin(self, promotion: str = "p1", **more: object) -> None:
        self.write(Kind.INTENT, Action.START, promotion, **more)

    def end(self, result: str, promotion: str = "p1", **more: object) -> None:
        self.write(Kind.OUTCOME, Action.FINISH, promotion, result=result, **more)


def happened(
    event: Event, *, target: str, release: str, reason: str = "", time: datetime | None = None
) -> Draft:
    """An entry; `time`: when it happened, if not now."""
    return Draft(
        promotion=promotion_id(),
        kind=Kind.NOTE if event is Event.NOT_THERE else Kind.OUTCOME,
        action=_ACTIONS[event],
        target=target,
        release=release,
        result=event,
        reason=reason,
        detail={"time": time.isoformat()} if time else {},
    )


def write(environment: str, draft: Draft) -> None:
    """Append it to the ledger of that environment of the estate `local`."""

    async def main() -> None:
        async with open_named("local", environment) as ledger:
            await ledger.append(draft)

    asyncio.run(main())
