"""Redis: the connection, and the sessions kept there until they expire."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import redis.asyncio
from pydantic import BaseModel, ConfigDict
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff

from voice_api.settings import Settings

__all__ = ["Redis", "Session", "SessionStore", "connect"]

Redis = redis.asyncio.Redis | redis.asyncio.RedisCluster

_TIMEOUT_SECONDS = 2.0
_PAGE = 500


class Session(BaseModel):
    """A voice session: the room it takes place in, and the release that made it."""

    model_config = ConfigDict(frozen=True)

    session_id: str
    room: str
    participant_id: str = ""
    """Who called; empty in sessions that an older release made."""
    created_at: datetime
    expires_at: datetime
    track: str
    release: str


def connect(settings: Settings) -> Redis:
    """A pool of connections, made as they are needed. Every call is short: a caller is waiting."""
    options: dict[str, Any] = {
        "password": settings.redis_password.get_secret_value() if settings.redis_password else None,
        "socket_timeout": _TIMEOUT_SECONDS,
        "socket_connect_timeout": _TIMEOUT_SECONDS,
        "health_check_interval": 30,
        "retry": Retry(ExponentialBackoff(cap=0.2, base=0.02), retries=2),
    }
    kind = redis.asyncio.RedisCluster if settings.redis_cluster else redis.asyncio.Redis
    return kind.from_url(settings.redis_url, **{k: v for k, v in options.items() if v is not None})


class SessionStore:
    """Sessions in Redis, each under its own key and gone at its `expires_at`."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def put(self, session: Session) -> None:
        await self._redis.set(
            _key(session.session_id), session.model_dump_json(), exat=int(session.expires_at.timestamp())
        )

    async def get(self, session_id: str) -> Session | None:
        found = await self._redis.get(_key(session_id))
        return None if found is None else Session.model_validate_json(found)

    async def remove(self, session_id: str) -> None:
        await self._redis.delete(_key(session_id))

    async def of_participant(self, participant_id: str) -> list[Session]:
        """Their sessions that have not ended or expired.

        It looks at every session: that is rare, they are gone within a day, and so creating one needs no
        index to be kept.
        """
        found: dict[str, Session] = {}  # a scan may show a key twice
        page: list[Any] = []
        async for key in self._redis.scan_iter(match=_key("*"), count=_PAGE):
            page.append(key)
            if len(page) == _PAGE:
                found |= await self._read(page, participant_id)
                page.clear()
        return [*(found | await self._read(page, participant_id)).values()]

    async def _read(self, keys: Sequence[Any], participant_id: str) -> dict[str, Session]:
        """That person's among these keys, in one round trip (in a cluster, one a node)."""
        asked = self._redis.pipeline(transaction=False)
        for key in keys:
            asked.get(key)
        texts = await asked.execute() if keys else []
        # Few are theirs: only those that have the word are read as JSON.
        word = json.dumps(participant_id).encode()
        maybe = (Session.model_validate_json(text) for text in texts if text is not None and word in text)
        return {one.session_id: one for one in maybe if one.participant_id == participant_id}

    async def ping(self) -> None:
        """Raises redis.RedisError when Redis cannot be reached."""
        await self._redis.ping()


def _key(session_id: str) -> str:
    return f"va:session:{session_id}"
