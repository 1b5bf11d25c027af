"""PostgreSQL: how it is logged in to, and what can go wrong there."""

from __future__ import annotations

import ssl
from typing import Any

from asyncpg.exceptions import InterfaceError, PostgresError

from voice_api.entra import POSTGRESQL, EntraUnavailable, Tokens
from voice_api.settings import DatabaseSettings

__all__ = ["UNAVAILABLE", "connection_options"]

UNAVAILABLE = (PostgresError, InterfaceError, EntraUnavailable, TimeoutError, OSError)
"""What a statement raises when the server does not answer, refuses us, or has not got our tables."""

_CONNECT_SECONDS = 3.0


def connection_options(settings: DatabaseSettings) -> dict[str, Any]:
    """What asyncpg.connect and asyncpg.create_pool take. Each connection asks anew for what lets it in."""
    password: Any = settings.database_password.get_secret_value() if settings.database_password else None
    if settings.database_entra:
        password = Tokens(settings, POSTGRESQL).token
    return {
        "dsn": settings.database_url,
        "user": settings.database_user,
        "password": password,
        "ssl": ssl.create_default_context() if settings.database_tls else False,
        "timeout": _CONNECT_SECONDS,
        "server_settings": {"application_name": "voice-api"},
    }
