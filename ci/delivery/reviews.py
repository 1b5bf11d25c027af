"""Who has approved this run on GitHub: the required reviewers of the job's environment.

A job that names an environment with required reviewers does not begin before one of them has said yes. That
somebody did is not for the job to claim: GitHub is asked for the reviews of the run that we are in. An
environment without required reviewers has none, and what asks for them is refused.

    GET /repos/OWNER/REPO/actions/runs/ID/approvals, with the job's own token (`permissions: {actions: read}`)
    https://docs.github.com/rest/actions/workflow-runs#get-the-review-history-for-a-workflow-run
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from pydantic import BaseModel, TypeAdapter, ValidationError

from ci.actions import this_job
from ci.errors import SystemUnavailable
from ci.github import ask

__all__ = ["Review", "reviews"]


@dataclass(frozen=True, kw_only=True)
class Review:
    """One yes."""

    login: str
    comment: str
    run: str
    """The URL of the run."""


class _Named(BaseModel):
    name: str


class _User(BaseModel):
    login: str


class _Said(BaseModel):
    state: str
    comment: str | None = None
    user: _User
    environments: list[_Named] = []


_ANSWER = TypeAdapter(list[_Said])


async def reviews(environment: str) -> tuple[Review, ...]:
    """The approvals of this run for that environment; none outside of a job of GitHub.

    BadInput without a token, SystemUnavailable when GitHub does not say.
    """
    job = this_job()
    run = re.sub(r"/attempts/[0-9]+$", "", job.run) if job else ""
    if not run:
        return ()
    try:
        answer = await ask("GET", f"actions/runs/{run.rpartition('/')[2]}/approvals", right="actions: read")
        found = _ANSWER.validate_python(answer)
    except SystemUnavailable as error:
        raise SystemUnavailable(
            f"GitHub did not say who approved {environment}: {error}", hint=error.hint
        ) from error
    except ValidationError as error:
        raise SystemUnavailable(
            f"GitHub did not say who approved {environment}: its answer is no list of reviews",
            hint="run the job again; it needs permissions: {actions: read}",
        ) from error
    return tuple(
        Review(login=one.user.login, comment=(one.comment or "").strip(), run=run)
        for one in found
        if one.state == "approved" and environment in {each.name for each in one.environments}
    )
