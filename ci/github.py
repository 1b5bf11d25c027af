"""GitHub's API, as a job of GitHub Actions uses it: who approved its run, and words for people.

What is told again is told in the same place: a comment or an issue of ours has a mark that nobody sees, and
the next run that has something to say under that mark changes it. Only what a bot wrote is ours: a mark that
somebody else has put into theirs is left alone.

The token is the job's own, $GITHUB_TOKEN, with the right that the call needs in `permissions`.
https://docs.github.com/rest/issues/comments, https://docs.github.com/rest/issues/issues.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import httpx

from ci.errors import BadInput, SystemUnavailable
from ci.reasons import reason_of

__all__ = ["ask", "close_issue", "comment", "open_issue"]

_SECONDS = 20.0
_MOST = 60_000
"""Characters of a comment or an issue; GitHub takes 65,536."""
_CUT = "\n\n… the rest is in the run's summary and artifacts.\n"


async def ask(method: str, path: str, body: Mapping[str, Any] | None = None, *, right: str) -> Any:
    """The JSON that GitHub's API answers for `/repos/OWNER/REPO/` and `path`, as this job.

    BadInput without a token, SystemUnavailable when GitHub does not do it; `right` is what the job needs for
    it, said in the hint.
    """
    api = os.environ.get("GITHUB_API_URL", "https://api.github.com").rstrip("/")
    token, repository = os.environ.get("GITHUB_TOKEN", ""), os.environ.get("GITHUB_REPOSITORY", "")
    at_home = urlsplit(api).hostname in ("127.0.0.1", "::1", "localhost")
    hint = (
        f"in the workflow: permissions: {{{right}}}, and GITHUB_TOKEN: ${{{{ github.token }}}} for this step"
    )
    if not token or not repository:
        raise BadInput("there is no token of a job of GitHub here", hint=hint)
    if urlsplit(api).scheme != "https" and not at_home:
        raise BadInput("GITHUB_API_URL is no https address: the job's token is not sent there")
    headers = {
        "Authorization": f"Bearer {token}",
        "Accept": "application/vnd.github+json",
        "X-GitHub-Api-Version": "2022-11-28",
    }
    try:
        async with httpx.AsyncClient(timeout=_SECONDS, trust_env=not at_home) as client:
            url = f"{api}/repos/{repository}/{path}"
            answer = await client.request(method, url, headers=headers, json=body)
    except httpx.HTTPError as error:
        raise SystemUnavailable(f"GitHub does not answer: {reason_of(error)}", hint=hint) from error
    if not answer.is_success:
        raise SystemUnavailable(f"GitHub answered {answer.status_code}", hint=hint)
    try:
        return answer.json()
    except ValueError as error:
        raise SystemUnavailable("GitHub's answer is no JSON", hint=hint) from error


async def comment(number: int, text: str, mark: str) -> str:
    """Say this on pull request `number`, in the one comment under that mark; returns its address."""
    right = "pull-requests: write"
    told = await _pages(f"issues/{number}/comments", right)
    body = {"body": _marked(text, mark)}
    mine = next((one for one in told if _is_ours(one, mark)), None)
    if mine is None:
        return _address(await ask("POST", f"issues/{number}/comments", body, right=right))
    return _address(await ask("PATCH", f"issues/comments/{mine['id']}", body, right=right))


async def open_issue(title: str, text: str, mark: str) -> str:
    """Have this as an open issue, the one under that mark; returns its address."""
    body = {"title": title, "body": _marked(text, mark)}
    mine = await _open(mark)
    if mine is None:
        return _address(await ask("POST", "issues", body, right="issues: write"))
    return _address(await ask("PATCH", f"issues/{mine['number']}", body, right="issues: write"))


async def close_issue(mark: str) -> str | None:
    """Close the open issue under that mark: it is well again. Its address, or None where there is none."""
    mine = await _open(mark)
    if mine is None:
        return None
    body = {"state": "closed", "state_reason": "completed"}
    return _address(await ask("PATCH", f"issues/{mine['number']}", body, right="issues: write"))


async def _open(mark: str) -> dict[str, Any] | None:
    found = await _pages("issues?state=open", "issues: write")
    return next((one for one in found if _is_ours(one, mark)), None)


async def _pages(path: str, right: str) -> list[dict[str, Any]]:
    """All of a list, a hundred at a time; no more than a few thousand."""
    found: list[dict[str, Any]] = []
    for page in range(1, 31):
        more = await ask("GET", f"{path}{'&' if '?' in path else '?'}per_page=100&page={page}", right=right)
        found += more if isinstance(more, list) else []
        if not isinstance(more, list) or len(more) < 100:
            break
    return found


def _is_ours(one: Mapping[str, Any], mark: str) -> bool:
    by_a_bot = (one.get("user") or {}).get("type") == "Bot"
    return by_a_bot and str(one.get("body") or "").startswith(_hidden(mark))


def _marked(text: str, mark: str) -> str:
    whole = f"{_hidden(mark)}\n{text}"
    return whole if len(whole) <= _MOST else whole[:_MOST] + _CUT


def _hidden(mark: str) -> str:
    return f"<!-- va:{mark} -->"


def _address(one: Any) -> str:
    return str(one.get("html_url", "")) if isinstance(one, dict) else ""
