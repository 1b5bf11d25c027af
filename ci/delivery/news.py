"""What people are told of a promotion: read from the ledger's entries, in a sentence with its numbers.

Each message is of one entry, so that it is told once whoever runs: the ledger also keeps up to which entry
people were told (`told`), and what comes behind that is new.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ci.delivery.ledger import Action, Draft, Entry, Kind
from ci.delivery.results import headline
from ci.environments import Environment, News

__all__ = ["Message", "messages", "told", "told_up_to"]

_LONGEST = 1500
"""Characters: a chat shows no more at once."""
_BACK = ("rolled back", "failed", "stopped", "aborted")
_INSTALLS = (Action.CANARY, Action.INSTALL, Action.UPGRADE)
_WORDS = {
    News.STARTED: "started",
    News.WAITING: "waits for approval",
    News.OVERRIDDEN: "goes in all the same",
    News.HELD: "is held: a person decides",
    News.FAILED: "failed",
    News.ROLLED_BACK: "was rolled back",
    News.GUARDED: "was left alone: all traffic is on stable",
    News.PROMOTED: "is promoted",
}


@dataclass(frozen=True, kw_only=True)
class Message:
    """One thing to tell."""

    news: News
    key: str
    """The same for the same message, whoever sends it: `local/prod/41`."""
    title: str
    text: str


def messages(environment: Environment, entries: Sequence[Entry]) -> tuple[Message, ...]:
    """What there is to tell of these entries of an environment, in their order."""
    found: dict[tuple[News, str, str], Message] = {}
    for entry in entries:
        news = _news(entry)
        if news is None:
            continue
        place = entry.target or environment.name
        weight = f" at {entry.weight} %" if entry.weight and news in (News.FAILED, News.HELD) else ""
        # Of what is told of twice at once, the end of a step and of the promotion by it, the last is enough.
        found.pop(same := (news, place, entry.release), None)
        found[same] = Message(
            news=news,
            key=f"{environment.estate}/{environment.name}/{entry.sequence}",
            title=f"{place}: {entry.release or entry.promotion} {_WORDS[news]}{weight}",
            text=_text(environment, entry),
        )
    return tuple(found.values())


def told_up_to(entries: Iterable[Entry]) -> int | None:
    """The sequence up to which people were told; None when nobody ever was."""
    marks = [int(entry.detail["up_to"]) for entry in entries if entry.action is Action.TOLD]
    return max(marks, default=None)


def told(promotion: str, up_to: int, news: Sequence[Message] = ()) -> Draft:
    """The entry that says so. It is written before anybody is told: a kill in between loses a message."""
    return Draft(
        promotion=promotion,
        kind=Kind.NOTE,
        action=Action.TOLD,
        reason="; ".join(one.title for one in news),
        detail={"up_to": up_to},
    )


def _news(entry: Entry) -> News | None:
    action, result = entry.action, entry.result
    if entry.kind is Kind.INTENT or action in (Action.TAKEN_OVER, Action.TOLD):
        return None
    if entry.kind is Kind.ORDER:
        return News.OVERRIDDEN if action is Action.OVERRIDE else None
    if action is Action.APPROVE:
        return News.WAITING if result == "waiting" else None
    if action is Action.FINISH:
        return _ends(entry)
    if action is Action.STEP and result == "inconclusive":
        return News.HELD
    if result == "failed" or (result == "error" and action in _INSTALLS):
        return News.FAILED
    if action is Action.START:
        return News.STARTED if entry.kind is Kind.OUTCOME else None  # a note: the same one goes on
    return News.GUARDED if action is Action.GUARD else None


def _ends(entry: Entry) -> News | None:
    """Of a target; of an environment as a whole that it has the release, or what keeps it from going on."""
    if entry.result == "promoted":
        return News.PROMOTED if entry.reason != "it runs there already" else None
    if entry.result == "held" or (entry.result == "waits" and entry.reason):
        return News.HELD
    return News.ROLLED_BACK if entry.target and entry.result in _BACK else None


def _text(environment: Environment, entry: Entry) -> str:
    lines = [entry.reason] if entry.reason else []
    lines += [line for line in map(headline, entry.findings) if line not in entry.reason]
    lines.append(f"by {entry.by}; entry {entry.sequence} of {environment.estate}/{environment.name}")
    text = "\n".join(lines)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
