"""Who may use what of a vault and of Blob Storage: as `used_by` says it, by the identity's name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ci.architecture.model import Architecture

__all__ = ["CERTIFICATE", "container_users", "secret_readers"]

CERTIFICATE = "wildcard"
"""The vault's certificate, which has its key in the secret of the same name."""


def secret_readers(architecture: Architecture) -> dict[str, tuple[str, ...]]:
    """Each secret of the vault, the certificate's with them, and the identities that read it."""
    found = {key: secret.used_by for key, secret in architecture.key_vault.secrets.items()}
    return _known(architecture, {**found, CERTIFICATE: architecture.certificates.used_by})


def container_users(architecture: Architecture) -> dict[str, tuple[str, ...]]:
    """Each container and the identities that read and write it."""
    containers = architecture.storage.containers
    return _known(architecture, {key: container.used_by for key, container in containers.items()})


def _known(architecture: Architecture, wanted: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """Without those that have no identity: nothing can be given to them."""
    identities = architecture.access.identities
    return {key: tuple(user for user in users if user in identities) for key, users in wanted.items()}
