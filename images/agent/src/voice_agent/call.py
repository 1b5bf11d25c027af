"""One call, in its own process: join the room, wait for the caller, answer until they leave."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
import uuid
from pathlib import Path

from livekit import rtc
from livekit.agents import AutoSubscribe, JobContext

from voice_agent.calls import Outcome, report
from voice_agent.echo import Utterance, echo
from voice_agent.settings import Settings, read_settings

__all__ = ["REPORTS_VARIABLE", "TRANSCRIPT_TOPIC", "answer"]

REPORTS_VARIABLE = "VOICE_AGENT_REPORTS"
"""The environment variable through which the worker tells its calls where to report."""
TRANSCRIPT_TOPIC = "lk.transcription"
"""Where LiveKit's clients look for what is said: https://docs.livekit.io/agents/build/text/"""

_SAMPLE_RATE = 48_000  # what WebRTC's Opus runs at: nothing is resampled
_FRAME_MS = 10
_QUEUE_MS = 200

log = logging.getLogger("voice_agent.call")


async def answer(job: JobContext) -> None:
    """The entry point of a call's process."""
    started = time.monotonic()
    outcome = Outcome.ERROR
    try:
        outcome = await _call(job, read_settings())
    finally:
        seconds = time.monotonic() - started
        log.info("call over", extra={"outcome": outcome, "seconds": round(seconds, 1)})
        if reports := os.environ.get(REPORTS_VARIABLE):
            report(Path(reports), job.job.id, outcome, seconds)
    job.shutdown(outcome)


async def _call(job: JobContext, settings: Settings) -> Outcome:
    room = job.room
    left = asyncio.Event()
    tracks: asyncio.Queue[rtc.Track] = asyncio.Queue()

    def on_track(track: rtc.Track, *_: object) -> None:
        if track.kind == rtc.TrackKind.KIND_AUDIO:
            tracks.put_nowait(track)

    # Before joining, so that nothing that happens meanwhile is missed.
    room.on("track_subscribed", on_track)
    room.on("participant_disconnected", lambda *_: left.set())
    room.on("disconnected", lambda *_: left.set())
    await job.connect(auto_subscribe=AutoSubscribe.AUDIO_ONLY)

    source = rtc.AudioSource(_SAMPLE_RATE, 1, queue_size_ms=_QUEUE_MS)
    voice = rtc.LocalAudioTrack.create_audio_track("assistant", source)
    await room.local_participant.publish_track(
        voice, rtc.TrackPublishOptions(source=rtc.TrackSource.SOURCE_MICROPHONE)
    )
    try:
        await asyncio.wait_for(job.wait_for_participant(), settings.caller_timeout_seconds)
    except TimeoutError:
        return Outcome.NO_SHOW

    async def say(text: str) -> None:
        segment = {"lk.segment_id": uuid.uuid4().hex, "lk.transcription_final": "true"}
        with contextlib.suppress(ConnectionError):  # the caller left: nobody to tell
            await room.local_participant.send_text(text, topic=TRANSCRIPT_TOPIC, attributes=segment)

    async def heard(utterance: Utterance) -> None:
        await say(f"I heard you for {utterance.seconds:.1f} seconds.")

    async def converse() -> None:
        await say("No AI provider is configured, so you hear yourself.")
        while True:
            stream = rtc.AudioStream(
                await tracks.get(), sample_rate=_SAMPLE_RATE, num_channels=1, frame_size_ms=_FRAME_MS
            )
            try:
                await echo((event.frame async for event in stream), source, on_utterance=heard)
            finally:
                await stream.aclose()

    talk = asyncio.create_task(converse())
    gone = asyncio.create_task(left.wait())
    try:
        await asyncio.wait({talk, gone}, return_when=asyncio.FIRST_COMPLETED)
        if talk.done():
            await talk  # it never ends by itself: this raises what went wrong
    finally:
        talk.cancel()
        gone.cancel()
        await asyncio.gather(talk, gone, return_exceptions=True)
    return Outcome.OK
