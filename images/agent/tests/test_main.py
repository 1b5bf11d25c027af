"""The process itself: start, end, and whole calls through a real LiveKit server, if LIVEKIT_URL names one."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TextIO

import numpy as np
import psutil
import pytest
from conftest import LIVEKIT
from livekit import api, rtc

RATE = 48_000
TONE = 440

needs_livekit = pytest.mark.skipif(not LIVEKIT["LIVEKIT_URL"], reason="LIVEKIT_URL names no LiveKit server")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@dataclass
class Worker:
    child: subprocess.Popen[bytes]
    agent_name: str
    health: int
    metrics: int
    out: TextIO

    def end(self, timeout: float = 60) -> tuple[int, str]:
        code = self.child.wait(timeout)
        self.out.seek(0)
        return code, self.out.read()

    def get(self, port: int, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def ready(self) -> bool:
        return self.get(self.metrics, "/readyz")[0] == 200

    def calls(self, outcome: str) -> float:
        _, text = self.get(self.metrics, "/metrics")
        prefix = f'voice_calls_total{{outcome="{outcome}"}} '
        return next(float(line.removeprefix(prefix)) for line in text.splitlines() if line.startswith(prefix))

    def wait(self, what: Callable[[], object], *, seconds: float = 90) -> None:
        deadline = time.monotonic() + seconds
        while not what():
            assert self.child.poll() is None, self.end()
            assert time.monotonic() < deadline, "it did not come to be in time"
            time.sleep(0.1)


@contextlib.contextmanager
def worker(**variables: str) -> Iterator[Worker]:
    name, health, metrics = f"agent-{uuid.uuid4().hex[:8]}", free_port(), free_port()
    given = {
        "HOST": "127.0.0.1",
        "HEALTH_PORT": str(health),
        "METRICS_PORT": str(metrics),
        "AGENT_NAME": name,
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    with tempfile.TemporaryFile("w+") as out:
        child = subprocess.Popen(
            [sys.executable, "-m", "voice_agent"],
            env={**os.environ, **LIVEKIT, **given, **variables},
            stdout=out,
            stderr=subprocess.STDOUT,
        )
        try:
            yield Worker(child, name, health, metrics, out)
        finally:
            with contextlib.suppress(psutil.NoSuchProcess):
                for one in reversed(psutil.Process(child.pid).children(recursive=True)):
                    with contextlib.suppress(psutil.NoSuchProcess):
                        one.kill()
            child.kill()
            child.wait()


class Caller:
    """Someone who calls, plays a tone, and listens."""

    def __init__(self, agent_name: str) -> None:
        self._agent_name = agent_name
        self.room = rtc.Room()
        self.transcript: list[str] = []
        self._reading: list[asyncio.Task[None]] = []
        self.attributes: dict[str, str] = {}
        self._track: asyncio.Future[rtc.Track] = asyncio.get_running_loop().create_future()
        self._playing: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Caller:
        name = f"test-{uuid.uuid4().hex}"
        token = (
            api.AccessToken(LIVEKIT["LIVEKIT_API_KEY"], LIVEKIT["LIVEKIT_API_SECRET"])
            .with_identity("caller")
            .with_grants(api.VideoGrants(room_join=True, room=name))
            .with_room_config(
                api.RoomConfiguration(name=name, agents=[api.RoomAgentDispatch(agent_name=self._agent_name)])
            )
            .to_jwt()
        )

        def on_track(track: rtc.Track, _: object, participant: rtc.RemoteParticipant) -> None:
            self.attributes = dict(participant.attributes)
            if not self._track.done():
                self._track.set_result(track)

        def on_text(stream: rtc.TextStreamReader, _: str) -> None:
            self._reading.append(asyncio.create_task(read(stream)))

        async def read(stream: rtc.TextStreamReader) -> None:
            assert stream.info.attributes["lk.transcription_final"] == "true"
            self.transcript.append(await stream.read_all())

        self.room.on("track_subscribed", on_track)
        self.room.register_text_stream_handler("lk.transcription", on_text)
        await self.room.connect(LIVEKIT["LIVEKIT_URL"], token)
        source = rtc.AudioSource(RATE, 1, queue_size_ms=100)
        await self.room.local_participant.publish_track(
            rtc.LocalAudioTrack.create_audio_track("mic", source),
            rtc.TrackPublishOptions(source=rtc.TrackSource.SOURCE_MICROPHONE),
        )
        self._playing = asyncio.create_task(self._play(source))
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._playing:
            self._playing.cancel()
        await self.room.disconnect()

    async def _play(self, source: rtc.AudioSource) -> None:
        """A second of tone, a second of silence, and so on."""
        count = RATE // 100
        number = 0
        while True:
            loud = 0.3 if number // 100 % 2 == 0 else 0.0
            times = (np.arange(count) + number * count) / RATE
            samples = (loud * 32767 * np.sin(2 * np.pi * TONE * times)).astype(np.int16)
            await source.capture_frame(rtc.AudioFrame(samples.tobytes(), RATE, 1, count))
            number += 1

    async def hears_the_tone(self, within: float = 20) -> bool:
        """Whether a tenth of a second of what the agent says is mostly our tone."""
        async with asyncio.timeout(within):
            track = await self._track
            stream = rtc.AudioStream(track, sample_rate=RATE, num_channels=1, frame_size_ms=100)
            try:
                async for event in stream:
                    samples = np.frombuffer(event.frame.data, dtype=np.int16).astype(np.float64)
                    power = np.abs(np.fft.rfft(samples)) ** 2
                    bin_width = RATE / len(samples)
                    around = slice(int(TONE / bin_width) - 2, int(TONE / bin_width) + 3)
                    if np.sqrt(np.mean(samples**2)) > 1000 and power[around].sum() > 0.8 * power.sum():
                        return True
            finally:
                await stream.aclose()
        return False


async def until(done: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, "it did not come to be in time"
        await asyncio.sleep(0.1)


def test_a_wrong_environment_ends_it_with_one_clear_message() -> None:
    with worker(LIVEKIT_URL="", LIVEKIT_API_SECRET="", VA_TRACK="beta") as running:
        code, out = running.end()
    assert code == 2
    assert out.startswith("voice-agent cannot start") and "Traceback" not in out
    assert "LIVEKIT_URL: is not set" in out and "VA_TRACK" in out


def test_it_is_not_ready_before_livekit_knows_it_and_ends_when_told() -> None:
    nowhere = f"ws://127.0.0.1:{free_port()}"
    with worker(LIVEKIT_URL=nowhere, LIVEKIT_API_KEY="k", LIVEKIT_API_SECRET="s" * 32) as running:
        running.wait(lambda: running.get(running.metrics, "/metrics")[0] == 200, seconds=60)
        assert running.get(running.metrics, "/readyz")[0] == 503
        assert running.calls("ok") == 0
        running.wait(lambda: running.get(running.health, "/")[0] == 200, seconds=60)
        running.child.send_signal(signal.SIGTERM)
        code, out = running.end()
    assert code == 0, out
    assert all(json.loads(line)["release"] == "unknown" for line in out.splitlines())


@needs_livekit
def test_a_call_is_answered_with_its_echo_and_a_transcript() -> None:
    with worker(VA_TRACK="canary") as running:
        running.wait(running.ready)

        async def call() -> list[str]:
            async with Caller(running.agent_name) as caller:
                assert await caller.hears_the_tone()
                assert caller.attributes["va.track"] == "canary"
                await until(lambda: len(caller.transcript) >= 2)
                return caller.transcript

        hello, heard, *_ = asyncio.run(call())
        assert hello == "No AI provider is configured, so you hear yourself."
        assert heard.startswith("I heard you for ")
        running.wait(lambda: running.calls("ok") == 1)
        assert "lk_agents_active_job_count" in running.get(running.metrics, "/metrics")[1]


@needs_livekit
def test_sigterm_lets_the_running_call_end_and_takes_no_other() -> None:
    with worker() as running:
        running.wait(running.ready)

        async def calls() -> None:
            async with Caller(running.agent_name) as caller:
                assert await caller.hears_the_tone()
                running.child.send_signal(signal.SIGTERM)
                await asyncio.sleep(1)
                assert running.child.poll() is None and not running.ready()
                async with Caller(running.agent_name) as late:
                    with pytest.raises(TimeoutError):
                        await late.hears_the_tone(within=3)
                assert await caller.hears_the_tone()

        asyncio.run(calls())
        code, out = running.end()
    assert code == 0, out


@needs_livekit
def test_calls_are_cut_off_after_the_drain_timeout() -> None:
    with worker(DRAIN_TIMEOUT_SECONDS="1") as running:
        running.wait(running.ready)

        async def call() -> None:
            async with Caller(running.agent_name) as caller:
                assert await caller.hears_the_tone()
                running.child.send_signal(signal.SIGTERM)
                await until(lambda: running.child.poll() is not None)

        asyncio.run(call())
        assert running.end()[0] == 0


@needs_livekit
def test_a_call_whose_process_dies_is_counted_as_an_error() -> None:
    with worker(IDLE_PROCESSES="0") as running:
        running.wait(running.ready)

        async def call() -> None:
            async with Caller(running.agent_name) as caller:
                assert await caller.hears_the_tone()
                await asyncio.sleep(2)
                _, text = running.get(running.metrics, "/metrics")
                assert "voice_calls_active 1.0" in text
                children = psutil.Process(running.child.pid).children(recursive=True)
                jobs = [
                    one
                    for one in children
                    if one.children() == [] and "forkserver" in " ".join(one.cmdline())
                ]
                for job in jobs[-1:]:
                    job.kill()
                await asyncio.sleep(1)

        asyncio.run(call())
        running.wait(lambda: running.calls("error") == 1)


@needs_livekit
def test_a_full_worker_refuses() -> None:
    with worker(MAX_CALLS="1") as running:
        running.wait(running.ready)

        async def calls() -> None:
            async with Caller(running.agent_name) as caller:
                assert await caller.hears_the_tone()
                async with Caller(running.agent_name) as second:
                    with pytest.raises(TimeoutError):
                        await second.hears_the_tone(within=3)

        asyncio.run(calls())
        running.wait(lambda: running.calls("rejected") >= 1)


@needs_livekit
def test_a_caller_who_never_comes_is_a_no_show() -> None:
    with worker(CALLER_TIMEOUT_SECONDS="1") as running:
        running.wait(running.ready)

        async def dispatch() -> None:
            async with api.LiveKitAPI(*LIVEKIT.values()) as livekit:
                await livekit.agent_dispatch.create_dispatch(
                    api.CreateAgentDispatchRequest(
                        agent_name=running.agent_name, room=f"test-{uuid.uuid4().hex}"
                    )
                )

        asyncio.run(dispatch())
        running.wait(lambda: running.calls("no_show") == 1)
