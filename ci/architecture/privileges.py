"""Who may read and do what: found out from the role assignments that are rendered."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ci.architecture.access import container_users, secret_readers
from ci.architecture.model import Architecture
from ci.architecture.names import name
from ci.architecture.resources import Fact, Rendered, role_of, words

__all__ = ["Grant", "grants", "privileges"]

_SECRET = "Microsoft.KeyVault/vaults/secrets"  # noqa: S105 - a type of Azure's
_CONTAINER = "Microsoft.Storage/storageAccounts/blobServices/containers"
_REGISTRY = "Microsoft.ContainerRegistry/registries"
_PIPELINES = {"publisher": {"AcrPush", "AcrPull"}, "promoter": {"AcrPull", "Monitoring Data Reader"}}
"""What each may do beside the cluster: who may change what is promoted does not promote it."""


@dataclass(frozen=True, kw_only=True)
class Grant:
    """One role assignment: `who` is an identity's name of the architecture, or `group-ROLE`."""

    who: str
    role: str
    kind: str
    """The type of what it is on; empty for the whole resource group."""
    what: str
    """Its name, with its parents'; of one that names no type (a namespace) the last word alone."""

    @property
    def where(self) -> str:
        """What it is on, in words."""
        return f"{self.kind.rpartition('/')[2]} {self.what}" if self.kind else "the whole resource group"


def grants(architecture: Architecture, rendered: Sequence[Rendered]) -> Iterator[Grant]:
    """Every role assignment that is rendered."""
    identities = {
        name(architecture, "identity", region, part=key): key
        for key in architecture.access.identities
        for region in architecture.order
    }
    for one in rendered:
        if one.type != "Microsoft.Authorization/roleAssignments":
            continue
        properties = one.body["properties"]
        mentioned = words(properties["principalId"])
        scope = words(one.scope or "")
        yield Grant(
            who=next((identities[word] for word in mentioned if word in identities), mentioned[0]),
            role=role_of(one.body),
            kind=scope[1] if scope else "",
            what="/".join(word.strip("/") for word in scope[2:]),
        )


def privileges(architecture: Architecture, rendered: Sequence[Rendered]) -> Iterator[Fact]:
    """What each identity may read against who is to use it, and what pipelines and pods may do beside."""
    given = tuple(grants(architecture, rendered))
    vaults = [name(architecture, "key vault", region) for region in architecture.order]
    accounts = [f"{name(architecture, 'storage', region)}/default" for region in architecture.order]
    yield from _read(_SECRET, vaults, secret_readers(architecture), given)
    yield from _read(_CONTAINER, accounts, container_users(architecture), given)
    yield from (
        Fact(text=f"{one.who}: {one.role} on {one.where}", right=False) for one in _wide(architecture, given)
    )
    yield from _pipelines(architecture, given)


def _wide(architecture: Architecture, given: Sequence[Grant]) -> Iterator[Grant]:
    """What no identity has: secrets, blobs or images of a whole group, and no pod a say in Azure itself."""
    for one in given:
        if one.who.startswith("group-"):
            continue
        identity = architecture.access.identities.get(one.who)
        data = one.role.startswith(("Key Vault", "Storage Blob")) and one.kind not in (_SECRET, _CONTAINER)
        images = one.role.startswith("Acr") and one.kind != _REGISTRY
        pod = not one.kind and (identity is None or identity.service_account is not None)
        if data or images or pod:
            yield one


def _pipelines(architecture: Architecture, given: Sequence[Grant]) -> Iterator[Fact]:
    roles = architecture.access.roles
    for role, allowed in _PIPELINES.items():
        if role not in roles:
            yield Fact(text=f"no role {role}: who publishes and who promotes are not two", right=False)
        for one in (one for one in given if one.who == f"group-{role}"):
            cluster = one.role.startswith("Azure Kubernetes Service")
            right = bool(one.kind) and (role == "promoter" if cluster else one.role in allowed)
            yield Fact(text=f"{one.who}: {one.role} on {one.where}", right=right)
    groups = [roles[role].group for role in _PIPELINES if role in roles]
    if len(set(groups)) < len(groups):
        yield Fact(text="publisher and promoter are one group", right=False)


def _read(
    kind: str, homes: Sequence[str], meant: Mapping[str, Sequence[str]], given: Sequence[Grant]
) -> Iterator[Fact]:
    """In each region who may read each secret or container: all who are to use it, and nobody else."""
    what = kind.rpartition("/")[2].removesuffix("s")
    wanted = {f"{home}/{key}": set(users) for home in homes for key, users in meant.items()}
    found: dict[str, set[str]] = {key: set() for key in wanted}
    for one in given:
        if one.kind == kind:
            found.setdefault(one.what, set()).add(one.who)
    for key, readers in found.items():
        for who in sorted(readers - wanted.get(key, set())):
            yield Fact(text=f"{what} {key}: {who} may read it, and is not to use it", right=False)
        for who in sorted(wanted.get(key, set()) - readers):
            yield Fact(text=f"{what} {key}: {who} uses it, and may not read it", right=False)
    for key in sorted(meant):
        if all(found[f"{home}/{key}"] == wanted[f"{home}/{key}"] for home in homes):
            yield Fact(text=f"{what} {key}: for {', '.join(meant[key]) or 'nobody'}", right=True)
