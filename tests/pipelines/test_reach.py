"""`va doctor --estate`: what is reached and allowed, by answers of an API server, Prometheus, a gateway."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
import yaml
from listening import listening
from typer.testing import CliRunner

from ci import places
from ci.commands.cli import app
from ci.environments import read_environments
from pipelines import reach

ENVIRONMENT = """\
extends: ../base.yaml
waves: [[eastus]]
registries: {{home: "{at}"}}
trust: {{signers: [{{key: {folder}/key.pub}}], builders: ["*"]}}
targets:
  eastus:
    kubeconfig: {folder}/kubeconfig
    context: one
    namespace: voice
    registry: {at}
    metrics: http://{at}
    gateway: http://{at}
    hostname: api.example.com
"""


@pytest.fixture
def world() -> Iterator[tuple[int, dict[str, Any]]]:
    """A cluster, Prometheus, registry and gateway in one; `refused` are kinds, `status` is of paths."""
    said: dict[str, Any] = {"refused": set(), "status": {}, "asked": []}

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Not on a test's output."""

        def answer(self, body: object, code: int = 200) -> None:
            content = json.dumps(body).encode()
            code = next((c for path, c in said["status"].items() if self.path.startswith(path)), code)
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def do_GET(self) -> None:
            if self.path == "/version":
                names = "major minor gitVersion gitCommit gitTreeState buildDate goVersion compiler platform"
                return self.answer(dict.fromkeys(names.split(), "1"))
            return self.answer({}, 200 if self.path == "/v2/" else 404)

        def do_POST(self) -> None:
            sent = self.rfile.read(int(self.headers["Content-Length"]))
            if self.path.startswith("/api/v1/query"):
                return self.answer({"status": "success", "data": {"result": []}})
            spec = json.loads(sent)["spec"]
            asked = spec["resourceAttributes"]
            said["asked"].append((asked["verb"], asked["resource"], asked.get("namespace", "")))
            allowed = asked["resource"] not in said["refused"]
            return self.answer(
                {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "spec": spec,
                 "status": {"allowed": allowed}}, 201,
            )  # fmt: skip

    with listening(Handler) as port:
        yield port, said


@pytest.fixture
def estate(tmp_path: Path, world: tuple[int, dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VA_STATE", str(tmp_path / "state"))
    at = f"127.0.0.1:{world[0]}"
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(
        yaml.safe_dump(
            {
                "clusters": [{"name": "c", "cluster": {"server": f"http://{at}"}}],
                "users": [{"name": "u", "user": {}}],
                "contexts": [{"name": "one", "context": {"cluster": "c", "user": "u"}}],
            }
        )
    )
    folder = tmp_path / "environments"
    (folder / "mine").mkdir(parents=True)
    shutil.copy(places.checkout() / "environments" / "base.yaml", folder)
    (folder / "mine" / "dev.yaml").write_text(ENVIRONMENT.format(at=at, folder=tmp_path))
    monkeypatch.setattr(reach, "read_environments", lambda name: read_environments(name, root=folder))
    return tmp_path


def doctor(*words: str) -> tuple[int, list[dict[str, Any]]]:
    done = CliRunner().invoke(app, ["doctor", "--estate", "mine", "--json", *words])
    return done.exit_code, json.loads(done.stdout)


def test_where_all_is_well_it_says_so_and_nothing_is_changed(estate: Path, world: tuple[int, Any]) -> None:
    code, tried = doctor()
    assert (code, [one["problem"] for one in tried]) == (0, [""] * len(tried))
    rights = ["its objects", "controllers' objects", "the cluster's own"]
    assert [one["what"] for one in tried] == ["cluster", *rights, "registry", "metrics", "gateway"]
    asked = world[1]["asked"]
    assert ("create", "secrets", "voice") in asked and ("create", "namespaces", "") in asked


@pytest.mark.parametrize(
    ("kind", "what", "mended"),
    [
        ("secrets", "its objects", "va infra apply --env dev"),
        ("httproutes", "controllers' objects", "va env grants --env dev | kubectl --context one apply -f -"),
        ("priorityclasses", "the cluster's own", "va env grants --env dev"),
    ],
)
def test_a_right_that_is_missing_is_named_with_the_line_that_mends_it(
    estate: Path, world: tuple[int, Any], kind: str, what: str, mended: str
) -> None:
    world[1]["refused"].add(kind)
    code, tried = doctor()
    (wrong,) = (one for one in tried if one["problem"])
    assert code == 8 and wrong["what"] == what and kind in wrong["problem"] and mended in wrong["mend"]


def test_a_part_that_does_not_answer_hides_no_other(estate: Path, world: tuple[int, Any]) -> None:
    file = estate / "environments" / "mine" / "dev.yaml"
    file.write_text(
        file.read_text().replace(f"metrics: http://127.0.0.1:{world[0]}", "metrics: http://127.0.0.1:9")
    )
    world[1]["refused"].add("leases")
    code, tried = doctor()
    wrong = {one["what"]: one for one in tried if one["problem"]}
    assert code == 6 and set(wrong) == {"metrics", "its objects"}
    assert "inside the network" in wrong["metrics"]["mend"] and not wrong["metrics"]["reached"]


def test_a_cluster_that_is_not_reached_is_one_line(estate: Path, world: tuple[int, Any]) -> None:
    kubeconfig = estate / "kubeconfig"
    kubeconfig.write_text(kubeconfig.read_text().replace(str(world[0]), "9"))
    code, tried = doctor()
    (wrong,) = (one for one in tried if one["problem"])
    assert (code, wrong["what"]) == (6, "cluster") and "inside the network" in wrong["mend"]


def test_for_people_it_is_a_table(estate: Path, world: tuple[int, Any]) -> None:
    world[1]["refused"].add("scaledobjects")
    done = CliRunner().invoke(app, ["doctor", "--estate", "mine"])
    assert done.exit_code == 8 and "7 tried, 1 not as a promotion needs it" in done.stdout
    assert "not allowed: create scaledobjects" in " ".join(done.stdout.split())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--estate", "nowhere"), "unknown estate"),
        (("helm", "--estate", "local"), "asks no tools"),
        (("--env", "dev"), "one of an estate"),
    ],
)
def test_bad_input(words: tuple[str, ...], said: str) -> None:
    done = CliRunner().invoke(app, ["doctor", *words])
    assert done.exit_code == 2 and said in done.stderr


def test_an_environment_that_is_not_one_of_the_estate(estate: Path) -> None:
    assert doctor("--env", "prod")[0] == 2
