"""What the environment tells the API, read once at start-up."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

__all__ = ["DatabaseSettings", "Settings", "SettingsError", "read_settings"]


class SettingsError(Exception):
    """Variables are missing or wrong; the message has one line for each."""


def _url(*schemes: str) -> AfterValidator:
    def check(value: str) -> str:
        if value.partition("://")[0] not in schemes or not value.partition("://")[2]:
            raise ValueError(f"must be a URL that starts with one of {', '.join(s + '://' for s in schemes)}")
        return value

    return AfterValidator(check)


def _without_password(value: str) -> str:
    if urlsplit(value).password is not None:
        raise ValueError("must have no password: that is DATABASE_PASSWORD")
    return value


LiveKitUrl = Annotated[str, _url("ws", "wss", "http", "https")]


class DatabaseSettings(BaseSettings):
    """How PostgreSQL is reached. Each field is the environment variable of its name in upper case."""

    model_config = SettingsConfigDict(frozen=True, env_ignore_empty=True)

    database_url: Annotated[str, _url("postgresql"), AfterValidator(_without_password)] | None = None
    """`postgresql://user@host:5432/voice`; without it no history is kept."""
    database_user: str | None = None
    """Who logs in, where the URL does not say it."""
    database_password: SecretStr | None = None
    database_tls: bool = True
    """Whether the server must show a certificate for its host that the image's authorities signed."""
    database_entra: bool = False
    """Whether to log in by Entra ID as the pod's workload identity instead of with a password."""

    azure_client_id: str = ""
    azure_tenant_id: str = ""
    azure_federated_token_file: Path | None = None
    azure_authority_host: Annotated[str, _url("https", "http")] = "https://login.microsoftonline.com/"
    """These four are set in pods that have a workload identity, by AKS."""

    @model_validator(mode="after")
    def _can_log_in(self) -> Self:
        if self.database_entra and not (
            self.azure_client_id and self.azure_tenant_id and self.azure_federated_token_file
        ):
            raise ValueError(
                "DATABASE_ENTRA: this pod has no workload identity (AZURE_CLIENT_ID and the like)"
            )
        return self


class Settings(DatabaseSettings):
    """All that the API is told."""

    host: str = "0.0.0.0"  # noqa: S104  # nosec B104  # a container listens on all its interfaces
    port: int = Field(8000, ge=0, le=65535)
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"

    va_track: Literal["stable", "canary"] = "stable"
    va_release: str = "unknown"

    redis_url: Annotated[str, _url("redis", "rediss")]
    """Without a password: that is REDIS_PASSWORD, so that it can come from a Secret."""
    redis_password: SecretStr | None = None
    redis_cluster: bool = False
    """Whether Redis is an OSS cluster (Azure Cache for Redis Premium with shards)."""

    livekit_url: LiveKitUrl
    """LiveKit as the API reaches it."""
    livekit_public_url: LiveKitUrl | None = None
    """LiveKit as callers reach it; LIVEKIT_URL when not set."""
    livekit_api_key: str = Field(min_length=1)
    livekit_api_secret: SecretStr = Field(min_length=1)
    agent_name: str = Field("voice-agent", min_length=1)
    """The agents that are dispatched to the sessions made here."""

    history_days: int = Field(365, ge=1)
    """How long the history says that a session was; what is older is deleted."""
    admin_token: SecretStr | None = Field(None, min_length=32)
    """Whoever shows it may erase a person's data; without it nobody may."""

    session_ttl_seconds: int = Field(3600, ge=60, le=24 * 3600)
    token_seconds: int = Field(300, ge=30, le=3600)
    """How long a token lets its caller join. LiveKit renews it while they stay, we while the session is."""
    rate_limit_per_minute: float = Field(600, gt=0)
    """Sessions that one client may create a minute, in the long run."""
    rate_limit_burst: int = Field(60, ge=1)
    """Sessions that one client may create at once."""
    trusted_proxies: str = "127.0.0.1"
    """Addresses or networks, comma-separated, whose X-Forwarded-For is believed; `*` for all."""

    drain_seconds: float = Field(5, ge=0)
    """How long requests are still taken after SIGTERM, while /readyz says no."""
    shutdown_seconds: int = Field(20, ge=1)
    """How long requests in flight may take after that."""

    fault_error_rate: float = Field(0, ge=0, le=1)
    """The share of session requests that fail on purpose, to show that a gate catches a bad release."""

    @property
    def caller_url(self) -> str:
        """LiveKit as callers reach it."""
        return self.livekit_public_url or self.livekit_url


T = TypeVar("T", bound=DatabaseSettings)


def read_settings(kind: type[T]) -> T:
    """The settings of this process; SettingsError names every wrong variable."""
    try:
        return kind()
    except ValidationError as error:
        # Only the name and what is wrong: a value may be a secret.
        lines = (
            "  " + ": ".join((*(str(part).upper() for part in item["loc"]), _plain(item["msg"])))
            for item in error.errors(include_input=False)
        )
        raise SettingsError(
            "\n".join(("voice-api cannot start, these variables are wrong:", *lines))
        ) from None


def _plain(message: str) -> str:
    return {"Field required": "is not set"}.get(message, message.removeprefix("Value error, "))
