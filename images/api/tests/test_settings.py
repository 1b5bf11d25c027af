from __future__ import annotations

import pytest
from voice_api.settings import Settings, SettingsError, read_settings

GOOD = {
    "REDIS_URL": "redis://localhost:6379",
    "LIVEKIT_URL": "ws://localhost:7880",
    "LIVEKIT_API_KEY": "key",
    "LIVEKIT_API_SECRET": "hush-hush",
}


def environment(monkeypatch: pytest.MonkeyPatch, **variables: str) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def test_the_environment_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    environment(monkeypatch, **GOOD, VA_TRACK="canary", SESSION_TTL_SECONDS="120")
    settings = read_settings(Settings)
    assert settings.va_track == "canary"
    assert settings.session_ttl_seconds == 120
    assert settings.caller_url == "ws://localhost:7880"


def test_an_empty_variable_means_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    environment(monkeypatch, **GOOD, FAULT_ERROR_RATE="", LIVEKIT_PUBLIC_URL="")
    assert read_settings(Settings).fault_error_rate == 0


def test_every_missing_variable_is_named() -> None:
    with pytest.raises(SettingsError) as error:
        read_settings(Settings)
    for name in GOOD:
        assert f"{name}: is not set" in str(error.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("REDIS_URL", "http://localhost"),
        ("LIVEKIT_URL", "localhost:7880"),
        ("VA_TRACK", "beta"),
        ("FAULT_ERROR_RATE", "1.5"),
        ("RATE_LIMIT_BURST", "0"),
        ("DATABASE_URL", "postgresql://user:password@db/voice"),
        ("DATABASE_URL", "mysql://db/voice"),
        ("ADMIN_TOKEN", "short"),
        ("DATABASE_ENTRA", "yes"),
    ],
)
def test_a_wrong_variable_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    environment(monkeypatch, **(GOOD | {name: value}))
    with pytest.raises(SettingsError) as error:
        read_settings(Settings)
    lines = str(error.value).splitlines()
    assert len(lines) == 2 and lines[1].startswith(f"  {name}: ")


def test_no_value_of_a_variable_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    environment(monkeypatch, **(GOOD | {"REDIS_URL": "postgres://user:hush-hush@db"}))
    with pytest.raises(SettingsError) as error:
        read_settings(Settings)
    assert "hush-hush" not in str(error.value)
    environment(monkeypatch, **GOOD)
    assert "hush-hush" not in repr(read_settings(Settings))
