"""Signing in by Entra at a real API server, which believes its tokens as any issuer's of OpenID Connect.

AKS does so by a webhook of its own; what is shown here is that `kubectl` and our client get in by `va kube
token`, and that `va doctor` tells what a promoter's group lacks, and no more once it was granted.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from api_server import ApiServer, api_server
from job_identity import Identities
from typer.testing import CliRunner
from waiting import until

from ci import entra, places, tools
from ci.architecture import model
from ci.architecture.grants import promoter
from ci.commands.cli import app
from ci.delivery.cluster import connect
from ci.delivery.kubeconfig import Server, kubeconfig_of
from ci.environments import read_environments
from ci.errors import SystemUnavailable
from pipelines import reach

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

TENANT, OTHER = "11111111-1111-1111-1111-111111111111", "99999999-9999-9999-9999-999999999999"
GROUP = "33333333-3333-3333-3333-333333333333"
ENVIRONMENT = """\
extends: ../base.yaml
waves: [[eastus]]
registries: {{home: "127.0.0.1:9"}}
trust: {{signers: [{{key: key.pub}}], builders: ["*"]}}
targets:
  eastus:
    kubeconfig: {kubeconfig}
    context: aks-one
    namespace: voice
    registry: 127.0.0.1:9
    metrics: http://127.0.0.1:9
    gateway: http://127.0.0.1:9
    hostname: api.example.com
"""


@pytest.fixture(scope="module")
def entered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Identities, ApiServer, Path]]:
    """Who signs in, where, and the folder with Entra's certificate."""
    folder = tmp_path_factory.mktemp("sign-in")
    with Identities(token_tenant=TENANT, groups=(GROUP,)).serve(folder) as identities:
        flags = (
            f"--oidc-issuer-url={identities.issuer}", f"--oidc-client-id={entra.CLUSTERS}",
            f"--oidc-ca-file={folder / 'entra.crt'}", "--oidc-signing-algs=ES256",
            "--oidc-username-claim=oid", "--oidc-username-prefix=-", "--oidc-groups-claim=groups",
        )  # fmt: skip
        with api_server(folder, more=flags) as server:
            yield identities, server, folder


@pytest.fixture(autouse=True)
def job(entered: tuple[Identities, ApiServer, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VA_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("PATH", os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])))
    for name, value in entered[0].environment.items():
        monkeypatch.setenv(name, value)
    entra._shared.cache_clear()


def _kubeconfig(server: ApiServer, at: Path, tenant: str = TENANT) -> Path:
    authority = base64.b64encode((server.kubeconfig.parent / "certificates/apiserver.crt").read_bytes())
    there = {"aks-one": Server(address=server.url, authority=authority.decode())}
    (at / "kubeconfig").write_text(yaml.safe_dump(kubeconfig_of(there, tenant)))
    return at / "kubeconfig"


def _kubectl(kubeconfig: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [tools.path("kubectl"), f"--kubeconfig={kubeconfig}", *words],
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def _wait_until_known(kubeconfig: Path) -> None:
    """The API server asks the issuer for its keys in its own time."""

    def known() -> bool:
        return _kubectl(kubeconfig, "auth", "whoami").returncode == 0

    until(known, "the issuer is not known", seconds=120, every=2)


def test_kubectl_and_our_client_get_in_as_who_is_signed_in(
    entered: tuple[Identities, ApiServer, Path], tmp_path: Path
) -> None:
    identities, server, _ = entered
    file = _kubeconfig(server, tmp_path)
    _wait_until_known(file)
    who = json.loads(_kubectl(file, "auth", "whoami", "-o", "json").stdout)["status"]["userInfo"]
    assert who["username"] == identities.client and GROUP in who["groups"]
    asked = len(identities.scopes)
    assert asyncio.run(connect(file, "aks-one").version()).startswith("v1.")
    assert len(identities.scopes) == asked, "the token that kubectl's plugin kept counts for ours, too"


def test_of_another_tenant_nothing_is_sent(
    entered: tuple[Identities, ApiServer, Path], tmp_path: Path
) -> None:
    file = _kubeconfig(entered[1], tmp_path, OTHER)
    done = _kubectl(file, "get", "pods")
    assert done.returncode and f"the sign-in is to the tenant {TENANT}" in done.stderr
    with pytest.raises(SystemUnavailable, match=f"{OTHER} is wanted"):
        asyncio.run(connect(file, "aks-one").version())


def test_doctor_tells_what_a_promoter_lacks_until_it_was_granted(
    entered: tuple[Identities, ApiServer, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, folder = entered[1], tmp_path / "environments"
    (folder / "mine").mkdir(parents=True)
    shutil.copy(places.checkout() / "environments" / "base.yaml", folder)
    text = ENVIRONMENT.format(kubeconfig=_kubeconfig(server, tmp_path))
    (folder / "mine" / "prod.yaml").write_text(text)
    monkeypatch.setattr(reach, "read_environments", lambda name: read_environments(name, root=folder))
    file = tmp_path / "kubeconfig"
    _wait_until_known(file)

    def rights() -> dict[str, dict[str, Any]]:
        said = json.loads(CliRunner().invoke(app, ["doctor", "--estate", "mine", "--json"]).stdout)
        return {one["what"]: one for one in said if one["what"] not in ("registry", "metrics", "gateway")}

    before = rights()
    assert before["cluster"]["problem"] == ""
    assert "create secrets" in before["its objects"]["problem"]
    assert "va infra apply --env prod" in before["its objects"]["mend"]
    assert "patch httproutes" in before["controllers' objects"]["problem"]
    assert "va env grants --env prod" in before["the cluster's own"]["mend"]

    # What its lines say, done: a role of Kubernetes' stands in for Azure's own in the namespace.
    server.kubectl("apply", "-f", "-", stdin=list(promoter(model.read("prod").architecture, GROUP)))
    groups = ["", "apps", "batch", "coordination.k8s.io", "rbac.authorization.k8s.io"]
    server.kubectl("apply", "-f", "-", stdin={
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
        "metadata": {"name": "azure-admin", "namespace": "voice"},
        "rules": [{"apiGroups": groups, "resources": ["*"], "verbs": ["*"]}],
    })  # fmt: skip
    bound = ("rolebinding", "promoters", "--role=azure-admin", f"--group={GROUP}")
    server.kubectl("create", *bound, "-n", "voice")
    after: dict[str, dict[str, Any]] = {}

    def granted() -> bool:
        after.update(rights())
        return not any(one["problem"] for one in after.values())

    try:
        until(granted, seconds=30, every=2)
    except AssertionError:
        pytest.fail(str(after))
