"""Who we are to Azure: Entra credentials, the same for registries, deployments, vaults and blobs.

In a job of GitHub Actions it is the application that AZURE_CLIENT_ID and AZURE_TENANT_ID name, by the token
that GitHub gives the job: a new one each time, so neither `az` nor a secret is needed, and nothing runs out
while a promotion bakes. Elsewhere it is azure-identity's usual order: environment, workload identity,
managed identity, `az login`.

The subject that Entra has to trust is the job's: repo:OWNER/REPO:environment:NAME. See
https://learn.microsoft.com/entra/workload-id/workload-identity-federation.

A token for what has no SDK of Azure's before it (a cluster, managed Prometheus) is kept in a file of its
owner's, so that each `helm` and `kubectl`, a process of its own, does not sign in anew.
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import os
import re
import stat
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from ci import places
from ci.actions import gives_tokens, id_token
from ci.errors import PipelineError, SystemUnavailable
from ci.files import new_file

if TYPE_CHECKING:
    from azure.core.credentials import TokenCredential
    from azure.core.exceptions import AzureError

__all__ = [
    "AUDIENCE", "CLUSTERS", "METRICS", "Token", "credential", "for_a_program", "is_a_job", "not_let_in",
    "said", "token",
]  # fmt: skip

AUDIENCE = "api://AzureADTokenExchange"
"""Whom GitHub's token is for, as Entra asks it."""

CLUSTERS = "6dae42f8-4368-4678-94ff-3960e28e3630"
"""The application that all clusters of AKS are to Entra. Source: learn.microsoft.com, "Use kubelogin"."""

METRICS = "https://prometheus.monitor.azure.com"
"""Whom a token for managed Prometheus is for.

Source: learn.microsoft.com, "Query Prometheus metrics using the API and PromQL", Request access token.
"""

_RENEW_SECONDS = 300.0
"""A token is renewed so long before its end: what begins with it has to end with it."""

_REFUSALS = (
    (
        r"AADSTS(50020|50059|90002|900021|900023|700016)\b|wrong issuer|InvalidAuthenticationTokenTenant",
        "that is the wrong tenant",
        "az login --tenant TENANT, or set AZURE_TENANT_ID: the tenant that the subscription is in",
    ),
    (
        r"AADSTS(50078|50089|50132|50173|70008|70043|700024|700082|700084|7000222|7000215)\b",
        "the sign-in has expired, or counts no more",
        "az login again; of an application, give it a new secret",
    ),
    (
        r"AADSTS(700211|700212|700213|70021)\b",
        "Entra does not trust this job",
        "its federated credential needs the job's own subject, repo:OWNER/REPO:environment:NAME",
    ),
    (
        r"AADSTS(50105|53003|530003|500011|650052|65001)\b",
        "this identity has no right to it",
        "an administrator of Entra has to allow it: an assignment, a consent, or conditional access",
    ),
)
"""What Entra says no for: its code, in our words, and what to do.

Source: learn.microsoft.com/entra/identity-platform/reference-error-codes.
"""


@dataclass(frozen=True, kw_only=True)
class Token:
    """An access token, and until when it counts (Unix seconds)."""

    text: str
    until: float


def credential() -> TokenCredential:
    """It remembers its tokens: make one for all that need it. Its clients block, so they are for threads."""
    from azure.identity import ClientAssertionCredential, DefaultAzureCredential

    # Nobody's log is asked for: what did not let us in is said once, by `not_let_in`.
    logging.getLogger("azure").addHandler(logging.NullHandler())
    if who := _application():
        return ClientAssertionCredential(*who, func=_assertion)
    return DefaultAzureCredential()


def is_a_job() -> bool:
    """Whether we are a job of GitHub that signs in by its own token."""
    return _application() is not None


def token(resource: str, *, tenant: str = "") -> Token:
    """A token for a resource, a new one shortly before the last one's end. It blocks, and is for threads.

    SystemUnavailable in one line: nobody is signed in, the sign-in has expired, Entra gives none for that, or
    it would be of another tenant than the one that is wanted.
    """
    from azure.core.exceptions import AzureError

    who = _who()
    key = hashlib.sha256("|".join((who, resource, tenant)).encode()).hexdigest()
    # What a job was given is not left to the next one on its machine: GitHub empties this folder.
    file = Path(os.environ.get("RUNNER_TEMP") or places.state()) / "entra" / f"{key[:32]}.json"
    with _asking:
        if (kept := _read(file)) is not None:
            return kept
        try:
            found = _shared(who).get_token(f"{resource}/.default")
        except AzureError as error:
            raise not_let_in(error, f"a token for {resource}") from error
        given = _tenant_of(found.token)
        if tenant and given and given != tenant:
            raise SystemUnavailable(
                f"the sign-in is to the tenant {given}, and {tenant} is wanted",
                hint=f"az login --tenant {tenant}, or set AZURE_TENANT_ID",
            )
        new = Token(text=found.token, until=float(found.expires_on))
        _write(file, new)
        return new


_asking = threading.Lock()


def said(error: AzureError) -> str:
    """What Azure says of it, in a line."""
    lines = str(error.message or error).strip().splitlines()
    return lines[0] if lines else "without a word"


def not_let_in(error: AzureError, what: str) -> SystemUnavailable:
    """What azure-identity says over many lines, in one: why there is nothing for us, and what to do."""
    text = str(error.message or error)
    known = next((each for each in _REFUSALS if re.search(each[0], text)), None)
    # `DefaultAzureCredential` tells of each way it tried; what Entra itself said is the reason.
    said = re.search(r"AADSTS[0-9]+: .*?(?= Trace ID:|[\r\n]|$)", text)
    told = said[0] if said else ""
    if not told and "Attempted credentials" in text:
        told = "nobody is signed in here"
    told = told or next((line.strip() for line in text.splitlines() if line.strip()), "without a word")
    return SystemUnavailable(
        f"Azure does not let us in, for {what}: {f'{known[1]} ({told})' if known else told}",
        hint=known[2] if known else "az login, or set AZURE_CLIENT_ID and its like",
    )


def _who() -> str:
    """What tells one sign-in from another: a token that was kept is nobody else's."""
    said = {key: value for key, value in os.environ.items() if key.startswith("AZURE_")}
    profile = Path(os.environ.get("AZURE_CONFIG_DIR") or "~/.azure").expanduser() / "azureProfile.json"
    with suppress(OSError):
        said["profile"] = str(profile.stat().st_mtime_ns)  # `az login` and `az account set` write it
    said["job"] = os.environ.get("GITHUB_RUN_ID", "") + os.environ.get("GITHUB_JOB", "")
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


@lru_cache(maxsize=4)
def _shared(_who: str) -> TokenCredential:
    """One credential a sign-in: it remembers which way worked."""
    return credential()


def _read(file: Path) -> Token | None:
    """What is kept there, unless others may have read or written it, or it soon counts no more."""
    try:
        kind = file.lstat()
        if not stat.S_ISREG(kind.st_mode) or kind.st_uid != os.geteuid() or kind.st_mode & 0o077:
            return None
        said = json.loads(file.read_text())
        kept = Token(text=str(said["token"]), until=float(said["until"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return kept if kept.until - time.time() > _RENEW_SECONDS else None


def _write(file: Path, new: Token) -> None:
    """Keep it for the owner alone; where that cannot be, it is asked for again."""
    with suppress(OSError, PipelineError):
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with new_file(file) as draft:
            draft.touch(mode=0o600)
            draft.write_text(json.dumps({"token": new.text, "until": new.until}))


def _tenant_of(text: str) -> str:
    """The tenant that a token says it is of; empty when it does not say."""
    with suppress(ValueError, IndexError, AttributeError):
        body = text.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
        return str(claims.get("tid") or "")
    return ""


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
