"""When a release may go into an environment, who has to say yes, and who is told."""

from __future__ import annotations

import re
from collections import Counter
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from ci.complaints import mistake, shown
from ci.environments.written import Model, as_seconds
from ci.windows import Window, window

__all__ = ["Approvals", "Channel", "Freeze", "Hours", "News", "Notify", "Soak", "SoakText"]


def _hours(value: object) -> object:
    if not isinstance(value, list):
        value = [value]
    read = tuple(window(one) for one in value)
    if dated := next((one for one in read if one.dated), None):
        raise mistake(f"'{dated}' does not come again", "hours are those of a week: Mon-Thu 09:00-16:00 UTC")
    return read


When = Annotated[Window, BeforeValidator(window)]
"""Times of the week or of the calendar: see ci.windows."""
Hours = Annotated[tuple[Window, ...], BeforeValidator(_hours), Field(min_length=1)]


class Freeze(Model):
    """A time in which no release goes in."""

    when: When
    why: Annotated[str, Field(min_length=1, max_length=200)]


class Soak(Model):
    """How long a release must have run in an environment before this one."""

    seconds: float
    environment: str | None
    """None: the one that this one comes after."""


def _soak(value: object) -> object:
    text, found, environment = value.partition(" in ") if isinstance(value, str) else (value, "", "")
    if found and not re.fullmatch(r"[a-z0-9-]+", environment.strip()):
        raise mistake(f"{shown(environment)} is not the name of an environment", "as in: 2h in staging")
    seconds = as_seconds(text.strip() if isinstance(text, str) else text)
    if not seconds:
        raise mistake("a release soaks for longer than that", "leave `soak` out, if none is wanted")
    return Soak(seconds=seconds, environment=environment.strip() or None)


SoakText = Annotated[Soak, BeforeValidator(_soak)]
"""`2h`, or `2h in staging`."""


def _approvers(value: object) -> object:
    if value == "reviewers":
        return value
    if isinstance(value, str):
        raise mistake(f"a list of names is expected, not {shown(value)}", f"by: [{value}]; or by: reviewers")
    if not isinstance(value, list) or not value:
        raise mistake("nobody is named who may approve", "by: [anna, bert]; or by: reviewers, GitHub's own")
    for one in value:
        if not isinstance(one, str) or not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}", one):
            form = "a login, as `whoami` or GitHub has it, without @ and what follows"
            raise mistake(f"{shown(one)} is not the name of somebody", form)
    if twice := [name for name, count in Counter(one.casefold() for one in value).items() if count > 1]:
        raise mistake(f"{shown(twice[0])} is named twice", "everybody's word counts once")
    return tuple(value)


class Approvals(Model):
    """Who has to say yes before a release goes in; never the one who promotes it."""

    count: Annotated[int, Field(ge=1, le=20)] = 1
    by: Annotated[tuple[str, ...] | Literal["reviewers"], BeforeValidator(_approvers)]
    """Logins; or the reviewers of the environment of this name on GitHub."""

    @model_validator(mode="after")
    def _enough(self) -> Approvals:
        if self.by != "reviewers" and self.count > len(self.by):
            named = "is one name" if len(self.by) == 1 else f"are {len(self.by)} names"
            raise ValueError(f"{self.count} approvals are asked for, and there {named} to give them")
        return self

    def may(self, person: str) -> bool:
        """Whether that is one of those who are named; GitHub says itself who its reviewers are."""
        return self.by != "reviewers" and person.casefold() in {one.casefold() for one in self.by}


class News(StrEnum):
    """What people are told of."""

    STARTED = "started"
    WAITING = "waiting"
    """For approval."""
    OVERRIDDEN = "overridden"
    """Somebody promotes in a freeze, or too early."""
    HELD = "held"
    """The gates could not decide: a person has to."""
    FAILED = "failed"
    ROLLED_BACK = "rolled-back"
    GUARDED = "guarded"
    """Nobody watched a canary any more: the guard sent all traffic to stable."""
    PROMOTED = "promoted"


def _reference(value: object) -> object:
    if isinstance(value, str) and re.fullmatch(r"env:[A-Za-z_][A-Za-z0-9_]*|file:\S.*", value):
        return value
    raise mistake(  # without the value: it may be the secret itself
        "where a channel is, is a secret: only what it is kept in is named here",
        "env:TEAMS_URL, or file:/run/secrets/teams-url, with a URL of Apprise or of a webhook in it",
    )


class Channel(Model):
    """Somewhere that people read: a room of Teams or Slack, mail, or a program that takes JSON."""

    to: Annotated[str, BeforeValidator(_reference)]
    """`env:NAME` or `file:PATH`: what holds the URL."""
    when: Annotated[tuple[Annotated[News, Field(strict=False)], ...], Field(strict=False, min_length=1)] = (
        *News,
    )


def _channels(value: object) -> object:
    if not isinstance(value, list):
        raise mistake("a list of channels is expected", "notify: [env:TEAMS_URL]")
    read = [{"to": one} if isinstance(one, str) else one for one in value]
    named = Counter(one.get("to") for one in read if isinstance(one, dict) and isinstance(one.get("to"), str))
    if any(count > 1 for count in named.values()):
        raise mistake("a channel is named twice", "its people would be told everything twice: keep one")
    return read


Notify = Annotated[tuple[Channel, ...], BeforeValidator(_channels), Field(strict=False)]
