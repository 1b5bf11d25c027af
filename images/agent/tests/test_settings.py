from __future__ import annotations

import pytest
from voice_agent.settings import SettingsError, read_settings

GOOD = {"LIVEKIT_URL": "ws://localhost:7880", "LIVEKIT_API_KEY": "key", "LIVEKIT_API_SECRET": "hush-hush"}


def environment(monkeypatch: pytest.MonkeyPatch, **variables: str) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def test_the_environment_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    environment(monkeypatch, **GOOD, AGENT_NAME="echo", MAX_CALLS="3", VA_RELEASE="")
    settings = read_settings()
    assert (settings.agent_name, settings.max_calls, settings.va_release) == ("echo", 3, "unknown")
    assert settings.drain_timeout_seconds == 3600
    assert "hush-hush" not in repr(settings)


def test_every_missing_variable_is_named() -> None:
    with pytest.raises(SettingsError) as error:
        read_settings()
    for name in GOOD:
        assert f"  {name}: is not set" in str(error.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [("LIVEKIT_URL", "localhost"), ("MAX_CALLS", "0"), ("VA_TRACK", "x"), ("DRAIN_TIMEOUT_SECONDS", "long")],
)
def test_a_wrong_variable_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    environment(monkeypatch, **(GOOD | {name: value}))
    with pytest.raises(SettingsError) as error:
        read_settings()
    assert f"  {name}: " in str(error.value) and "hush-hush" not in str(error.value)
