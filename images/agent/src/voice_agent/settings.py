"""What the environment tells the agent, read once at start-up (and once in each call's process)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, SecretStr, StringConstraints, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

__all__ = ["Settings", "SettingsError", "read_settings"]


class SettingsError(Exception):
    """Variables are missing or wrong; the message has one line for each."""


class Settings(BaseSettings):
    """Each field is the environment variable of its name in upper case."""

    model_config = SettingsConfigDict(frozen=True, env_ignore_empty=True)

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    host: str = "0.0.0.0"  # noqa: S104  # nosec B104  # a container listens on all its interfaces
    health_port: int = Field(8081, ge=0, le=65535)
    metrics_port: int = Field(9465, ge=0, le=65535)

    va_track: Literal["stable", "canary"] = "stable"
    va_release: str = "unknown"

    livekit_url: Annotated[str, StringConstraints(pattern=r"^(wss?|https?)://.+")]
    livekit_api_key: str = Field(min_length=1)
    livekit_api_secret: SecretStr = Field(min_length=1)
    agent_name: str = Field("voice-agent", min_length=1)
    """The name that sessions ask for; only they are given to this worker."""

    max_calls: int = Field(10, ge=1)
    """Calls at the same time. Fixed, not by CPU: the machine's other work must not make us refuse callers."""
    idle_processes: int = Field(1, ge=0)
    """Processes kept warm for the next calls."""
    caller_timeout_seconds: float = Field(60, gt=0)
    """How long to wait in the room for its caller."""
    drain_timeout_seconds: int = Field(3600, ge=1)
    """How long calls may go on after SIGTERM."""


def read_settings() -> Settings:
    """The settings of this process; SettingsError names every wrong variable."""
    try:
        return Settings()
    except ValidationError as error:
        # Only the name and what is wrong: a value may be a secret.
        lines = (
            f"  {'.'.join(str(part) for part in item['loc']).upper()}: {_plain(item['msg'])}"
            for item in error.errors(include_input=False)
        )
        message = "\n".join(("voice-agent cannot start, these variables are wrong:", *lines))
        raise SettingsError(message) from None


def _plain(message: str) -> str:
    return "is not set" if message == "Field required" else message
