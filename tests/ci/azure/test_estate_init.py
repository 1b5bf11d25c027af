"""`va estate init`: an estate made of the architecture and of what deployments output, by the real SDK."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml
from azure_applied import applied
from kubernetes.config import list_kube_config_contexts
from typer.testing import CliRunner, Result

from ci import places
from ci.architecture import model
from ci.azure.estate import in_order
from ci.commands.cli import app
from ci.delivery.site import declared_values
from ci.environments import estates, geography, read_environment, read_environments
from ci.environments.chart_values import laid_over

EXAMPLE = "azure-example"
REPOSITORY = "example/voice-assistant"
MADE = [f"{each}.{kind}" for each in ("dev", "prod", "staging") for kind in ("kubeconfig", "yaml")]


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All environments, applied to a stand-in: its state."""
    world = applied(in_order([model.read(one).architecture for one in model.environments()]))
    world.file = tmp_path_factory.mktemp("applied") / "azure.json"
    world._keep()
    return world.file


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: Path) -> Path:
    """A checkout's environments/, without any that are Azure's."""
    (tmp_path / "state").mkdir()
    shutil.copy(there, tmp_path / "state" / "azure.json")
    monkeypatch.setenv("VA_STATE", str(tmp_path / "state"))
    monkeypatch.delenv("AZURE_SUBSCRIPTION_ID", raising=False)
    real, checkout = places.checkout(), tmp_path / "checkout"
    shutil.copytree(real / "environments", checkout / "environments", ignore=shutil.ignore_patterns("azure*"))
    shutil.copytree(real / "helm", checkout / "helm")
    monkeypatch.setattr(places, "checkout", lambda: checkout)
    return checkout / "environments"


def init(*words: str, estate: str = "azure") -> Result:
    return CliRunner().invoke(app, ["estate", "init", estate, "--local", *words])


def test_the_example_in_the_repository_is_what_the_command_writes_today(folder: Path) -> None:
    example = Path(__file__).parents[3] / "environments"
    done = init("--repository", REPOSITORY, estate=EXAMPLE)
    assert done.exit_code == 0, done.output
    made = sorted(
        one.relative_to(folder) for one in folder.rglob("*") if EXAMPLE in str(one) and one.is_file()
    )
    kept = sorted(
        one.relative_to(example) for one in example.rglob("*") if EXAMPLE in str(one) and one.is_file()
    )
    again = f"va infra apply --local of all environments, then va estate init {EXAMPLE} --local"
    assert made == kept, again
    for one in made:
        assert (folder / one).read_text() == (example / one).read_text(), f"{one}: {again}"


def test_it_can_be_promoted_through_and_nothing_is_typed_by_hand(folder: Path) -> None:
    assert init("--repository", REPOSITORY).exit_code == 0
    assert "azure" in estates(folder)
    ordered = read_environments("azure", root=folder)
    assert [one.name for one in ordered] == ["dev", "staging", "prod"]
    assert [one.after for one in ordered] == [None, "dev", "staging"]
    assert geography(ordered).home == "acrvoiceassistantprod.azurecr.io"
    prod = ordered[-1]
    assert prod.waves == (("southeastasia",), ("westeurope",), ("eastus",))
    of = {region: declared_values(prod, target) for region, target in prod.targets.items()}
    for region, short in {"eastus": "", "westeurope": "-weu", "southeastasia": "-sea"}.items():
        target, values = prod.targets[region], json.loads(json.dumps(of[region]))
        assert target.context == f"aks-voiceassistant-prod{short}"
        assert target.metrics.endswith(f".{region}.prometheus.monitor.azure.com")
        assert (
            values["redis"]["url"]
            == f"rediss://redis-voiceassistant-prod{short}.{region}.redis.azure.net:10000"
        )
        assert values["api"]["identity"] and values["keda"]["prometheus"] == target.metrics
        _, current = list_kube_config_contexts(str(target.kubeconfig))  # type: ignore[no-untyped-call]
        said = yaml.safe_load(target.kubeconfig.read_text())
        cluster = {one["name"]: one["cluster"] for one in said["clusters"]}[target.context]
        assert cluster["server"].endswith(f".privatelink.{region}.azmk8s.io:443")
        assert cluster["certificate-authority-data"]
        assert current["name"] == "aks-voiceassistant-prod"
    # Two regions' pods act as two identities, and no value that differs is everybody's.
    assert len({str(values["api"]) for values in of.values()}) == 3
    assert "identity" not in prod.values["api"]  # type: ignore[operator]
    assert str(prod.trust.signers[0]).startswith(
        f"https://github.com/{REPOSITORY}/.github/workflows/release.yml"
    )


def test_a_targets_values_are_laid_over_its_environments(folder: Path) -> None:
    assert init("--repository", REPOSITORY).exit_code == 0
    mine = folder / "azure" / "staging.yaml"
    mine.write_text(mine.read_text() + "targets: {westeurope: {values: {web: {replicas: 7}}}}\n")
    staging = read_environment("azure", "staging", folder)
    east, west = (declared_values(staging, staging.targets[each]) for each in ("eastus", "westeurope"))
    assert west["web"]["replicas"] == 7 and "replicas" not in east["web"]
    assert west == laid_over(west, staging.targets["westeurope"].values)
    mine.write_text(mine.read_text().replace("replicas: 7", "replicas: many"))
    done = CliRunner().invoke(app, ["env", "check", "--env", "staging"])
    place = f"azure/staging.yaml:{mine.read_text().count(chr(10))} (targets.westeurope.values.web.replicas)"
    assert done.exit_code == 2 and place in done.output, done.output


def test_again_it_changes_nothing_and_what_is_yours_stays(folder: Path) -> None:
    init("--repository", REPOSITORY)
    mine = folder / "azure" / "prod.yaml"
    mine.write_text(mine.read_text() + "hours: Mon-Thu 09:00-16:00 Europe/Amsterdam\n")
    before = {one: one.read_text() for one in folder.rglob("*") if one.is_file()}
    said = json.loads(init("--json").stdout)
    assert {one["what"] for one in said} == {"same", "yours"}
    assert {one: one.read_text() for one in folder.rglob("*") if one.is_file()} == before
    assert read_environment("azure", "prod", folder).hours


@pytest.mark.parametrize("name", ["prod.yaml", "dev.kubeconfig"])
def test_what_was_made_and_then_changed_by_hand_is_not_lost(folder: Path, name: str) -> None:
    init("--repository", REPOSITORY)
    file = folder / "azure" / "made" / name
    made = file.read_text()
    changed = made.replace("aks-voiceassistant", "mine")
    file.write_text(changed)
    done = init()
    assert done.exit_code == 8 and f"changed by hand: environments/azure/made/{name}" in done.output
    assert file.read_text() == changed
    assert init("--overwrite").exit_code == 0 and file.read_text() == made


def test_what_azure_made_up_anew_is_taken_over(folder: Path, tmp_path: Path) -> None:
    init("--repository", REPOSITORY)
    state = tmp_path / "state" / "azure.json"
    kept = json.loads(state.read_text())
    told = kept["deployments"]["rg-voiceassistant-dev-eastus/va-data"]["outputs"]["redis"]
    told["value"] = "moved.eastus.redis.azure.net"
    state.write_text(json.dumps(kept))
    said = json.loads(init("--env", "dev", "--json").stdout)
    assert {one["file"].partition("/azure/")[2]: one["what"] for one in said} == {
        "dev.yaml": "yours", "made/dev.yaml": "changed", "made/dev.kubeconfig": "same",
    }  # fmt: skip
    redis = read_environment("azure", "dev", folder).values["redis"]
    assert redis["url"] == "rediss://moved.eastus.redis.azure.net:10000"  # type: ignore[index,call-overload]


def test_an_environment_that_is_not_there_is_named_with_what_is_missing(folder: Path, tmp_path: Path) -> None:
    state = tmp_path / "state" / "azure.json"
    kept = json.loads(state.read_text())
    del kept["deployments"]["rg-voiceassistant-prod-westeurope/va-edge"]
    kept["deployments"]["rg-voiceassistant-prod-eastus/va-cluster"].pop("outputs")
    state.write_text(json.dumps(kept))
    done = init("--repository", REPOSITORY)
    assert done.exit_code == 2 and "westeurope/edge, eastus/cluster" in " ".join(done.output.split())
    assert "va infra apply --env prod" in done.output and not (folder / "azure").exists()


@pytest.mark.parametrize(
    ("words", "estate", "said"),
    [
        ((), "azure", "--repository OWNER/NAME"),
        (("--repository", "https://github.com/a/b"), "azure", "is no repository"),
        (("--repository", REPOSITORY), "local", "another name"),
        (("--repository", REPOSITORY), "../elsewhere", "not the name of an estate"),
    ],
)
def test_bad_input_writes_nothing(folder: Path, words: tuple[str, ...], estate: str, said: str) -> None:
    before = sorted(folder.rglob("*"))
    done = init(*words, estate=estate)
    assert done.exit_code == 2 and said in " ".join(done.output.split())
    assert sorted(folder.rglob("*")) == before


def test_who_may_sign_is_said_once(folder: Path) -> None:
    init("--repository", REPOSITORY, "--signer-key", "environments/azure/release.pub")
    done = init("--repository", "somebody/else")
    assert done.exit_code == 2 and "says already who may sign" in done.output
    signers = yaml.safe_load((folder / "azure.yaml").read_text())["trust"]["signers"]
    assert signers == [{"key": "environments/azure/release.pub"}]


def test_outputs_are_shown_by_region(folder: Path) -> None:
    done = CliRunner().invoke(app, ["infra", "outputs", "--env", "prod", "--local", "--json"])
    said = json.loads(done.stdout)
    assert list(said) == ["eastus", "westeurope", "southeastasia"]
    assert said["eastus"]["registry"] == "acrvoiceassistantprod.azurecr.io"
    assert said["westeurope"]["registry"] == ""
    assert said["southeastasia"]["api"].endswith(".privatelink.southeastasia.azmk8s.io")
