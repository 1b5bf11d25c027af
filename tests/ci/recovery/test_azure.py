"""The steps out of a disaster on Azure, and the runbooks that are written from them."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml
from click import Group
from typer.main import get_command

from ci.architecture import model
from ci.architecture.chart import values
from ci.architecture.model import Architecture
from ci.azure.render import render
from ci.commands.cli import app
from ci.errors import BadInput
from ci.places import checkout
from ci.recovery import azure, runbooks
from ci.recovery.azure import scenario, scenarios

PROD = model.read("prod").architecture


def _lines(architecture: Architecture) -> list[str]:
    return [
        line
        for one in scenarios(architecture)
        for step in one.steps
        for line in (*step.commands, *step.proof)
    ]


def _commands(name: str, key: str, to: str | None = None) -> tuple[str, ...]:
    return next(step.commands for step in scenario(PROD, name, to).steps if step.key == key)


def test_the_replica_of_the_region_that_takes_over_is_promoted_by_force() -> None:
    assert _commands("region-lost", "postgres") == (
        "az postgres flexible-server replica promote -g rg-voiceassistant-prod-westeurope "
        "-n psql-voiceassistant-prod-weu --promote-mode standalone --promote-option forced --yes",
    )
    assert "-n psql-voiceassistant-prod-sea " in _commands("region-lost", "postgres", "southeastasia")[0]


def test_every_resource_that_a_line_names_is_one_that_is_rendered() -> None:
    rendered = {
        (module.group, resource.name.split("/")[0])
        for module in render(PROD)
        for resource in module.resources
    }
    groups = {group for group, _ in rendered}
    made = {"psql-voiceassistant-prod-geo-weu", "psql-voiceassistant-prod-restored"}
    named = set()
    for line in _lines(PROD):
        if not line.startswith("az "):
            continue
        words = shlex.split(line.replace("$(", " ").replace(")", " "))
        group = words[words.index("-g") + 1] if "-g" in words else None
        assert group is None or group in groups, line
        for option in (
            "-n",
            "--cluster-name",
            "--profile-name",
            "--resource",
            "--vnet-name",
            "--source-server",
        ):
            for place, word in enumerate(words[:-1]):
                value = words[place + 1]
                if word == option and re.match(r"(psql|aks|tm|vnet|redis|st)-?voice", value):
                    assert value in made or (group, value) in rendered or group is None, (line, value)
                    named.add(value)
    kinds = {(module.group, one.type, one.name) for module in render(PROD) for one in module.resources}
    ids = re.findall(r"/resourceGroups/(\S+?)/providers/([\w.]+/\w+)/([\w.-]+)", "\n".join(_lines(PROD)))
    assert {kind for _, kind, _ in ids} == {
        "Microsoft.DBforPostgreSQL/flexibleServers",
        "Microsoft.Network/privateDnsZones",
        "Microsoft.Cache/redisEnterprise",
    }
    assert set(ids) <= kinds
    assert {"psql-voiceassistant-prod-weu", "aks-voiceassistant-prod-weu", "stvoiceassistantprod"} <= named


def test_the_way_back_from_a_lost_region_fits_the_promise() -> None:
    assert 0 < scenario(PROD, "region-lost").minutes <= PROD.recovery.rto.total_seconds() / 60


def test_what_cannot_be_undone_is_marked() -> None:
    marked = {step.key for step in scenario(PROD, "region-lost").steps if step.no_way_back}

    assert marked == {"postgres", "blobs"}


def test_no_line_carries_a_secret() -> None:
    for line in _lines(PROD):
        assert not re.search(r"--(value|password|account-key|sas-token|connection-string)\b|sig=", line), line


def test_an_environment_without_a_copy_elsewhere_says_so() -> None:
    dev = model.read("dev").architecture

    assert {one.name for one in scenarios(dev)} == {
        "database-damaged",
        "redis-lost",
        "blobs-deleted",
        "cluster-lost",
    }
    with pytest.raises(BadInput, match="dev has no way out of region-lost: PostgreSQL has no replica"):
        scenario(dev, "region-lost")


def test_what_nobody_knows_is_refused_with_what_is_known() -> None:
    with pytest.raises(BadInput, match="no scenario 'flood'") as caught:
        scenario(PROD, "flood")
    assert "region-lost" in caught.value.hint
    with pytest.raises(BadInput, match="--to eastus: no region that can take over") as caught:
        scenario(PROD, "region-lost", "eastus")
    assert caught.value.hint == "known: westeurope, southeastasia"


@pytest.mark.e2e  # it takes a minute and a half
@pytest.mark.skipif(shutil.which("az") is None, reason="Azure's command line is not on PATH")
@pytest.mark.timeout(600)
def test_azures_own_command_line_can_read_every_line(tmp_path: Path) -> None:
    """Without a sign-in it ends with 1 and asks for one; what it cannot parse ends with 2."""
    env = {**os.environ, "AZURE_CONFIG_DIR": str(tmp_path), "AZURE_CORE_COLLECT_TELEMETRY": "no"}
    lines = sorted({re.sub(r"\$\([^)]*\)", "X", line) for line in _lines(PROD) if line.startswith("az ")})
    (tmp_path / "import.json").write_text("{}")

    def parsed(line: str) -> str:
        done = subprocess.run(
            shlex.split(line), cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120, check=False
        )
        return "" if done.returncode == 1 and "az login" in done.stderr else f"{line}\n{done.stderr}"

    with ThreadPoolExecutor(2) as pool:
        assert [problem for problem in pool.map(parsed, lines) if problem] == []


def test_what_is_set_is_what_the_pod_reads_and_may_reach() -> None:
    # From the runbook's line to the pod: the Deployment of the chart has this container with this variable …
    golden = [
        one
        for one in yaml.safe_load_all((checkout() / "tests/helm/golden/prod.yaml").read_text())
        if one and one["kind"] == "Deployment" and one["metadata"]["name"] == "voice-api"
    ]
    (api,) = golden[0]["spec"]["template"]["spec"]["containers"]
    (before,) = [one["value"] for one in api["env"] if one["name"] == "DATABASE_URL"]
    step = next(step for step in scenario(PROD, "region-lost").steps if step.key == "point")
    assert len(step.commands) == 2, "each region that is left"
    for line in step.commands:
        name, _, value = shlex.split(line)[-1].partition("=")
        assert f"--containers={api['name']}" in line and name == "DATABASE_URL"
        assert value == before.replace("psql-voiceassistant-prod.", "psql-voiceassistant-prod-weu.")
    # … and every region's pods may reach the endpoints of the region that takes over.
    there = next(one for one in PROD.regions["westeurope"].subnets.values() if one.purpose == "endpoints")
    for region in PROD.order:
        assert str(there.cidr) in values(PROD, region)["networkPolicy"]["database"]


def test_every_line_leads_to_something_that_reads_it() -> None:
    clusters = {
        resource.name
        for module in render(PROD)
        for resource in module.resources
        if resource.type == "Microsoft.ContainerService/managedClusters"
    }
    golden = yaml.safe_load_all((checkout() / "tests/helm/golden/prod.yaml").read_text())
    deployed = {
        (one["metadata"]["namespace"], f"deployment/{one['metadata']['name']}"): {
            each["name"] for each in one["spec"]["template"]["spec"]["containers"]
        }
        for one in golden
        if one and one["kind"] == "Deployment"
    }
    (database,) = {
        resource.name.rpartition("/")[2]
        for module in render(PROD)
        for resource in module.resources
        if resource.type == "Microsoft.DBforPostgreSQL/flexibleServers/databases"
    }
    seen = set()
    for line in _lines(PROD):
        words = shlex.split(re.sub(r"\$\([^)]*\)", "x", line))
        words = words[1:] if "=" in words[0] else words
        seen.add(words[0])
        if words[0] == "kubectl":
            assert words[words.index("--context") + 1] in clusters, line
            (which,) = (word for word in words if word.startswith("deployment/"))
            containers = deployed[words[words.index("-n") + 1], which]
            assert {
                word.partition("=")[2] for word in words if word.startswith("--containers=")
            } <= containers
        elif words[0] in ("psql", "pg_dump", "pg_restore"):
            (place,) = (word for word in words if word.startswith("host="))
            said = dict(each.partition("=")[::2] for each in place.split())
            assert said["dbname"] == database and said["sslmode"] == "require", line
        elif words[0] == "va":
            command = get_command(app)
            path = words[1:]
            while isinstance(command, Group):
                command = command.commands[path.pop(0)]
            command.make_context(
                "va", ["20261124-160000-0123abc-89abcdef" if one == "RELEASE" else one for one in path]
            )
    assert seen == {"az", "kubectl", "psql", "pg_dump", "pg_restore", "va"}


def test_writes_stop_and_start_in_every_region() -> None:
    clusters = [f"aks-voiceassistant-prod{end}" for end in ("", "-weu", "-sea")]
    for key in ("stop", "start"):
        lines = _commands("database-damaged", key)
        assert [shlex.split(line)[2] for line in lines] == clusters


# Runbooks ------------------------------------------------------------------------------------------


def test_the_runbooks_are_what_the_steps_say() -> None:
    assert runbooks.stale(PROD) == [], "run: va dr runbook"


def test_a_changed_a_missing_and_a_forgotten_runbook_are_stale(tmp_path: Path) -> None:
    runbooks.write(PROD, tmp_path)
    assert runbooks.stale(PROD, tmp_path) == []
    (tmp_path / "drill.md").unlink()
    (tmp_path / "redis-lost.md").write_text("by hand")
    (tmp_path / "gone.md").write_text("of an older version")

    assert runbooks.stale(PROD, tmp_path) == ["drill.md", "gone.md", "redis-lost.md"]
    runbooks.write(PROD, tmp_path)
    assert runbooks.stale(PROD, tmp_path) == []


def test_a_runbook_has_every_line_of_its_steps() -> None:
    for one in scenarios(PROD):
        page = runbooks.text(one, PROD)
        for step in one.steps:
            assert step.title in page and all(line in page for line in (*step.commands, *step.proof))
        assert page.count("there is no way back") == sum(step.no_way_back for step in one.steps)
    assert set(azure.SCENARIOS) == {one.name for one in scenarios(PROD)}
