"""A job of GitHub Actions: what its environment says of it, and the token by which others know it.

What the environment says is a claim: whoever runs in the job can set it. The token is GitHub's word, and so
is what a certificate authority made of it (`ci.supply.keyless`).

Variables: https://docs.github.com/actions/reference/workflows-and-actions/variables; the token:
https://docs.github.com/actions/reference/security/oidc#methods-for-requesting-the-oidc-token.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

import httpx

from ci.errors import BadInput, SystemUnavailable
from ci.reasons import reason_of

__all__ = ["Job", "gives_tokens", "id_token", "run_of", "this_job"]

_URL, _TOKEN = "ACTIONS_ID_TOKEN_REQUEST_URL", "ACTIONS_ID_TOKEN_REQUEST_TOKEN"  # names
_MOST_BYTES = 64 * 2**10
_SECONDS = 20.0
_ATTEMPTS = 3


@dataclass(frozen=True, kw_only=True)
class Job:
    """A job. All are URLs but for `name`, `ref` and `runner`; empty where the environment does not say."""

    workflow: str
    """`https://github.com/OWNER/REPO/.github/workflows/release.yml@refs/heads/main`."""
    repository: str
    ref: str
    run: str
    """`…/actions/runs/12/attempts/1`: the run, and which attempt at it."""
    name: str
    runner: str
    """`github-hosted` or `self-hosted`."""


def this_job() -> Job | None:
    """The job that we run in; None elsewhere."""
    said = os.environ
    workflow = said.get("GITHUB_WORKFLOW_REF")
    if not workflow:
        return None
    server = said.get("GITHUB_SERVER_URL", "https://github.com")
    repository = said.get("GITHUB_REPOSITORY", "")
    run, attempt = said.get("GITHUB_RUN_ID", ""), said.get("GITHUB_RUN_ATTEMPT", "1")
    here = f"{server}/{repository}" if repository else ""
    return Job(
        workflow=f"{server}/{workflow}",
        repository=here,
        ref=said.get("GITHUB_REF", ""),
        run=f"{here}/actions/runs/{run}/attempts/{attempt}" if here and run else "",
        name=said.get("GITHUB_JOB", ""),
        runner=said.get("RUNNER_ENVIRONMENT", ""),
    )


def run_of(url: str) -> str:
    """The run, whichever attempt a URL names: a second attempt goes on with the results of the first."""
    return re.sub(r"/attempts/\d+$", "", url)


def gives_tokens() -> bool:
    """Whether the job may ask GitHub for tokens: `permissions: {id-token: write}`."""
    return bool(os.environ.get(_URL))


def id_token(audience: str) -> str:
    """A new OIDC token of this job for that audience.

    BadInput where there is none to be had; SystemUnavailable when GitHub does not give it. It is good for
    some minutes: ask when it is needed.
    """
    url, secret = os.environ.get(_URL, ""), os.environ.get(_TOKEN, "")
    if not url or not secret:
        raise BadInput(
            "this job gets no OIDC token from GitHub",
            hint="in the workflow say `permissions: {id-token: write}`",
        )
    at_home = urlsplit(url).hostname in ("127.0.0.1", "::1", "localhost")
    if urlsplit(url).scheme != "https" and not at_home:
        raise BadInput(f"{_URL} is no https address: the job's secret is not sent there")
    who = {"Authorization": f"Bearer {secret}"}
    problem = ""
    for _ in range(_ATTEMPTS):
        try:
            with (
                httpx.Client(timeout=_SECONDS, trust_env=not at_home) as client,
                client.stream(
                    "GET", httpx.URL(url).copy_merge_params({"audience": audience}), headers=who
                ) as answer,
            ):
                body = b""
                for piece in answer.iter_bytes():
                    body += piece
                    if len(body) > _MOST_BYTES:
                        raise ValueError("it sent too much")
                if answer.status_code != httpx.codes.OK:
                    problem = f"it answered {answer.status_code}"
                    if answer.status_code < 500:
                        break
                    continue
                value = httpx.Response(200, content=body).json()["value"]
        except httpx.HTTPError as error:
            problem = reason_of(error)
        except (ValueError, KeyError, TypeError):
            problem = "its answer is no token"
            break
        else:
            if isinstance(value, str) and value:
                return value
            problem = "its answer is no token"
            break
    raise SystemUnavailable(
        f"GitHub gave this job no OIDC token for {audience}: {problem}",
        hint="run the job again; `permissions: {id-token: write}` has to be its own",
    )
