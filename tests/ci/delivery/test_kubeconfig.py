"""Signing in to clusters by Entra: azure-identity against its protocol, the official clients of Kubernetes
against a server that lets in by its tokens alone."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import httpx
import pytest
import yaml
from job_identity import Identities
from listening import listening
from typer.testing import CliRunner

from ci import entra, places
from ci.commands.cli import app
from ci.delivery import cluster
from ci.delivery.kubeconfig import Server, kubeconfig_of
from ci.delivery.metrics import Prometheus
from ci.errors import SystemUnavailable

TENANT = "11111111-1111-1111-1111-111111111111"
OTHER = "99999999-9999-9999-9999-999999999999"
VA = Path(sys.executable).with_name("va")


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Identities]:
    monkeypatch.setenv("VA_STATE", str(tmp_path / "state"))
    monkeypatch.delenv("RUNNER_TEMP", raising=False)
    with Identities().serve(tmp_path) as identities:
        for name, value in identities.environment.items():
            monkeypatch.setenv(name, value)
        yield identities


@pytest.fixture
def server() -> Iterator[tuple[str, list[str]]]:
    """A Kubernetes that tells its version to who shows a token, and what it was shown."""
    shown: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Not on a test's output."""

        def do_GET(self) -> None:
            shown.append(self.headers.get("Authorization", ""))
            content = json.dumps(
                {"gitVersion": "v1.36.0", "major": "1", "minor": "36", "gitCommit": "", "gitTreeState": "",
                 "buildDate": "", "goVersion": "", "compiler": "", "platform": ""}
            ).encode()  # fmt: skip
            self.send_response(200 if shown[-1].startswith("Bearer entra-") else 401)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    with listening(Handler) as port:
        yield f"http://127.0.0.1:{port}", shown


def _written(folder: Path, address: str, tenant: str = "") -> Path:
    file = folder / "kubeconfig"
    there = Server(address=address)
    file.write_text(yaml.safe_dump(kubeconfig_of({"aks-one": there, "aks-two": there}, tenant or TENANT)))
    return file


def test_our_client_signs_in_without_a_process_and_once(
    job: Identities, server: tuple[str, list[str]], tmp_path: Path
) -> None:
    address, shown = server
    connected = cluster.connect(_written(tmp_path, address), "aks-two")
    assert job.scopes == [], "nothing is asked before it is needed"
    assert [asyncio.run(connected.version()) for _ in "12"] == ["v1.36.0"] * 2
    assert shown == ["Bearer entra-1"] * 2
    assert job.scopes == [f"{entra.CLUSTERS}/.default"]


def test_a_token_is_renewed_before_its_end_while_a_promotion_goes_on(
    job: Identities, server: tuple[str, list[str]], tmp_path: Path
) -> None:
    job.life = 200  # less than what is left to it when it is renewed
    connected = cluster.connect(_written(tmp_path, server[0]), "aks-one")
    for _ in "123":
        asyncio.run(connected.version())
    # azure-identity remembers a token for a while of its own; the next job's is another.
    assert set(server[1]) <= {"Bearer entra-1", "Bearer entra-2", "Bearer entra-3"}
    job.life = 3600
    entra._shared.cache_clear()
    asyncio.run(connected.version())
    asyncio.run(connected.version())
    assert server[1][-1] == server[1][-2] != server[1][0]


def test_the_plugin_speaks_the_clients_version_and_keeps_its_token_for_its_owner(job: Identities) -> None:
    run = CliRunner()
    for version in ("v1", "v1beta1"):
        asked = {
            "KUBERNETES_EXEC_INFO": json.dumps({"apiVersion": f"client.authentication.k8s.io/{version}"})
        }
        said = json.loads(run.invoke(app, ["kube", "token", "--tenant", TENANT], env=asked).stdout)
        assert said["apiVersion"] == f"client.authentication.k8s.io/{version}"
        assert (said["kind"], said["status"]["token"]) == ("ExecCredential", "entra-1")
        assert said["status"]["expirationTimestamp"].endswith("Z")
    assert len(job.scopes) == 1
    (kept,) = (places.state() / "entra").iterdir()
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600 and stat.S_IMODE(kept.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize("spoil", ["readable", "old", "cut", "link"])
def test_what_is_kept_is_not_believed_where_others_may_have_been_or_it_is_spoilt(
    job: Identities, spoil: str, tmp_path: Path
) -> None:
    entra.token("x")
    (kept,) = (places.state() / "entra").iterdir()
    text = kept.read_text()
    if spoil == "readable":
        kept.chmod(0o644)
    elif spoil == "old":
        kept.write_text(json.dumps({**json.loads(text), "until": 1.0}))
    elif spoil == "cut":
        kept.write_text(text[:9])
    else:
        elsewhere = tmp_path / "elsewhere"
        elsewhere.touch(mode=0o600)
        elsewhere.write_text(text.replace("entra-1", "theirs"))
        kept.unlink()
        kept.symlink_to(elsewhere)
    entra._shared.cache_clear()
    assert entra.token("x").text == "entra-2"


def test_another_sign_in_gets_a_token_of_its_own(job: Identities, monkeypatch: pytest.MonkeyPatch) -> None:
    assert entra.token("x").text == "entra-1"
    monkeypatch.setenv("AZURE_SOMETHING", "else")
    assert entra.token("x").text == "entra-2"
    monkeypatch.setenv("RUNNER_TEMP", str(places.state() / "job"))
    assert entra.token("x").text == "entra-2" and list((places.state() / "job" / "entra").iterdir())


@pytest.mark.parametrize(
    ("refusal", "said", "hint"),
    [
        ("AADSTS90002: Tenant 'x' not found. Trace ID: 1\r\nTimestamp: now", "wrong tenant", "--tenant"),
        ("AADSTS700016: Application with identifier 'x' was not found", "wrong tenant", "AZURE_TENANT_ID"),
        ("AADSTS700082: The refresh token has expired due to inactivity.", "expired", "az login again"),
        ("AADSTS7000222: The provided client secret keys are expired.", "expired", "new secret"),
        ("AADSTS50105: The signed in user is not assigned to a role", "no right", "administrator"),
        ("AADSTS53003: Access has been blocked by Conditional Access", "no right", "conditional access"),
    ],
)
def test_what_entra_refuses_is_one_line_with_what_to_do(
    job: Identities, refusal: str, said: str, hint: str
) -> None:
    job.refusal = refusal
    done = CliRunner().invoke(app, ["kube", "token"])
    first, second = " ".join(done.stderr.split()).split(" next: ")
    assert done.exit_code == 6 and done.stdout == ""
    assert said in first and refusal.partition(" Trace")[0] in first and "Trace ID" not in first
    assert hint in second


def test_a_token_of_another_tenant_is_not_sent(
    job: Identities, server: tuple[str, list[str]], tmp_path: Path
) -> None:
    job.token_tenant = OTHER
    connected = cluster.connect(_written(tmp_path, server[0]), "aks-one")
    with pytest.raises(
        SystemUnavailable, match=f"is to the tenant {OTHER}, and {TENANT} is wanted"
    ) as caught:
        asyncio.run(connected.version())
    assert f"az login --tenant {TENANT}" in caught.value.hint and server[1] == []


@pytest.mark.parametrize(
    ("says", "expected"),
    [
        ("Please run 'az login' to setup account.", "nobody is signed in here"),
        (
            "ERROR: AADSTS70043: The refresh token has expired due to sign-in frequency. Trace ID: 1",
            r"has expired, or counts no more \(AADSTS70043",
        ),
    ],
)
def test_people_are_told_what_az_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: str, expected: str
) -> None:
    for name in [name for name in os.environ if name.startswith(("AZURE_", "ACTIONS_", "IDENTITY_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("VA_STATE", str(tmp_path))
    monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "AzureCliCredential")
    az = tmp_path / "az"
    az.write_text(f'#!/bin/sh\necho "{says}" >&2\nexit 1\n')
    az.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(SystemUnavailable, match=expected) as caught:
        entra.token(entra.CLUSTERS)
    assert "\n" not in str(caught.value) and "az login" in caught.value.hint


def test_managed_prometheus_is_asked_with_a_token_of_its_own(job: Identities) -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        if len(seen) == 2:
            return httpx.Response(403, text="no")
        return httpx.Response(200, json={"status": "success", "data": {"result": []}})

    async def ask() -> None:
        url = "https://amw-x-ab12.eastus.prometheus.monitor.azure.com"
        async with Prometheus(url, transport=httpx.MockTransport(answer)) as managed:
            assert await managed.instant("up") == ()
            with pytest.raises(SystemUnavailable, match="does not let this sign-in read") as caught:
                await managed.instant("up")
            assert "Monitoring Data Reader" in caught.value.hint
        async with Prometheus("http://127.0.0.1:1", transport=httpx.MockTransport(answer)) as own:
            await own.instant("up")

    asyncio.run(ask())
    assert [each.headers.get("Authorization") for each in seen] == ["Bearer entra-1"] * 2 + [None]
    assert job.scopes == [f"{entra.METRICS}/.default"]


def test_the_program_itself_is_what_a_kubeconfig_names(
    job: Identities, server: tuple[str, list[str]], tmp_path: Path
) -> None:
    file = _written(tmp_path, server[0])
    plugin = yaml.safe_load(file.read_text())["users"][0]["user"]["exec"]
    done = subprocess.run([VA, *plugin["args"]], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["status"]["token"] == "entra-1"
