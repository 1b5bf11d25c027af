"""Credentials of a job of GitHub Actions: the real azure-identity, against GitHub's and Entra's protocols."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import jwt
import pytest
from azure.core.exceptions import ClientAuthenticationError
from azure.identity import ClientAssertionCredential, DefaultAzureCredential
from job_identity import Identities

from ci import entra
from ci.actions import Job, id_token, run_of, this_job
from ci.errors import BadInput, SystemUnavailable
from ci.registry.acr import AzureRegistry

_SCOPE = "https://management.azure.com/.default"


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Identities]:
    with Identities().serve(tmp_path) as identities:
        for name, value in identities.environment.items():
            monkeypatch.setenv(name, value)
        yield identities


def test_a_job_is_let_in_by_githubs_word_alone(job: Identities) -> None:
    with entra.credential() as credential:  # type: ignore[attr-defined]
        assert credential.get_token(_SCOPE).token == "entra-1"
        assert credential.get_token(_SCOPE).token == "entra-1"
    assert (job.given, job.scopes) == ([entra.AUDIENCE], [_SCOPE])


def test_each_token_of_entra_is_had_by_a_new_one_of_github(job: Identities) -> None:
    job.life = 0  # so it has run out before it is asked for again
    with entra.credential() as credential:  # type: ignore[attr-defined]
        assert [credential.get_token(_SCOPE).token for _ in "12"] == ["entra-1", "entra-2"]
    assert len(job.given) == 2


def test_a_registry_of_azure_is_asked_as_the_job(job: Identities, monkeypatch: pytest.MonkeyPatch) -> None:
    from ci.registry import acr

    acr._default_credential.cache_clear()

    async def token() -> str:
        async with AzureRegistry("x.azurecr.io") as registry:
            return await registry._entra_token()

    assert asyncio.run(token()) == "entra-1"
    acr._default_credential.cache_clear()


def test_a_job_of_another_environment_is_not_let_in(job: Identities) -> None:
    job.subject = "repo:o/r:environment:dev"
    with (
        entra.credential() as credential,  # type: ignore[attr-defined]
        pytest.raises(ClientAuthenticationError, match="AADSTS700213"),
    ):
        credential.get_token(_SCOPE)


def test_without_a_job_it_is_what_azure_identity_finds(
    job: Identities, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(entra.credential(), ClientAssertionCredential)
    monkeypatch.delenv("ACTIONS_ID_TOKEN_REQUEST_URL")
    assert isinstance(entra.credential(), DefaultAzureCredential)


def test_the_log_of_azures_own_client_is_nobodys_standard_error() -> None:
    """Who is not let in is told so in one line: `kubectl` shows all that `va kube token` says there."""
    script = (
        "import logging; from ci import entra; entra.credential();"
        "logging.getLogger('azure.identity._credentials.chained').warning('13 lines')"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


def test_an_application_that_nobody_named_is_not_asked_for(
    job: Identities, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AZURE_CLIENT_ID")
    assert isinstance(entra.credential(), DefaultAzureCredential)


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ([(403, b"{}")], "it answered 403"),
        ([(500, b"")] * 3, "it answered 500"),
        ([(200, b'{"value": 3}')], "no token"),
        ([(200, b'["value"]')], "no token"),
        ([(200, b"<html>")], "no token"),
        ([(200, b"x" * 100_000)], "no token"),
    ],
)
def test_github_that_gives_no_token_is_said(
    job: Identities, answers: list[tuple[int, bytes]], said: str
) -> None:
    job.broken = answers
    with pytest.raises(SystemUnavailable, match=said) as refused:
        id_token("anybody")
    assert not job.broken and "id-token: write" in refused.value.hint
    assert job.environment["ACTIONS_ID_TOKEN_REQUEST_TOKEN"] not in str(refused.value)


def test_github_is_asked_again_after_a_bad_moment(job: Identities) -> None:
    job.broken = [(502, b"")]
    assert id_token("anybody") and job.given == ["anybody"]


def test_the_jobs_secret_is_not_sent_in_the_clear(job: Identities, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACTIONS_ID_TOKEN_REQUEST_URL", "http://example.test/token")
    with pytest.raises(BadInput, match="no https address"):
        id_token("anybody")


def test_what_a_job_says_of_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    said = {
        "GITHUB_WORKFLOW_REF": "o/r/.github/workflows/x.yml@refs/heads/main",
        "GITHUB_REPOSITORY": "o/r", "GITHUB_REF": "refs/heads/main", "GITHUB_RUN_ID": "12",
        "GITHUB_RUN_ATTEMPT": "3", "GITHUB_JOB": "publish", "RUNNER_ENVIRONMENT": "github-hosted",
    }  # fmt: skip
    for name, value in said.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("GITHUB_SERVER_URL", raising=False)
    assert this_job() == Job(
        workflow="https://github.com/o/r/.github/workflows/x.yml@refs/heads/main",
        repository="https://github.com/o/r",
        ref="refs/heads/main",
        run="https://github.com/o/r/actions/runs/12/attempts/3",
        name="publish",
        runner="github-hosted",
    )
    assert (
        run_of("https://github.com/o/r/actions/runs/12/attempts/3")
        == "https://github.com/o/r/actions/runs/12"
    )
    monkeypatch.delenv("GITHUB_WORKFLOW_REF")
    assert this_job() is None


def test_a_program_that_signs_in_by_itself_finds_the_token_in_a_file(job: Identities) -> None:
    with entra.for_a_program() as environment:
        file = Path(environment["AZURE_FEDERATED_TOKEN_FILE"])
        claims = jwt.decode(file.read_text(), options={"verify_signature": False})
        assert (claims["sub"], claims["aud"]) == (job.subject, entra.AUDIENCE)
        assert file.stat().st_mode & 0o077 == 0 and file.parent.stat().st_mode & 0o077 == 0
    assert not file.parent.exists()


def test_elsewhere_it_finds_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ACTIONS_ID_TOKEN_REQUEST_URL", raising=False)
    with entra.for_a_program() as environment:
        assert environment == {}
