"""Telling people of a promotion, by Apprise: Teams, Slack, mail, a program that takes JSON.

    async with telling(environments, reporter):     # follows their ledgers while the block runs
        …

Nobody who is told can hold a promotion up or end it: each message has a deadline, in a thread that is left
behind when it is over, and what could not be told is one line. What people are told of is in the ledger, and
so is that they were told (ci.delivery.news): of two runs, or of a run and the next one, only one tells.

Where a channel is, is a secret. It is read from what the environment names (`env:NAME`, `file:PATH`) when it
is needed, and it is in no message, log or error: of what a library says of a failure only the number of the
answer is shown.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from ci.concurrency import together
from ci.delivery.ledger import Conflict, Ledger, open_ledger, promotion_id
from ci.delivery.news import Message, messages, told, told_up_to
from ci.environments import Channel, Environment, News
from ci.errors import BadInput, PipelineError
from ci.reporting import Reporter

__all__ = ["Told", "telling", "tried"]

_EVERY = 2.0
"""Seconds between two looks at a ledger."""
_DEADLINE = 10.0
"""Seconds that a channel has to take a message."""
_LAST = 15.0
"""Seconds that the end of a promotion waits for what is still to be told."""
_MOST_BYTES = 8192
_LOOK = {
    News.PROMOTED: "success",
    News.FAILED: "failure",
    News.ROLLED_BACK: "failure",
    News.HELD: "warning",
    News.GUARDED: "warning",
    News.OVERRIDDEN: "warning",
}


@dataclass(frozen=True, kw_only=True)
class Told:
    """How a message went to one channel."""

    channel: str
    """What holds its URL."""
    service: str
    """What it is: Slack, Microsoft Teams, E-Mail, JSON; empty where that was not found out."""
    problem: str
    """Why it was not told; empty when it was."""


@asynccontextmanager
async def telling(
    environments: Sequence[Environment], reporter: Reporter, *, every: float = _EVERY, last: float = _LAST
) -> AsyncIterator[None]:
    """Tell what the ledgers of these environments get while the block runs, and after its end for a while."""
    asked = [environment for environment in environments if environment.notify]
    if not asked:
        yield
        return
    begun, ended = [asyncio.Event() for _ in asked], asyncio.Event()
    tasks = [
        asyncio.create_task(_follow(environment, reporter, start, ended, every))
        for environment, start in zip(asked, begun, strict=True)
    ]
    try:
        await asyncio.wait({asyncio.create_task(start.wait()) for start in begun}, timeout=_DEADLINE)
        yield
    finally:
        ended.set()
        _, late = await asyncio.wait(tasks, timeout=last)
        for task in late:
            task.cancel()
        if late:
            reporter.note(f"people were not told all of it: their channels took longer than {last:g} s")


async def tried(environment: Environment) -> tuple[Told, ...]:
    """Send a message that says that it is none to each channel; BadInput when there is no channel."""
    if not environment.notify:
        raise BadInput(
            f"{environment.name} tells nobody",
            hint=f"notify: [env:TEAMS_URL] in environments/{environment.estate}/{environment.name}.yaml",
        )
    message = Message(
        news=News.STARTED,
        key=f"{environment.estate}/{environment.name}/test",
        title=f"{environment.name}: a test",
        text="Whoever reads this is told of promotions. Nothing has happened.",
    )
    return tuple(await together(_send(channel, message) for channel in environment.notify))


async def _follow(
    environment: Environment, reporter: Reporter, begun: asyncio.Event, ended: asyncio.Event, every: float
) -> None:
    """Tell of one ledger until the end, and once more then. What goes wrong is one line."""
    try:
        async with open_ledger(environment) as ledger:
            mark = told_up_to(entries := await ledger.entries())
            if mark is None:  # what was before there were channels is nobody's news
                mark = entries[-1].sequence if entries else 0
                await ledger.append(told(promotion_id(), mark))
            begun.set()
            while True:
                over = ended.is_set()
                mark = await _tell(environment, ledger, mark, reporter)
                if over:
                    return
                await _wait(ended, every)
    except PipelineError as error:
        reporter.note(f"{environment.name}: people are not told any more: {error.message}")
    except Exception as error:  # whatever it is, the promotion goes on
        reporter.note(f"{environment.name}: people are not told any more: {type(error).__name__}")
    finally:
        begun.set()


async def _wait(ended: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(ended.wait(), seconds)
    except TimeoutError:
        return


async def _tell(environment: Environment, ledger: Ledger, mark: int, reporter: Reporter) -> int:
    """Tell what is behind that entry, and return up to where people were told now."""
    entries = await ledger.entries(after=mark)
    mark = max(mark, told_up_to(entries) or 0)  # by another process, meanwhile
    new = [entry for entry in entries if entry.sequence > mark]
    if not (news := messages(environment, new)):
        return mark
    up_to = entries[-1].sequence
    try:
        await ledger.append(told(new[-1].promotion, up_to, news), after=up_to)
    except Conflict:
        return mark  # somebody wrote: perhaps that they told it
    sent = await together(
        _send(channel, message)
        for channel in environment.notify
        for message in news
        if message.news in channel.when
    )
    for one in {each.channel: each for each in sent if each.problem}.values():
        reporter.note(f"{environment.name}: {one.channel} was not told: {one.problem}")
    return up_to


async def _send(channel: Channel, message: Message, deadline: float = _DEADLINE) -> Told:
    """One message to one channel. It ends by its deadline: a thread that does not is left behind."""
    await asyncio.to_thread(_services)  # they take their time, which is not the channel's
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Told] = loop.create_future()

    def end(result: Told) -> None:
        if not done.done():
            done.set_result(result)

    def work() -> None:
        try:
            result = _deliver(channel, message)
        except BadInput as error:
            result = Told(channel=channel.to, service="", problem=error.message)
        except Exception as error:  # of a library, on a secret: nothing but its kind may be shown
            result = Told(channel=channel.to, service="", problem=f"{type(error).__name__} within Apprise")
        try:
            loop.call_soon_threadsafe(end, result)
        except RuntimeError:  # nobody waits any more
            return

    threading.Thread(target=work, name="notify", daemon=True).start()
    try:
        return await asyncio.wait_for(done, deadline)
    except TimeoutError:
        return Told(channel=channel.to, service="", problem=f"no answer within {deadline:g} s")


def _deliver(channel: Channel, message: Message) -> Told:
    import apprise

    address = _address(channel)
    asset = apprise.AppriseAsset(
        app_id="va", app_desc="promotions", app_url="", image_url_mask="", image_url_logo="",
        async_mode=False, http_redirects=False, storage_mode=apprise.PersistentStoreMode.MEMORY,
    )  # fmt: skip
    with _said() as lines:
        service = apprise.Apprise.instantiate(_for_apprise(address, message.key), asset=asset)
        if service is None:
            raise BadInput("what it holds is no URL of Apprise or of a webhook")
        # By the service itself: its thread is ours, and daemonic. Apprise's own are waited for at the end.
        taken = service.notify(
            title=message.title,
            body=message.text,
            notify_type=apprise.NotifyType(_LOOK.get(message.news, "info")),
            body_format=apprise.NotifyFormat.TEXT,
        )
    name = str(service.service_name or "")
    return Told(channel=channel.to, service=name, problem="" if taken else _problem(lines))


def _address(channel: Channel) -> str:
    """The URL of a channel: a secret."""
    kind, _, name = channel.to.partition(":")
    if kind == "env":
        found = os.environ.get(name, "")
        problem = f"the variable {name} is not set"
    else:
        found, problem = "", f"{name} has nothing in it"
        try:
            with Path(name).expanduser().open(encoding="utf-8") as file:
                found = file.read(_MOST_BYTES)
        except (OSError, RuntimeError, UnicodeDecodeError) as error:
            problem = f"{name} cannot be read: {getattr(error, 'strerror', None) or 'it is not text'}"
    if not found.strip():
        raise BadInput(problem)
    return found.strip()


def _for_apprise(address: str, key: str) -> str:
    """The URL as Apprise has it: those of Slack and Teams it knows; any other web address takes JSON.

    A program that takes JSON gets the message's key, by which it can see that it has it already.
    """
    scheme = address.partition("://")[0].lower()
    web = {"http": "json", "https": "jsons"}.get(scheme, "")
    if web and not any(service.parse_native_url(address) for service in _services()):
        parts = urlsplit(address)
        query = [(f"-{name}", value) for name, value in parse_qsl(parts.query, keep_blank_values=True)]
        address = parts._replace(scheme=web, query=urlencode(query, quote_via=quote), fragment="").geturl()
        scheme = web
    if scheme in ("json", "jsons"):
        address += f"{'&' if '?' in address else '?'}+Idempotency-Key={quote(key, safe='')}"
    return address


def _services() -> list[Any]:
    """All that Apprise knows, loaded."""
    from apprise.plugins import N_MGR

    return list(N_MGR.plugins())  # type: ignore[no-untyped-call]


@contextmanager
def _said() -> Iterator[list[str]]:
    """What Apprise says in this thread meanwhile; it is printed nowhere."""
    lines: list[str] = []
    thread = threading.get_ident()

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.thread == thread:
                lines.append(record.getMessage())

    logger, handler = logging.getLogger("apprise"), Handler(logging.WARNING)
    logger.propagate = False
    logger.addHandler(handler)
    try:
        yield lines
    finally:
        logger.removeHandler(handler)


def _problem(lines: Sequence[str]) -> str:
    """Without a word of the URL, which is in some of what is said."""
    text = "\n".join(lines)
    if found := re.search(r"error=([0-9]{3})\b", text):
        return f"it answered {found[1]}"
    if re.search(r"(?i)connection|socket|timed? ?out|resolve", text):
        return "it was not reached"
    return "it did not take the message"
