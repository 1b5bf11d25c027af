from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import numpy as np
import pytest
from livekit import rtc
from voice_agent.echo import Ear, Echoed, Utterance, echo, level

RATE = 48_000


def frame(amplitude: float, *, ms: int = 10, number: int = 0) -> rtc.AudioFrame:
    """A piece of a 440 Hz tone of that amplitude (1 is full scale)."""
    count = RATE * ms // 1000
    times = (np.arange(count) + number * count) / RATE
    samples = (amplitude * 32767 * np.sin(2 * np.pi * 440 * times)).astype(np.int16)
    return rtc.AudioFrame(samples.tobytes(), RATE, 1, count)


@dataclass
class Speaker:
    queued_duration: float = 0.0
    played: list[bytes] = field(default_factory=list)

    async def capture_frame(self, frame: rtc.AudioFrame) -> None:
        self.played.append(bytes(frame.data))


def run(frames: list[rtc.AudioFrame], speaker: Speaker) -> tuple[Echoed, list[Utterance]]:
    heard: list[Utterance] = []

    async def on_utterance(utterance: Utterance) -> None:
        heard.append(utterance)

    async def stream() -> AsyncIterator[rtc.AudioFrame]:
        for one in frames:
            yield one

    return asyncio.run(echo(stream(), speaker, on_utterance=on_utterance)), heard


def test_every_frame_comes_back_unchanged_and_in_order() -> None:
    frames = [frame(0.5, number=number) for number in range(50)]
    speaker = Speaker()
    echoed, _ = run(frames, speaker)
    assert speaker.played == [bytes(one.data) for one in frames]
    assert echoed == Echoed(frames=50, dropped=0)


def test_what_would_lag_is_dropped() -> None:
    echoed, heard = run([frame(0.5)] * 30 + [frame(0)] * 60, Speaker(queued_duration=0.5))
    assert echoed == Echoed(frames=0, dropped=90)
    assert len(heard) == 1  # it is heard all the same


def test_an_utterance_ends_with_a_pause() -> None:
    _, heard = run([frame(0.3)] * 120 + [frame(0)] * 60, Speaker())
    assert [utterance.seconds for utterance in heard] == [pytest.approx(1.2)]


def test_a_short_gap_does_not_end_an_utterance() -> None:
    _, heard = run([frame(0.3)] * 40 + [frame(0)] * 30 + [frame(0.3)] * 30 + [frame(0)] * 60, Speaker())
    assert [utterance.seconds for utterance in heard] == [pytest.approx(1.0)]


def test_two_utterances_are_told_apart() -> None:
    _, heard = run(([frame(0.3)] * 20 + [frame(0)] * 60) * 2, Speaker())
    assert [utterance.seconds for utterance in heard] == [pytest.approx(0.2)] * 2


def test_silence_and_clicks_are_no_utterance() -> None:
    assert run([frame(0)] * 200, Speaker())[1] == []
    assert run([frame(0.9)] + [frame(0)] * 200, Speaker())[1] == []


def test_the_threshold_decides() -> None:
    ear = Ear(threshold_db=-40, pause=0.1)
    assert ear.hear(-41, 1.0) is None and ear.hear(-90, 1.0) is None
    assert ear.hear(-39, 1.0) is None and ear.hear(-90, 1.0) == Utterance(1.0)


@pytest.mark.parametrize(("amplitude", "decibels"), [(1.0, -3.01), (0.5, -9.03), (0.01, -43.01)])
def test_the_level_of_a_tone(amplitude: float, decibels: float) -> None:
    assert level(frame(amplitude, ms=100)) == pytest.approx(decibels, abs=0.05)


def test_the_level_of_silence() -> None:
    assert level(frame(0)) == -math.inf
