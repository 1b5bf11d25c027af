"""Who has approved this run on GitHub: the required reviewers of the job's environment.

A job that names an environment with required reviewers does not begin before one of them has said yes. That
somebody did is not for the job to claim: GitHub is asked for the reviews of the run that we are in. An
environment without required reviewers has none, and what asks for them is refused.

    GET /repos/OWNER/REPO/actions/runs/ID/approvals, with the job's own token (`permissions: {actions: read}`)
    https://docs.github.com/rest/actions/workflow-runs#get-the-review-history-for-a-workflow-run
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

import httpx
from pydantic import BaseModel, TypeAdapter, ValidationError

from ci.actions import this_job
from ci.errors import BadInput, SystemUnavailable
from ci.reasons import reason_of

__all__ = ["Review", "reviews"]

_SECONDS = 20.0
_HINT = "in the workflow: permissions: {actions: read}, and GITHUB_TOKEN: ${{ github.token }} for this step"


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
    api = os.environ.get("GITHUB_API_URL", "https://api.github.com").rstrip("/")
    token, repository = os.environ.get("GITHUB_TOKEN", ""), os.environ.get("GITHUB_REPOSITORY", "")
    at_home = urlsplit(api).hostname in ("127.0.0.1", "::1", "localhost")
    if not token:
        raise BadInput(f"who approved {environment} is GitHub's to say, and there is no token", hint=_HINT)
    if urlsplit(api).scheme != "https" and not at_home:
        raise BadInput("GITHUB_API_URL is no https address: the job's token is not sent there")
    url = f"{api}/repos/{repository}/actions/runs/{run.rpartition('/')[2]}/approvals"
    headers = {
        "Authorization": f"Bearer {token}",
        "Accept": "application/vnd.github+json",
        "X-GitHub-Api-Version": "2022-11-28",
    }
    try:
        async with httpx.AsyncClient(timeout=_SECONDS, trust_env=not at_home) as client:
            answer = await client.get(url, headers=headers)
    except httpx.HTTPError as error:
        raise _not_said(environment, reason_of(error)) from error
    if answer.status_code != httpx.codes.OK:
        raise _not_said(environment, f"it answered {answer.status_code}")
    try:
        found = _ANSWER.validate_json(answer.content)
    except ValidationError as error:
        raise _not_said(environment, "its answer is no list of reviews") from error
    return tuple(
        Review(login=one.user.login, comment=(one.comment or "").strip(), run=run)
        for one in found
        if one.state == "approved" and environment in {each.name for each in one.environments}
    )


def _not_said(environment: str, problem: str) -> SystemUnavailable:
    return SystemUnavailable(f"GitHub did not say who approved {environment}: {problem}", hint=_HINT)
