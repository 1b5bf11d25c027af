"""Who we are at a registry that is not ours: as `docker login` left it, else nobody, which is enough to pull.

Read: `auths` of $DOCKER_CONFIG/config.json (~/.docker by default), as docker, podman, helm, skopeo and
`az acr login` write it. Credential helpers are not asked.
"""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path

import httpx

from ci.errors import BadInput
from ci.registry.auth import BearerAuth, password_tokens

__all__ = ["log_in"]


def log_in(endpoint: str) -> httpx.Auth:
    """Tokens for that endpoint, asked for when it demands one; BadInput when the file cannot be read."""
    return BearerAuth(password_tokens(*_credentials(endpoint)))


def _credentials(endpoint: str) -> tuple[str, str]:
    folder = Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker")
    try:
        known = json.loads((folder / "config.json").read_bytes()).get("auths", {})
        entry = known.get(endpoint) or known.get(f"https://{endpoint}") or {}
        user, _, password = base64.b64decode(entry.get("auth", "")).decode().partition(":")
    except FileNotFoundError:
        return "", ""
    except (OSError, ValueError, AttributeError) as error:
        raise BadInput(  # without the error's own text: the file holds passwords
            f"{folder / 'config.json'} cannot be read: {type(error).__name__}",
            hint="docker login writes it; DOCKER_CONFIG names another folder",
        ) from None
    return user, password
