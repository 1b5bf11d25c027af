"""Who writes to the ledger: in a job of GitHub the workflow and the person that it runs for, else user@host.

It is what this process can say of itself. Who may write at all is for rights to the folder, and to the
container of a shared ledger, to decide.
"""

from __future__ import annotations

import os
import pwd
import socket

from ci.actions import this_job

__all__ = ["person", "whoami"]


def whoami() -> str:
    """`alice@laptop`, or `alice (OWNER/REPO/.github/workflows/promote.yml@refs/heads/main, https://…/runs/12)`.

    Whoever used sudo is named, not root.
    """
    job = this_job()
    if job is None:
        return f"{_user()}@{socket.gethostname()}"
    # Who ran it again, where that is another than who ran it first.
    actor = os.environ.get("GITHUB_TRIGGERING_ACTOR") or os.environ.get("GITHUB_ACTOR") or "somebody"
    workflow = os.environ["GITHUB_WORKFLOW_REF"]
    return f"{actor} ({', '.join(filter(None, (workflow, job.run)))})"


def person(who: str) -> str:
    """The person alone: `alice` of either form."""
    return who.partition(" (")[0].partition("@")[0]


def _user() -> str:
    number = os.getuid()
    if number == 0 and (name := os.environ.get("SUDO_USER")):
        return name
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"user {number}"
