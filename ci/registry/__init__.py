"""OCI registries: names and digests, what they hold, one client for any of them, and whole transfers.

    async with registry_at("127.0.0.1:5501") as registry:
        pushed = await push(registry, "fastapi-backend", open_archive(path), tags=["v1"])

Everything is addressed by digest and checked against it; tags are names for people. The protocol is the OCI
distribution specification 1.1 (with the referrers API, or its fallback tag where a registry lacks it). An
Azure Container Registry is an AzureRegistry, which signs in with Entra and has locks: `registry_at` chooses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ci.registry.acr import AzureRegistry, is_azure, registry_at
    from ci.registry.auth import BearerAuth, Challenge, Token, password_auth, password_tokens
    from ci.registry.blobs import Outcome
    from ci.registry.client import Held, Registry
    from ci.registry.connection import Unusable
    from ci.registry.content import (
        Blob,
        Bundle,
        Descriptor,
        Manifest,
        artifact,
        open_archive,
        parse_manifest,
    )
    from ci.registry.login import log_in
    from ci.registry.references import (
        Reference,
        digest_of,
        parse_digest,
        parse_endpoint,
        parse_reference,
        parse_repository,
    )
    from ci.registry.transfer import Pushed, missing, push

__all__ = [
    "AzureRegistry",
    "BearerAuth",
    "Blob",
    "Bundle",
    "Challenge",
    "Descriptor",
    "Held",
    "Manifest",
    "Outcome",
    "Pushed",
    "Reference",
    "Registry",
    "Token",
    "Unusable",
    "artifact",
    "digest_of",
    "is_azure",
    "log_in",
    "missing",
    "open_archive",
    "parse_digest",
    "parse_endpoint",
    "parse_manifest",
    "parse_reference",
    "parse_repository",
    "password_auth",
    "password_tokens",
    "push",
    "registry_at",
]

_ROOMS = ("references", "content", "blobs", "connection", "auth", "client", "transfer", "login", "acr")


def __getattr__(name: str) -> Any:
    """Import what is used: a pipeline that meets no registry does not wait for clients of them."""
    from importlib import import_module

    for room in _ROOMS if name in __all__ else ():
        if hasattr(module := import_module(f"ci.registry.{room}"), name):
            found = globals()[name] = getattr(module, name)  # the next one does not ask here
            return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
