"""Answers of Secret: where plaintexts come from. They are read when a command needs them, never before."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from urllib.parse import urlsplit

from ci import entra
from ci.engine.chain import Call
from ci.engine.engine import Engine, NotSupported, answer
from ci.engine.values import Secret
from ci.errors import BadInput, SystemUnavailable, ToolMissing
from ci.reasons import reason_of

__all__ = ["plaintext"]


@answer("Query.setSecret")
async def set_secret(engine: Engine, parent: None, call: Call) -> Secret:
    """The plaintext was taken out of the call when it came in: the chain has its MAC."""
    return Secret(name=call.args["name"], mac=call.args["mac"])


@answer("Query.secret")
async def secret(engine: Engine, parent: None, call: Call) -> Secret:
    uri = call.args["uri"]
    scheme, found, _ = uri.partition(":")
    if not found or scheme not in ("env", "file", "azkv"):
        raise NotSupported(f"the secret {uri!r}", "env:NAME, file:PATH or azkv://vault/name")
    return Secret(name=uri, uri=uri, cache_key=call.args["cacheKey"] or "")


async def plaintext(engine: Engine, secret: Secret) -> bytes:
    """The secret's value; from now on it is masked in everything that the session tells."""
    if not secret.uri:
        data = engine.secrets.get(secret.name, secret.mac)
        if data is None:
            raise BadInput(f"the secret {secret.name!r} is of another session: set it in this one")
        return data
    data = await engine.once(("secret", secret.uri), lambda: _read(engine, secret.uri))
    engine.masker.add(data)
    return data


async def _read(engine: Engine, uri: str) -> bytes:
    scheme, _, rest = uri.partition(":")
    if scheme == "env":
        name = rest.removeprefix("//")
        if name not in os.environ:
            raise BadInput(f"secret {uri}: the environment variable {name} is not set")
        return os.environb[name.encode()]
    if scheme == "file":
        path = engine.workdir / Path(rest.removeprefix("//")).expanduser()
        try:
            return await asyncio.to_thread(path.read_bytes)
        except OSError as error:
            raise BadInput(f"secret {uri}: {error.strerror}") from error
    return await _azure(uri)


async def _azure(uri: str) -> bytes:
    """A secret of an Azure Key Vault: azkv://vault/name, or azkv://vault/name/version."""
    parts = urlsplit(uri)
    name, _, version = parts.path.strip("/").partition("/")
    if not parts.netloc or not name:
        raise BadInput(f"secret {uri}: say azkv://vault/name")
    try:
        from azure.core.exceptions import AzureError, ClientAuthenticationError, ResourceNotFoundError
        from azure.keyvault.secrets import SecretClient
    except ImportError as error:
        raise ToolMissing(f"secret {uri}: the package {error.name} is missing") from error
    vault = parts.netloc if "." in parts.netloc else f"{parts.netloc}.vault.azure.net"

    def read() -> bytes:
        with SecretClient(f"https://{vault}", entra.credential()) as client:
            return (client.get_secret(name, version or None).value or "").encode()

    try:
        return await asyncio.to_thread(read)
    except ResourceNotFoundError as error:
        raise BadInput(f"secret {uri}: the vault has no such secret") from error
    except ClientAuthenticationError as error:
        raise entra.not_let_in(error, f"secret {uri}") from error
    except AzureError as error:
        raise SystemUnavailable(f"secret {uri}: {reason_of(error)}") from error


@answer("Secret.name")
async def secret_name(engine: Engine, parent: Secret, call: Call) -> str:
    return "" if parent.uri else parent.name


@answer("Secret.uri")
async def secret_uri(engine: Engine, parent: Secret, call: Call) -> str:
    return parent.uri


@answer("Secret.plaintext")
async def secret_plaintext(engine: Engine, parent: Secret, call: Call) -> str:
    return (await plaintext(engine, parent)).decode("utf-8", "replace")
