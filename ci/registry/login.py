"""Who we are at a registry that is not ours: as `docker login` left it, else nobody, which is enough to pull.

Read: `auths` of $DOCKER_CONFIG/config.json (~/.docker by default), as docker, podman, helm, skopeo and
`az acr login` write it, the identity token of the last one too. Credential helpers are not asked.
"""

from __future__ import annotations

import base64
import os
from pathlib import Path

import httpx

from ci.errors import BadInput
from ci.registry.auth import password_auth
from ci.registry.content import read_json

__all__ = ["log_in"]


_DOCKER_HUB = "registry-1.docker.io"
_DOCKER_HUBS_ENTRY = "https://index.docker.io/v1/"


def log_in(endpoint: str, *, attempts: int = 5) -> httpx.Auth:
    """What that endpoint demands, when it demands it: a token, or user and password themselves.

    BadInput when the file cannot be read. `attempts`: as of Registry.
    """
    username, password, identity = _credentials(endpoint)
    return password_auth(username, password, identity=identity, attempts=attempts)


def _credentials(endpoint: str) -> tuple[str, str, str]:
    """User, password and identity token, as far as there are any."""
    folder = Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker")
    try:
        known = read_json((folder / "config.json").read_bytes()).get("auths") or {}
        written = [endpoint, *(f"https://{endpoint}{path}" for path in ("", "/", "/v2/", "/v1/"))]
        written += [_DOCKER_HUBS_ENTRY] if endpoint == _DOCKER_HUB else []
        entry: dict[str, str] = next((known[name] for name in written if known.get(name)), {})
        user, _, password = base64.b64decode(entry.get("auth") or "").decode().partition(":")
        if not user:  # as Kubernetes' secrets of registries may have them
            user, password = str(entry.get("username") or ""), str(entry.get("password") or "")
        identity = str(entry.get("identitytoken") or "")
    except FileNotFoundError:
        return "", "", ""
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise BadInput(  # without the error's own text: the file holds passwords
            f"{folder / 'config.json'} cannot be read: {type(error).__name__}",
            hint="docker login writes it; DOCKER_CONFIG names another folder",
        ) from None
    return user, password, identity
