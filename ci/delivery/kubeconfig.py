"""A kubeconfig: how a cluster is reached and signed in to, by our client, by `helm` and by `kubectl`.

Clusters of AKS take tokens of Entra. `va kube token` is the plugin that hands them to programs that read a
kubeconfig (client.authentication.k8s.io, kubernetes.io/docs/reference/config-api/client-authentication.v1);
our own client has them without a process.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import yaml

from ci import entra
from ci.errors import BadInput, SystemUnavailable

if TYPE_CHECKING:  # whoever writes a kubeconfig needs no client
    from kubernetes import client, config

__all__ = ["Server", "kubeconfig_of", "read_settings"]

_API = "client.authentication.k8s.io/v1"
_COMMAND = ("va", "kube", "token")
_TENANT, _SERVER = "--tenant", "--server-id"


@dataclass(frozen=True, kw_only=True)
class Server:
    """An API server: its URL, and the certificate of its authority (PEM, in base64); none: a public one."""

    address: str
    authority: str = ""


def kubeconfig_of(servers: Mapping[str, Server], tenant: str) -> dict[str, Any]:
    """A kubeconfig for clusters of AKS: by each context's name its API server.

    It holds no secret, and is the same for everybody: who signs in is whoever runs it.
    """
    plugin = {
        "apiVersion": _API,
        "command": _COMMAND[0],
        "args": [*_COMMAND[1:], _TENANT, tenant],
        "interactiveMode": "Never",
        "provideClusterInfo": False,
        "installHint": "va is in .venv/bin of the checkout: put it on PATH",
    }
    first = next(iter(servers), "")
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": first,
        "clusters": [
            {
                "name": name,
                "cluster": {
                    "server": server.address,
                    **({"certificate-authority-data": server.authority} if server.authority else {}),
                },
            }
            for name, server in servers.items()
        ],
        "users": [{"name": "entra", "user": {"exec": plugin}}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": "entra"}} for name in servers],
    }


def read_settings(kubeconfig: Path, context: str) -> client.Configuration:
    """What a kubeconfig says of a context, for the official client; BadInput lists the contexts there are.

    A plugin of somebody else's is run; ours is not, and is asked when a token is needed.
    """
    from kubernetes import client, config

    if not kubeconfig.is_file():
        raise SystemUnavailable(
            f"there is no kubeconfig {kubeconfig}",
            hint="for the embedded platform, va up makes it; for Azure, va estate init azure",
        )
    settings = client.Configuration()
    said = _by_entra(kubeconfig, context)
    try:
        if said is None:
            config.load_kube_config(  # type: ignore[no-untyped-call]
                config_file=str(kubeconfig),
                context=context,
                client_configuration=settings,
                persist_config=False,
            )
            return settings
        rest, server, tenant = said
        config.load_kube_config_from_dict(  # type: ignore[no-untyped-call]
            rest, context=context, client_configuration=settings, persist_config=False
        )
    except config.ConfigException as error:
        raise _unusable(kubeconfig, context, error) from error

    def renew(now: client.Configuration) -> None:
        now.api_key["BearerToken"] = f"Bearer {entra.token(server, tenant=tenant).text}"

    settings.api_key["BearerToken"] = ""  # that there is one; each request asks `renew` for it
    settings.refresh_api_key_hook = renew  # type: ignore[assignment]  # the client says None and no more
    return settings


def _by_entra(kubeconfig: Path, context: str) -> tuple[dict[str, Any], str, str] | None:
    """The kubeconfig without our own plugin, and what that asks for; None where the context has another."""
    try:
        if "exec" not in (text := kubeconfig.read_text()):
            return None  # the client reads it itself
        said = yaml.safe_load(text)
        name = next(one["context"]["user"] for one in said["contexts"] if one["name"] == context)
        user = next(one["user"] for one in said["users"] if one["name"] == name)
        plugin = user["exec"]
        words = [str(word) for word in (plugin["command"], *(plugin.get("args") or ()))]
    except (OSError, ValueError, LookupError, TypeError, StopIteration, yaml.YAMLError):
        return None
    options = dict(zip(words[3::2], words[4::2], strict=False))
    if (PurePath(words[0]).name, *words[1:3]) != _COMMAND or set(options) - {_TENANT, _SERVER}:
        return None
    del user["exec"]
    for one in said["clusters"]:
        authority = one["cluster"].get("certificate-authority")
        if authority:  # named from where the kubeconfig is
            one["cluster"]["certificate-authority"] = str(kubeconfig.parent / authority)
    return said, options.get(_SERVER, entra.CLUSTERS), options.get(_TENANT, "")


def _unusable(kubeconfig: Path, context: str, error: config.ConfigException) -> BadInput:
    """What is wrong with a kubeconfig, which was read once and is read again for that."""
    from kubernetes import config

    try:
        contexts, _ = config.list_kube_config_contexts(str(kubeconfig))  # type: ignore[no-untyped-call]
    except config.ConfigException as second:
        return BadInput(f"{kubeconfig} is not a usable kubeconfig: {second}")
    known = [str(item["name"]) for item in contexts]
    if context in known:
        return BadInput(f"{kubeconfig} is not a usable kubeconfig: {error}")
    return BadInput(
        f"{kubeconfig} has no context {context!r}", hint=f"contexts there: {', '.join(known) or 'none'}"
    )
