"""The vulnerability database: mirror it, say which one is used, and have it here before a scan."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from ci import places
from ci.environments import TrustedSigner
from ci.errors import BadInput, SystemUnavailable
from ci.files import write_whole
from ci.layout import Column, Page, Table, page
from ci.registry import Reference, Registry, parse_reference, registry_at
from ci.reporting import Reporter
from ci.scan import (
    JAVA,
    VULNERABILITIES,
    Database,
    DatabaseKind,
    LocalDatabase,
    Mirrored,
    Policy,
    database_complaint,
    fetch,
)
from ci.scan import mirror as copy
from ci.supply.signing import Signer, signature_of
from pipelines.sign import sign_at_home

__all__ = [
    "DatabaseStatus",
    "Databases",
    "database_status",
    "databases",
    "mirror",
    "show_database",
    "show_mirrored",
]

_VARIABLES = {VULNERABILITIES.name: "VA_DATABASE", JAVA.name: "VA_JAVA_DATABASE"}


@dataclass(frozen=True, kw_only=True)
class Databases:
    """What a scan is given; None where neither policy nor environment names one."""

    vulnerabilities: LocalDatabase | None
    java: LocalDatabase | None


@dataclass(frozen=True, kw_only=True)
class DatabaseStatus:
    """Which database scans use now: what the policy has against it, and why it may not be the newest."""

    reference: str | None
    database: Database | None
    age_hours: float | None
    complaint: str
    problem: str


async def mirror(
    source: str,
    destination: str,
    *,
    digest: str | None,
    max_age: timedelta | None,
    reporter: Reporter,
    signer: Signer | None = None,
) -> Mirrored:
    """Copy a database of Trivy's to another registry, and have it signed there; see `ci.scan.mirror`."""
    wanted, target = parse_reference(source), parse_reference(destination)
    if target.digest:
        raise BadInput(f"{destination} names a digest: a copy has the digest of its source")
    if digest:
        if wanted.digest and wanted.digest != digest:
            raise BadInput(f"{source} names another digest than --digest {digest}")
        wanted = parse_reference(f"{source.partition('@')[0]}@{digest}")
    with reporter.step(f"mirror {wanted}") as step:
        async with AsyncExitStack() as stack:
            there = await stack.enter_async_context(_client(target))
            done = await copy(
                await stack.enter_async_context(_client(wanted)),
                wanted,
                there,
                target,
                max_age=max_age,
                now=datetime.now(UTC),
                say=step.say,
            )
            if signer is not None and done.database.digest:
                at = (target.repository, done.database.digest)
                await sign_at_home(there, *at, signer=signer, say=step.say)
        if done.unchanged:
            step.cached("all of it was there")
        else:
            step.say(f"{done.bytes_sent / 2**20:.1f} MiB sent")
    return done


async def databases(policy: Policy, *, reporter: Reporter) -> Databases:
    """The databases that the policy or the environment names, on this machine.

    SystemUnavailable when one that is named cannot be had: whoever names one wants to scan with it. One that
    is named by its digest is believed; one by a tag, when a signer of the policy's has signed it (else
    PolicyBlocked), or where the policy names none.
    """
    rule = policy.vulnerabilities
    return Databases(
        vulnerabilities=await _have(VULNERABILITIES, rule.database, rule.database_signers, reporter),
        java=await _have(JAVA, rule.java_database, rule.database_signers, reporter),
    )


async def database_status(policy: Policy, *, reporter: Reporter) -> DatabaseStatus:
    """Which database scans use now; it is fetched when it is not here."""
    found = (await databases(policy, reporter=reporter)).vulnerabilities
    if found is None:
        complaint = (
            "images are blocked: the policy requires a database" if policy.vulnerabilities.required else ""
        )
        return DatabaseStatus(reference=None, database=None, age_hours=None, complaint=complaint, problem="")
    now = datetime.now(UTC)
    return DatabaseStatus(
        reference=found.reference,
        database=found.database,
        age_hours=(now - found.database.updated).total_seconds() / 3600,
        complaint=database_complaint(found.database, policy.vulnerabilities, now.date()),
        problem=found.problem,
    )


def show_mirrored(done: Mirrored) -> Page:
    """What the mirror has now, for people."""
    table = _pairs()
    table.add("from", done.source)
    table.add("to", f"{done.destination} (tag {done.tag})")
    table.add("made", _made(done.database))
    table.add("sent", f"{done.bytes_sent:,} bytes" if not done.unchanged else "nothing: all of it was there")
    table.add("pin", f"database: {done.destination}")
    return page(table)


def show_database(status: DatabaseStatus) -> Page:
    """Which database is used, for people."""
    if status.database is None:
        return page(
            ("no database: images are not scanned for vulnerabilities", "yellow"),
            "va db mirror copies one; `vulnerabilities.database` in policy.yaml or VA_DATABASE names it",
            *([(status.complaint, "red")] if status.complaint else []),
        )
    table = _pairs()
    table.add("database", status.reference or "")
    table.add("digest", status.database.digest or "")
    table.add("made", _made(status.database))
    table.add("age", f"{status.age_hours:.1f} h")
    if status.problem:
        table.add("note", (status.problem, "yellow"))
    table.add("policy", (status.complaint, "red") if status.complaint else ("accepts it", "green"))
    return page(table)


def _pairs() -> Table:
    return Table(Column(name=""), Column(name="", rank=1, below=True, prose=True))


async def _have(
    kind: DatabaseKind, named: str | None, signers: Sequence[TrustedSigner], reporter: Reporter
) -> LocalDatabase | None:
    text = os.environ.get(_VARIABLES[kind.name]) or named
    if not text:
        return None
    reference = parse_reference(text)
    with reporter.step(f"{kind.name} {reference}") as step:
        try:
            async with _client(reference) as registry:
                found = await fetch(registry, reference, kind=kind, say=step.say)
                believed = bool(reference.digest) or await _signed(registry, reference, found, signers)
        except SystemUnavailable as error:
            raise SystemUnavailable(
                f"the database that scans shall use cannot be had: {error}",
                hint="bring its registry back, or name another one in policy.yaml or by"
                f" {_VARIABLES[kind.name]}; with none named, images are not scanned for vulnerabilities",
            ) from error
        step.say(
            f"of {found.database.updated:%Y-%m-%d %H:%M}" + (f"; {found.problem}" if found.problem else "")
        )
    if not believed:
        reporter.note(
            f"{reference} is a tag, and nobody has to have signed what it names: whoever moves it decides "
            "what scans find (database_signers: docs/scanning.md)"
        )
    return found


async def _signed(
    registry: Registry, reference: Reference, found: LocalDatabase, signers: Sequence[TrustedSigner]
) -> bool:
    """Whether somebody had to sign that database, and did: PolicyBlocked when not.

    Remembered by its digest, for the time when its registry does not answer.
    """
    digest = found.database.digest
    if not signers or digest is None:
        return False
    who = hashlib.sha256(json.dumps([digest, *map(_identity, signers)]).encode()).hexdigest()
    memo = places.cache() / "trivy" / "signed" / who
    if not memo.is_file():
        await signature_of(registry, reference.repository, digest, signers)
        write_whole(memo, digest)
    return True


def _identity(signer: TrustedSigner) -> str:
    """What a signer is: with the key itself, since a file may get another one."""
    files = [file for file in (signer.key, signer.trusted_root) if file is not None and file.is_file()]
    return " ".join([str(signer), *(hashlib.sha256(file.read_bytes()).hexdigest() for file in files)])


def _client(reference: Reference) -> Registry:
    return registry_at(reference.registry)


def _made(database: Database) -> str:
    due = f", the next one due {database.next_update:%Y-%m-%d %H:%M}" if database.next_update else ""
    return f"{database.updated:%Y-%m-%d %H:%M} UTC{due}"
