"""What a job of GitHub tells people, at a stand-in of GitHub's API: once, in the same place, as itself."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from hosted import REPOSITORY, TOKEN, Api, api_of

from ci.errors import BadInput, SystemUnavailable
from ci.github import close_issue, comment, open_issue


@pytest.fixture
def github(monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    with api_of(Api()) as api:
        for name, value in {
            "GITHUB_API_URL": api.url, "GITHUB_REPOSITORY": REPOSITORY, "GITHUB_TOKEN": TOKEN,
        }.items():  # fmt: skip
            monkeypatch.setenv(name, value)
        yield api


def test_what_is_said_again_on_a_pull_request_takes_the_place_of_the_last(github: Api) -> None:
    for text in ("one to create", "two to create"):
        asyncio.run(comment(7, text, "plan"))
    asyncio.run(comment(7, "another thing", "cost"))
    asyncio.run(comment(8, "elsewhere", "plan"))
    assert [(one["issue"], one["body"].partition("\n")[2]) for one in github.comments] == [
        (7, "two to create"),
        (7, "another thing"),
        (8, "elsewhere"),
    ]


def test_a_mark_in_somebody_elses_comment_is_no_comment_of_ours(github: Api) -> None:
    asyncio.run(comment(7, "ours", "plan"))
    github.comments[0]["user"] = {"login": "mallory", "type": "User"}
    asyncio.run(comment(7, "again", "plan"))
    assert [one["body"].partition("\n")[2] for one in github.comments] == ["ours", "again"]


def test_our_comment_is_found_behind_hundreds_of_others(github: Api) -> None:
    github.comments += [
        {"id": number, "issue": 7, "user": {"type": "User"}, "body": "a word"} for number in range(230)
    ]
    for text in ("first", "then"):
        asyncio.run(comment(7, text, "plan"))
    assert len(github.comments) == 231 and github.comments[-1]["body"].endswith("then")


def test_a_text_that_is_too_long_is_cut_and_says_so(github: Api) -> None:
    asyncio.run(comment(7, "x" * 100_000, "plan"))
    body = github.comments[0]["body"]
    assert len(body) < 65_536 and "the rest is in the run's summary" in body[-80:]


def test_an_issue_is_open_as_long_as_it_is_so(github: Api) -> None:
    assert asyncio.run(close_issue("drift-dev")) is None
    for text in ("a vault", "a vault and a subnet"):
        asyncio.run(open_issue("dev has drifted", text, "drift-dev"))
    asyncio.run(open_issue("prod has drifted", "a database", "drift-prod"))
    asyncio.run(close_issue("drift-dev"))
    assert [(one["title"], one["state"]) for one in github.issues] == [
        ("dev has drifted", "closed"),
        ("prod has drifted", "open"),
    ]
    assert github.issues[0]["body"].endswith("a vault and a subnet")
    asyncio.run(open_issue("dev has drifted", "again", "drift-dev"))
    assert [one["state"] for one in github.issues] == ["closed", "open", "open"]


def test_without_the_right_or_a_token_the_line_to_mend_it_is_said(
    github: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_TOKEN", "of-another-job")
    with pytest.raises(SystemUnavailable, match="answered 401") as refused:
        asyncio.run(comment(7, "x", "plan"))
    assert "pull-requests: write" in refused.value.hint and "of-another-job" not in str(refused.value)
    monkeypatch.delenv("GITHUB_TOKEN")
    with pytest.raises(BadInput, match="no token of a job") as refused_here:
        asyncio.run(open_issue("t", "x", "plan"))
    assert "issues: write" in refused_here.value.hint


def test_the_token_goes_to_github_alone(github: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_API_URL", "http://api.example.com")
    with pytest.raises(BadInput, match="no https address"):
        asyncio.run(comment(7, "x", "plan"))
