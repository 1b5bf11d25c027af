"""An estate made from the architecture and from what its deployments output: nothing is pasted by hand.

    environments/azure.yaml               of people, made once: who may sign, what all environments share
    environments/azure/prod.yaml          of people, made once: hours, approvals, load, whatever differs
    environments/azure/made/prod.yaml     made, each time anew: targets, registries, the chart's values
    environments/azure/made/prod.kubeconfig

Each is laid over the one below it. What is made has the hash of itself in it, so that a change by hand shows.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ci.architecture.chart import values
from ci.architecture.model import Architecture
from ci.architecture.names import name
from ci.azure.outputs import Facts
from ci.delivery.kubeconfig import Server, kubeconfig_of
from ci.errors import BadInput, PolicyBlocked
from ci.files import write_whole

__all__ = ["Signer", "Written", "in_order", "needs_signer", "the_files", "write_estate"]

_NAMESPACE = "voice"
_MARK = "# sha256:"
_ISSUER = "https://token.actions.githubusercontent.com"
_DEADLINE = "15m"
"""How long a publication waits for a region: geo-replication takes minutes."""


@dataclass(frozen=True, kw_only=True)
class Signer:
    """Who signs releases: the workflow `release.yml` of a repository (`OWNER/NAME`), or who holds a key."""

    repository: str
    key: str = ""
    """The file with the public key, named from the checkout; the workflow by its own name when empty."""


@dataclass(frozen=True, kw_only=True)
class Written:
    """One file: `new`, `changed`, `same`, or `yours`: made once and left alone since."""

    file: Path
    what: str


def in_order(architectures: Sequence[Architecture]) -> tuple[Architecture, ...]:
    """As releases go: the smallest first. The last one's registry is what all of them pull from."""
    return tuple(
        sorted(architectures, key=lambda one: (len(one.regions), one.budget.monthly, one.environment))
    )


def needs_signer(estate: str, folder: Path) -> bool:
    """Whether nobody has said yet who may sign."""
    return not (folder / f"{estate}.yaml").exists()


def the_files(
    estate: str,
    ordered: Sequence[Architecture],
    facts: Mapping[str, Mapping[str, Facts]],
    servers: Mapping[str, Server],
    signer: Signer | None,
) -> tuple[dict[str, str], dict[str, str]]:
    """The files by their names below environments/: those of people, and those that are made.

    `facts` by environment and region; environments without any are left as they are. `servers` by the name of
    their cluster.
    """
    owner = ordered[-1]
    people, made = {}, {}
    if signer is not None:
        people[f"{estate}.yaml"] = _shared(estate, signer)
    for number, one in enumerate(ordered):
        if one.environment not in facts:
            continue
        told = facts[one.environment]
        before = ordered[number - 1].environment if number else ""
        own = f"{estate}/made/{one.environment}"
        mine = {told[region].cluster: servers[told[region].cluster] for region in one.order}
        made[f"{own}.yaml"] = _marked(estate, _environment(estate, one, told, owner, before))
        made[f"{own}.kubeconfig"] = _marked(estate, kubeconfig_of(mine, told[one.primary].tenant))
        people[f"{estate}/{one.environment}.yaml"] = _of_people(
            one.environment, last=one is owner, first=not number
        )
    return people, made


def _registry(owner: Architecture, region: str) -> str:
    """Where a region pulls from: the one registry, by its own endpoint there where it has one."""
    own = name(owner, "registry")
    near = region if region in owner.regions else owner.primary
    return f"{own}.{near}.geo.azurecr.io" if owner.registry.regional_endpoints else f"{own}.azurecr.io"


def _environment(
    estate: str, one: Architecture, told: Mapping[str, Facts], owner: Architecture, before: str
) -> dict[str, Any]:
    each = {region: _values(one, region, told[region]) for region in one.order}
    shared = _common(list(each.values()))
    targets = {}
    for region in one.order:
        own = told[region]
        if not own.prometheus:
            raise BadInput(
                f"{one.environment}/{region} has no managed Prometheus: gates would have nothing to ask",
                hint="monitoring.managed_prometheus: true in environments/architecture",
            )
        target = {
            "kubeconfig": f"environments/{estate}/made/{one.environment}.kubeconfig",
            "context": own.cluster,
            "namespace": _NAMESPACE,
            "registry": _registry(owner, region),
            "metrics": own.prometheus.rstrip("/"),
            "gateway": f"https://{one.regions[region].gateway_address}",
            "hostname": f"api.{one.dns.zone}",
        }
        rest = _beyond(each[region], shared)
        targets[region] = {**target, "values": rest} if rest else target
    smallest_first = [[region] for region in reversed(one.order)]
    return {
        "extends": f"../../{estate}.yaml",
        **({"after": before} if before else {}),
        "waves": smallest_first,
        "registries": {"home": _registry(owner, owner.primary), "deadline": _DEADLINE},
        "targets": targets,
        "values": shared,
    }


def _values(one: Architecture, region: str, told: Facts) -> dict[str, Any]:
    """The chart's values of a target, as Azure has it."""
    found = values(
        one, region, identities=told.identities, tenant=told.tenant, prometheus=told.prometheus.rstrip("/")
    )
    found["redis"]["url"] = f"rediss://{told.redis}:10000"
    found["secrets"]["vault"]["url"] = told.vault.rstrip("/")
    server = found.get("livekit", {}).get("server")
    if server and "image" not in server:
        server["enabled"] = False  # until there is one: `va livekit publish`
    # The name of a target's route is the target's own: see `hostname`.
    del found["traffic"]["hostname"]
    return found


def _common(each: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What all of them say alike."""
    first, *others = each
    found: dict[str, Any] = {}
    for key, value in first.items():
        if not all(key in other for other in others):
            continue
        if all(isinstance(one[key], dict) for one in each):
            if (inner := _common([one[key] for one in each])) or not value:
                found[key] = inner
        elif all(other[key] == value for other in others):
            found[key] = value
    return found


def _beyond(whole: Mapping[str, Any], shared: Mapping[str, Any]) -> dict[str, Any]:
    """What is in `whole` and not in `shared`."""
    found: dict[str, Any] = {}
    for key, value in whole.items():
        if isinstance(value, dict) and isinstance(shared.get(key), dict):
            if rest := _beyond(value, shared[key]):
                found[key] = rest
        elif key not in shared:
            found[key] = value
    return found


def _marked(estate: str, content: Mapping[str, Any]) -> str:
    body = yaml.safe_dump(dict(content), sort_keys=False, width=110)
    return (
        f"# Made by `va estate init {estate}`, of environments/architecture and of what Azure made up.\n"
        "# Nothing is changed here: what differs is written in the file that is laid over this one.\n"
        f"{_MARK}{hashlib.sha256(body.encode()).hexdigest()}\n{body}"
    )


def _by_hand(text: str) -> bool:
    """Whether a file that was made is not as it was made."""
    found = re.match(rf"(?:#.*\n)*?{_MARK}([0-9a-f]{{64}})\n", text)
    return found is None or hashlib.sha256(text[found.end() :].encode()).hexdigest() != found[1]


def _shared(estate: str, signer: Signer) -> str:
    workflow = f"https://github.com/{signer.repository}/.github/workflows/release.yml@refs/heads/main"
    root = f"environments/{estate}/trusted_root.json"
    by_name = f"""\
    - identity: {workflow}
      issuer: {_ISSUER}
      trusted_root: {root} # cosign trusted-root create --with-default-services --out FILE"""
    return f"""\
# What the environments of {estate} share. `va estate init` made this file once: it is yours from here on.

extends: base.yaml

# Who may sign releases, and who may have built them: docs/releases.md.
trust:
  signers:
{f"    - key: {signer.key}" if signer.key else by_name}
  builders: ["https://github.com/{signer.repository}/*"]

# One ledger for all who promote (docs/ledger.md); each machine has its own without it.
# ledger: https://ACCOUNT.blob.core.windows.net/CONTAINER
"""


def _of_people(environment: str, *, first: bool, last: bool) -> str:
    lines = [
        f"# {environment} on Azure. `va estate init` made this file once: it is yours from here on.",
        f"# What Azure made up is in made/{environment}.yaml; this is laid over it.",
        f"extends: made/{environment}.yaml",
        "",
    ]
    if first:
        lines += ["# Too few users for a canary: a release is installed at once.", "canary: {steps: []}", ""]
    if not last:
        lines += ["# Nobody calls here unless we do.", "load: {rate: 5, concurrency: 16}", ""]
    lines += [
        "# When a release may go in, who says yes, who is told: docs/policy.md.",
        "# hours: Mon-Thu 09:00-16:00 Europe/Amsterdam",
    ]
    return "\n".join(lines) + "\n"


def write_estate(
    people: Mapping[str, str], made: Mapping[str, str], folder: Path, *, overwrite: bool
) -> tuple[Written, ...]:
    """Write them below `folder`; what people have is left alone, what is made is made anew.

    PolicyBlocked, before anything is written, when a made file was changed by hand, unless `overwrite`.
    """
    there = {key: (folder / key).read_text(errors="replace") for key in made if (folder / key).is_file()}
    changed = sorted(key for key, text in there.items() if _by_hand(text) and text != made[key])
    if changed and not overwrite:
        raise PolicyBlocked(
            f"changed by hand: {', '.join(f'environments/{key}' for key in changed)}; nothing was written",
            hint="write the change into the file that is laid over it; --overwrite makes these anew",
        )
    done = []
    for key, text in {**people, **made}.items():
        file = folder / key
        if key in people and file.exists():
            done.append(Written(file=file, what="yours"))
            continue
        what = "new" if not file.exists() else "same" if there.get(key) == text else "changed"
        write_whole(file, text)
        done.append(Written(file=file, what=what))
    return tuple(done)
