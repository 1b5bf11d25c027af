"""`va kube`: signing in to clusters."""

from __future__ import annotations

import json
import os
import sys
from datetime import UTC, datetime
from typing import Annotated

import typer

from ci.commands.answers import failing

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Clusters of AKS: the tokens that they let in.")

_GROUP = "client.authentication.k8s.io"


@app.callback()
def _kube() -> None:
    """A group of its own, with one command."""


@app.command("token")
def kube_token(
    tenant: Annotated[str, typer.Option(help="The Entra tenant that it has to be of; any when empty.")] = "",
    server_id: Annotated[
        str, typer.Option("--server-id", help="The application that clusters are; AKS' own when empty.")
    ] = "",
) -> None:
    """Print an Entra token as an ExecCredential: a kubeconfig's plugin, in place of kubelogin.

    Who signs in: the job of GitHub, a workload or managed identity, or `az login`. Tokens are kept until
    shortly before their end. Example: va kube token --tenant 11111111-2222-3333-4444-555555555555
    """
    from ci import entra

    with failing(False):
        found = entra.token(server_id or entra.CLUSTERS, tenant=tenant)
    until = datetime.fromtimestamp(found.until, UTC)
    credential = {
        "apiVersion": _asked_for(),
        "kind": "ExecCredential",
        "spec": {"interactive": False},
        "status": {"token": found.text, "expirationTimestamp": f"{until:%Y-%m-%dT%H:%M:%SZ}"},
    }
    sys.stdout.write(json.dumps(credential) + "\n")


def _asked_for() -> str:
    """The version that the program before us speaks: it refuses an answer of another."""
    try:
        said = json.loads(os.environ.get("KUBERNETES_EXEC_INFO", ""))["apiVersion"]
    except (ValueError, LookupError, TypeError):
        said = ""
    return said if said in (f"{_GROUP}/v1", f"{_GROUP}/v1beta1") else f"{_GROUP}/v1"
