from __future__ import annotations

import os

import pytest
from voice_agent.settings import Settings

LIVEKIT = {
    name: os.environ.get(name, "") for name in ("LIVEKIT_URL", "LIVEKIT_API_KEY", "LIVEKIT_API_SECRET")
}


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The suite runs in the runtime image: what is set there for production must not leak into a test."""
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
