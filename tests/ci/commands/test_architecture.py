"""What a person types: output, JSON, exit codes; on the stand-in for Azure where it needs one."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import typer
import yaml
from ledger_entries import happened, write
from typer.testing import CliRunner, Result

from ci import places
from ci.architecture import model
from ci.azure.deploy import Change, Delta
from ci.azure.render import render
from ci.commands import infra
from ci.commands.cli import app
from ci.delivery.ledger import Event
from ci.errors import BadInput, PolicyBlocked


@pytest.fixture
def va(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> typer.Typer:
    monkeypatch.setenv("VA_STATE", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("AZURE_SUBSCRIPTION_ID", raising=False)
    return app


def _run(app: typer.Typer, *words: str) -> Result:
    return CliRunner().invoke(app, words)


def test_check_of_all_environments_is_clean(va: typer.Typer) -> None:
    done = _run(va, "env", "check", "--json")
    assert done.exit_code == 0
    found = json.loads(done.stdout)
    assert set(found) == {"dev", "staging", "prod"}
    assert {one["severity"] for each in found.values() for one in each} <= {"info"}


def test_check_reads_where_releases_go(
    va: typer.Typer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "checkout"
    shutil.copytree(places.checkout() / "environments", folder / "environments")
    prod = folder / "environments" / "local" / "prod.yaml"
    lines = prod.read_text().count("\n")
    prod.write_text(prod.read_text() + "hours: Mon-Thu 09:00-16:00 Europa/Amsterdam\n")
    monkeypatch.setattr(places, "checkout", lambda: folder)

    done = _run(va, "env", "check", "--env", "prod")
    assert done.exit_code == 2
    assert f"local/prod.yaml:{lines + 1} (hours): 'Europa/Amsterdam' is no time zone" in done.output
    assert "did you mean 'Europe/Amsterdam'?" in done.output
    assert _run(va, "env", "check", "--env", "dev").exit_code == 0


def test_check_of_the_written_architecture_quotes_its_lines(va: typer.Typer) -> None:
    done = _run(va, "env", "check", "--written")
    assert done.exit_code == 2
    assert "NET-VNET  environments/architecture/as-written/prod.yaml:12" in done.stdout
    assert "db-subnet:         10.1.0.0/24" in done.stdout
    assert "fix: take a range inside 10.0.0.0/16" in done.stdout


def test_check_of_a_what_if_names_the_change(va: typer.Typer) -> None:
    done = _run(va, "env", "check", "--env", "prod", "--what-if", "agents.max=40", "--json")
    assert done.exit_code == 2
    assert [one["code"] for one in json.loads(done.stdout)["prod"]][:1] == ["QUOTA-VCPU"]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("env", "check", "--env", "prd"), 2, "did you mean 'prod'?"),
        (("env", "check", "--what-if", "a=1"), 2, "needs one environment"),
        (("cost", "--env", "prod", "--region", "uksouth"), 2, "no region 'uksouth'"),
        (("cost", "--what-if", "agents.mx=1"), 2, "did you mean 'agents.max'?"),
        (("infra", "plan", "--env", "dev"), 2, "ENTRA_GROUP_ADMINS"),
        (("infra", "destroy", "--env", "dev", "--local"), 2, "nothing was touched"),
        (
            ("infra", "destroy", "--env", "prod", "--local", "--confirm", "prod"),
            2,
            "'destroy prod' was not given",
        ),
        (("infra", "render", "--env", "prod", "--region", "mars"), 2, "no region 'mars'"),
    ],
)
def test_mistakes_have_one_message_and_their_code(
    va: typer.Typer, words: tuple[str, ...], code: int, said: str
) -> None:
    done = _run(va, *words)
    assert done.exit_code == code
    assert said in done.output
    assert "Traceback" not in done.output


def test_cost_with_a_what_if_and_the_budget(va: typer.Typer) -> None:
    done = _run(va, "cost", "--env", "prod", "--what-if", "agents.max=40")
    assert done.exit_code == 0
    assert "high then" in done.stdout and "budget 30,000 USD" in done.stdout
    found = json.loads(_run(va, "cost", "--env", "prod", "--json").stdout)
    assert found["low"] == pytest.approx(sum(line["low"] for line in found["lines"]))


def test_cost_shows_the_written_table_with_its_wrong_total(va: typer.Typer) -> None:
    out = _run(va, "cost", "--written").stdout
    assert "10,150 (wrong)" in out and "10,500" in out and "4,420 (wrong)" not in out


def test_schema_values_alerts_and_dashboards(va: typer.Typer, tmp_path: Path) -> None:
    assert json.loads(_run(va, "env", "schema").stdout) == json.loads(
        (model.folder() / "schema.json").read_text()
    )
    said = _run(va, "env", "values", "--env", "prod")
    values = yaml.safe_load(said.stdout)
    assert values["agent"]["nodeSelector"] == {"voice/pool": "agents"}
    assert values["livekit"]["address"].startswith("10.10.3.")
    assert "AZURE_CLIENT_ID_API" in said.stderr
    rule = yaml.safe_load(_run(va, "env", "alerts", "--env", "prod").stdout)
    assert (rule["kind"], len(rule["spec"]["groups"][0]["rules"])) == ("PrometheusRule", 6)
    assert _run(va, "env", "dashboards").exit_code == 0
    assert {file.stem for file in (tmp_path / "dashboards").iterdir()} == {
        "api",
        "agents",
        "livekit",
        "promotion",
    }


def test_show_says_where_each_key_comes_from(va: typer.Typer) -> None:
    lines = _run(va, "env", "show", "--env", "dev").stdout.splitlines()
    (tier,) = [line for line in lines if line.strip().startswith("tier: Burstable")]
    assert "# dev.yaml:" in tier
    assert any(
        "lifecycle" not in line and "cool_after: 30d" in line and "# base.yaml:" in line for line in lines
    )


def test_render_check_and_graph(va: typer.Typer, tmp_path: Path) -> None:
    assert _run(va, "infra", "render", "--env", "dev").exit_code == 0
    assert (tmp_path / "rendered" / "eastus" / "01-network.json").is_file()
    done = _run(va, "infra", "check", "--env", "dev", "--no-checkov")
    assert done.exit_code == 0 and "0 problems" in done.stdout
    assert _run(va, "infra", "graph", "--env", "dev").exit_code == 0
    assert (tmp_path / "topology.svg").read_text().startswith("<svg")


@pytest.mark.timeout(240)  # a machine that builds on all its cores beside it
def test_plan_apply_drift_destroy_on_the_stand_in(va: typer.Typer, tmp_path: Path) -> None:
    # The stand-in's state outlives each command, as Azure does.
    local = ("--env", "dev", "--local")
    count = sum(len(module.resources) for module in render(model.read("dev").architecture))
    plan = _run(va, "infra", "plan", *local, "--out", "plan.json", "--markdown", "plan.md")
    assert f"Plan: {count} to create, 0 to change, 0 to delete." in plan.stdout
    told = (tmp_path / "plan.md").read_text()
    assert told.startswith(f"### 📝 dev: {count} to create, 0 to change, 0 to delete\n")
    assert "| eastus | vault |" in told and re.search(r"```diff\n# eastus / [\w-]+\n\+ Microsoft\.", told)
    apply = _run(va, "infra", "apply", *local, "--planned", "plan.json")
    assert f"deployed ({count} resources), 0 unchanged" in apply.stdout
    assert "No changes." in _run(va, "infra", "plan", *local).stdout
    state = tmp_path / "state" / "azure.json"
    kept = json.loads(state.read_text())
    vault = next(key for key in kept["resources"] if key.endswith("/vaults/kv-voiceassistant-dev"))
    kept["resources"][vault]["properties"]["publicNetworkAccess"] = "enabled"
    state.write_text(json.dumps(kept))
    drift = _run(va, "infra", "drift", *local, "--markdown", "drift.md")
    assert drift.exit_code == 8
    assert (
        (tmp_path / "drift.md").read_text().startswith("### ❌ dev: 1 resource is not as it was last applied")
    )
    refused = _run(va, "infra", "apply", *local, "--planned", "plan.json")
    assert refused.exit_code == 8 and "it was not planned: modify Microsoft.KeyVault/vaults" in refused.output
    assert 'properties.publicNetworkAccess: "enabled" -> "disabled"' in drift.stdout
    gone = _run(va, "infra", "destroy", *local, "--confirm", "dev")
    assert "deleted rg-voiceassistant-dev-eastus" in gone.stdout
    assert json.loads(state.read_text())["resources"] == {}


def test_only_what_was_planned_is_applied(va: typer.Typer, tmp_path: Path) -> None:
    def change(action: str, name: str, *delta: Delta) -> Change:
        kind = "Microsoft.Network/natGateways"
        where = {"module": "network", "region": "eastus", "id": f"/x/{kind}/{name}"}
        return Change(action=action, type=kind, name=name, delta=delta, **where)

    made, same = change("create", "nat-a"), change("same", "nat-b")
    changed = change("modify", "nat-c", Delta(path="zones", kind="modify", before=["1"], after=["2"]))
    planned = tmp_path / "plan.json"
    planned.write_text(infra._kept("dev", [changed, same, made]))
    for now in ([made, changed], [changed], [], [made, same]):  # some is done by now: no reason to stop
        infra._hold_to(planned, infra._kept("dev", now))

    otherwise = change("modify", "nat-c", Delta(path="zones", kind="modify", before=["3"], after=["2"]))
    for now, said in (
        ([made, changed, change("delete", "nat-b")], "delete Microsoft.Network/natGateways nat-b; nothing"),
        ([otherwise], "modify Microsoft.Network/natGateways nat-c"),
        ([change("create", "nat-d"), change("create", "nat-e")], "create .* nat-d, and 1 more"),
    ):
        with pytest.raises(PolicyBlocked, match=f"it was not planned: {said}"):
            infra._hold_to(planned, infra._kept("dev", now))
    with pytest.raises(BadInput, match="is a plan of dev, not of prod"):
        infra._hold_to(planned, infra._kept("prod", [made]))
    for text in ("[]", "{}", "no JSON", '{"environment": "dev", "changes": 3}'):
        planned.write_text(text)
        with pytest.raises(BadInput, match="is no plan"):
            infra._hold_to(planned, infra._kept("dev", []))


def test_compliance_report(va: typer.Typer) -> None:
    done = _run(va, "compliance", "report", "--env", "prod")
    assert done.exit_code == 0 and "✗ GAP" not in done.stdout
    assert "rendered Microsoft.KeyVault/vaults: 3 of 3 send their audit logs" in done.stdout
    assert "setting storage.lifecycle: environments/architecture/base.yaml:" in done.stdout


def test_a_gap_ends_the_report_with_an_error(va: typer.Typer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ci.architecture.compliance.checkout", lambda: Path("/nowhere"))  # its tests are gone
    done = _run(va, "compliance", "report", "--env", "prod")
    assert done.exit_code == 8 and "MISSING test" in done.stdout


def test_audit_says_who_did_what(va: typer.Typer) -> None:
    assert "nothing in 90 days" in _run(va, "compliance", "audit").stdout
    long_ago = datetime.now(UTC) - timedelta(days=91)
    write("prod", happened(Event.PROMOTED, target="prod/eastus", release="r1"))
    write("prod", happened(Event.PROMOTED, target="prod/eastus", release="old", time=long_ago))
    shown = _run(va, "compliance", "audit").stdout
    assert "promoted" in shown and "prod/eastus" in shown and "r1" in shown and "old" not in shown
    assert len(json.loads(_run(va, "compliance", "audit", "--days", "100", "--json").stdout)) == 2
    assert json.loads(_run(va, "compliance", "audit", "--who", "nobody-else", "--json").stdout) == []


def test_every_command_has_an_example(va: typer.Typer) -> None:
    for group, names in {
        "env": ("check", "schema", "show", "values", "alerts", "dashboards"),
        "infra": ("render", "check", "plan", "apply", "drift", "destroy", "graph"),
        "compliance": ("report", "audit", "secrets"),
    }.items():
        for name in names:
            assert "Example: va" in _run(va, group, name, "--help").stdout, (group, name)
    assert "Example: va" in _run(va, "cost", "--help").stdout


def test_mounting_loads_nothing_heavy() -> None:
    code = (
        "import sys, ci.commands.cli; "
        "print([name for name in ('pydantic', 'yaml', 'azure', 'httpx', 'rich.console') if name in "
        "sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pydantic" not in done.stdout and "azure" not in done.stdout and "yaml" not in done.stdout
