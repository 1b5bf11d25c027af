"""Who we are to Azure: Entra credentials, the same for registries, deployments, vaults and blobs.

In a job of GitHub Actions it is the application that AZURE_CLIENT_ID and AZURE_TENANT_ID name, by the token
that GitHub gives the job: a new one each time, so neither `az` nor a secret is needed, and nothing runs out
while a promotion bakes. Elsewhere it is azure-identity's usual order: environment, workload identity,
managed identity, `az login`.

The subject that Entra has to trust is the job's: repo:OWNER/REPO:environment:NAME. See
https://learn.microsoft.com/entra/workload-id/workload-identity-federation.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ci.actions import gives_tokens, id_token

if TYPE_CHECKING:
    from azure.core.credentials import TokenCredential

__all__ = ["AUDIENCE", "credential", "for_a_program"]

AUDIENCE = "api://AzureADTokenExchange"
"""Whom GitHub's token is for, as Entra asks it."""


def credential() -> TokenCredential:
    """It remembers its tokens: make one for all that need it. Its clients block, so they are for threads."""
    from azure.identity import ClientAssertionCredential, DefaultAzureCredential

    if who := _application():
        return ClientAssertionCredential(*who, func=_assertion)
    return DefaultAzureCredential()


@contextmanager
def for_a_program() -> Iterator[dict[str, str]]:
    """What a program that signs in by itself (cosign, to Key Vault) has to find in its environment, too.

    In a job of GitHub it is the file that workload identity keeps its token in, for as long as this lasts.
    Elsewhere nothing: it looks where azure-identity looks.
    """
    if _application() is None:
        yield {}
        return
    with tempfile.TemporaryDirectory(prefix="va-entra-") as folder:  # for its owner only
        file = Path(folder) / "token"
        file.touch(mode=0o600)
        file.write_text(_assertion())
        yield {"AZURE_FEDERATED_TOKEN_FILE": str(file)}


def _application() -> tuple[str, str] | None:
    """Tenant and client of the application that this job of GitHub is; None elsewhere."""
    tenant, client = os.environ.get("AZURE_TENANT_ID"), os.environ.get("AZURE_CLIENT_ID")
    return (tenant, client) if tenant and client and gives_tokens() else None


def _assertion() -> str:
    return id_token(AUDIENCE)
