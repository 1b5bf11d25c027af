"""Answering without an AI: the caller's audio back at once, and word of each time they spoke.

Nothing here knows of rooms or networks: frames come from any stream and go to any sink.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterable, Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from livekit import rtc

__all__ = ["Ear", "Echoed", "Sink", "Utterance", "echo", "level"]

MAX_BEHIND_SECONDS = 0.12
"""More audio than this waiting to be played, and frames are dropped: an echo may lose a bit, never lag."""


class Sink(Protocol):
    """Where audio is played: rtc.AudioSource, or a test's."""

    @property
    def queued_duration(self) -> float:
        """Seconds of audio that wait to be played."""

    async def capture_frame(self, frame: rtc.AudioFrame) -> None:
        """Play the frame after those that wait."""


@dataclass(frozen=True)
class Utterance:
    """The caller spoke for so many seconds, and was then quiet."""

    seconds: float


@dataclass
class Echoed:
    """What was done so far."""

    frames: int = 0
    dropped: int = 0


class Ear:
    """Hears utterances: sound over `threshold_db` (of full scale), until it was quiet for `pause` seconds."""

    def __init__(self, *, threshold_db: float = -45.0, pause: float = 0.5, least: float = 0.1) -> None:
        self._threshold_db = threshold_db
        self._pause = pause
        self._least = least
        self._loud = 0.0
        self._quiet = 0.0

    def hear(self, level_db: float, seconds: float) -> Utterance | None:
        """Take in so many seconds at that level; the utterance that ended with them, if one did."""
        if level_db > self._threshold_db:
            self._loud += (self._quiet if self._loud else 0.0) + seconds
            self._quiet = 0.0
            return None
        self._quiet += seconds
        if self._quiet < self._pause or not self._loud:
            return None
        heard, self._loud = self._loud, 0.0
        return Utterance(heard) if heard >= self._least else None


def level(frame: rtc.AudioFrame) -> float:
    """The frame's loudness: RMS in decibels relative to full scale; -inf for silence."""
    samples = np.frombuffer(frame.data, dtype=np.int16).astype(np.float64)
    rms = float(np.sqrt(np.mean(np.square(samples)))) if samples.size else 0.0
    return 20 * math.log10(rms / 32768) if rms > 0 else -math.inf


async def echo(
    frames: AsyncIterable[rtc.AudioFrame],
    sink: Sink,
    *,
    on_utterance: Callable[[Utterance], Awaitable[None]],
    ear: Ear | None = None,
) -> Echoed:
    """Play every frame to `sink` until there are no more."""
    ear = ear or Ear()
    echoed = Echoed()
    async for frame in frames:
        if sink.queued_duration > MAX_BEHIND_SECONDS:
            echoed.dropped += 1
        else:
            await sink.capture_frame(frame)
            echoed.frames += 1
        if utterance := ear.hear(level(frame), frame.duration):
            await on_utterance(utterance)
    return echoed
