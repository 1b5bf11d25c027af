"""A whole call on the embedded platform: our images, installed by our chart, and someone who calls.

The caller is the LiveKit SDK on this machine: it asks the API for a session through the gateway, joins the
room with the token that it got, plays a tone, and hears it come back from the agent in the cluster.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import struct
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from installed_chart import PLACE, installed_chart
from livekit import rtc
from waiting import until_async

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

HOST = "api.call.voice.localhost"
RATE = 48_000
TONE = 440


@pytest.fixture(scope="module")
def installed() -> Iterator[None]:
    with installed_chart("va-call-e2e", hostname=HOST, release="call-e2e"):
        yield


def api() -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=PLACE.gateway, headers={"host": HOST}, timeout=30)


@dataclass
class Call:
    """What a caller says and hears."""

    session: dict[str, Any]
    room: rtc.Room
    track: asyncio.Future[rtc.Track]
    speaking: asyncio.Event = field(default_factory=asyncio.Event)
    transcript: list[str] = field(default_factory=list)
    reading: list[asyncio.Task[None]] = field(default_factory=list)

    async def play(self, source: rtc.AudioSource) -> None:
        """The tone while `speaking`, else silence, a hundredth of a second at a time."""
        count, number = RATE // 100, 0
        while True:
            loud = 10_000 if self.speaking.is_set() else 0
            samples = (
                round(loud * math.sin(2 * math.pi * TONE * (number * count + i) / RATE)) for i in range(count)
            )
            data = struct.pack(f"<{count}h", *samples)
            await source.capture_frame(rtc.AudioFrame(data, RATE, 1, count))
            number += 1

    async def hear(self, *, loud: bool, within: float = 60.0) -> None:
        """Wait until the agent's voice is (or is no longer) our tone."""
        stream = rtc.AudioStream(await self.track, sample_rate=RATE, num_channels=1, frame_size_ms=20)
        try:
            async with asyncio.timeout(within):
                async for event in stream:
                    if (strength(event.frame, TONE) > 2_000) == loud:
                        return
        finally:
            await stream.aclose()
        raise AssertionError("the agent's audio ended")


def strength(frame: rtc.AudioFrame, frequency: float) -> float:
    """The amplitude of one frequency in a frame (a single bin of its Fourier transform)."""
    samples = struct.unpack(f"<{frame.samples_per_channel}h", bytes(frame.data))
    turn = 2 * math.pi * frequency / RATE
    real = sum(value * math.cos(turn * i) for i, value in enumerate(samples))
    imaginary = sum(value * math.sin(turn * i) for i, value in enumerate(samples))
    return 2 * math.hypot(real, imaginary) / len(samples)


@contextlib.asynccontextmanager
async def calling() -> AsyncIterator[Call]:
    async with api() as http:
        answer = await http.post("/v1/sessions")
        assert answer.status_code == 201, answer.text
        made = answer.json()
    room = rtc.Room()
    call = Call(made, room, asyncio.get_running_loop().create_future())

    def on_track(track: rtc.Track, *_: object) -> None:
        if not call.track.done():
            call.track.set_result(track)

    def on_text(stream: rtc.TextStreamReader, _: str) -> None:
        call.reading.append(asyncio.create_task(read(stream)))

    async def read(stream: rtc.TextStreamReader) -> None:
        call.transcript.append(await stream.read_all())

    room.on("track_subscribed", on_track)
    room.register_text_stream_handler("lk.transcription", on_text)
    await room.connect(made["url"], made["token"])
    source = rtc.AudioSource(RATE, 1, queue_size_ms=100)
    await room.local_participant.publish_track(
        rtc.LocalAudioTrack.create_audio_track("microphone", source),
        rtc.TrackPublishOptions(source=rtc.TrackSource.SOURCE_MICROPHONE),
    )
    playing = asyncio.create_task(call.play(source))
    try:
        yield call
    finally:
        playing.cancel()
        await room.disconnect()


def test_the_api_answers_through_the_gateway(installed: None) -> None:
    async def ask() -> httpx.Response:
        async with api() as http:
            return await http.post("/v1/sessions")

    answer = asyncio.run(ask())
    assert answer.status_code == 201
    assert answer.headers["x-va-track"] == "stable" and answer.headers["x-va-release"] == "call-e2e"
    assert answer.json()["url"] == PLACE.livekit


def test_a_caller_hears_the_agent_echo(installed: None) -> None:
    async def call() -> None:
        async with calling() as call:
            await call.hear(loud=False)
            call.speaking.set()
            await call.hear(loud=True)
            call.speaking.clear()
            await call.hear(loud=False)
            await until_async(lambda: len(call.transcript) >= 2)
            assert call.transcript[0].startswith("No AI provider is configured")
            assert call.transcript[1].startswith("I heard you for ")

    asyncio.run(call())


def test_an_ended_session_puts_the_caller_out(installed: None) -> None:
    async def call() -> None:
        async with calling() as call:
            await call.track  # the agent is there
            async with api() as http:
                path = f"/v1/sessions/{call.session['session_id']}"
                assert (await http.delete(path)).status_code == 204
                assert (await http.get(path)).status_code == 404
            await until_async(lambda: call.room.connection_state == rtc.ConnectionState.CONN_DISCONNECTED)

    asyncio.run(call())
