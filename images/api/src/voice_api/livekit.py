"""LiveKit: the tokens that let a caller join a room, and closing a room."""

from __future__ import annotations

from datetime import timedelta
from typing import Protocol

import aiohttp
from livekit import api

from voice_api.settings import Settings

__all__ = ["LiveKitRooms", "Rooms", "RoomsUnavailable", "caller_token"]

_TIMEOUT = aiohttp.ClientTimeout(total=5)


class RoomsUnavailable(Exception):
    """LiveKit did not answer, or refused."""


class Rooms(Protocol):
    """What the API asks of LiveKit's server."""

    async def close(self, room: str) -> None:
        """End the room's call and put everyone out; nothing happens when there is no such room."""


def caller_token(settings: Settings, *, room: str, identity: str) -> str:
    """A token that lets one caller join one room. The room's first join makes it and dispatches the agent.

    Signed here, so that creating a session needs no call to LiveKit. Nobody can take one back: it lives
    for minutes, and LiveKit hands those who are in a room new ones.
    """
    return (
        api.AccessToken(settings.livekit_api_key, settings.livekit_api_secret.get_secret_value())
        .with_identity(identity)
        .with_ttl(timedelta(seconds=settings.token_seconds))
        .with_grants(api.VideoGrants(room_join=True, room=room, can_publish_sources=["microphone"]))
        .with_room_config(
            api.RoomConfiguration(
                name=room,
                empty_timeout=60,
                departure_timeout=10,
                agents=[api.RoomAgentDispatch(agent_name=settings.agent_name)],
            )
        )
        .to_jwt()
    )


class LiveKitRooms:
    """Rooms of a LiveKit server, through its HTTP API."""

    def __init__(self, settings: Settings) -> None:
        self._api = api.LiveKitAPI(
            settings.livekit_url,
            settings.livekit_api_key,
            settings.livekit_api_secret.get_secret_value(),
            timeout=_TIMEOUT,
        )

    async def close(self, room: str) -> None:
        try:
            await self._api.room.delete_room(api.DeleteRoomRequest(room=room))
        except api.TwirpError as error:
            if error.code != api.TwirpErrorCode.NOT_FOUND:
                raise RoomsUnavailable(error.code) from error
        except (aiohttp.ClientError, TimeoutError) as error:
            raise RoomsUnavailable(type(error).__name__) from error

    async def aclose(self) -> None:
        await self._api.aclose()
