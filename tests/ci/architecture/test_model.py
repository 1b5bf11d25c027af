"""The architecture files: what they become, and one clear error for each mistake a person makes in them."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from ipaddress import IPv4Network
from pathlib import Path

import jsonschema
import pytest
import yaml
from pydantic import ValidationError

from ci.architecture import model
from ci.architecture.names import KINDS, name
from ci.errors import BadInput

Edit = Callable[[str, str], Path]


@pytest.fixture
def edited(tmp_path: Path) -> Edit:
    """A copy of the environments with one text replaced in base.yaml; gives the folder."""

    def edit(old: str, new: str, file: str = "base.yaml") -> Path:
        for source in model.folder().glob("*.yaml"):
            text = source.read_text()
            if source.name == file:
                assert old in text, f"{old!r} is not in {file} any more: mend this test"
                text = text.replace(old, new, 1)
            (tmp_path / source.name).write_text(text)
        return tmp_path

    return edit


def test_prod_is_what_the_architecture_says() -> None:
    prod = model.read("prod").architecture
    assert prod.order == ("eastus", "westeurope", "southeastasia")
    assert prod.kubernetes.nodes == (10, 44)
    assert prod.kubernetes.autoscaler.scale_down_unneeded_time == timedelta(minutes=10)
    assert prod.kubernetes.autoscaler.scale_down_utilization_threshold == 0.5
    assert [str(taint) for taint in prod.kubernetes.pools["livekit"].taints] == ["livekit=true:NoSchedule"]
    assert prod.storage.lifecycle.delete_after == timedelta(days=365)
    assert prod.storage.expected == 1024
    assert (prod.gateway.min_units, prod.gateway.max_units) == (2, 10)
    assert prod.regions["eastus"].vnet == IPv4Network("10.10.0.0/16")
    assert len(prod.postgres.replicas) == 2
    assert set(prod.storage.containers) == {"conversations", "uploads", "recordings", "backups"}


def test_dev_and_staging_are_smaller_overlays_of_one_base() -> None:
    sizes = {name: model.read(name).architecture for name in ("dev", "staging", "prod")}
    nodes = [sizes[env].kubernetes.nodes[1] * len(sizes[env].regions) for env in ("dev", "staging", "prod")]
    assert nodes == sorted(set(nodes))
    assert model.read("dev").architecture.traffic_manager is None
    assert model.read("dev").place("kubernetes", "pools", "agents", "vm_size").file.name == "base.yaml"
    assert model.read("dev").place("kubernetes", "pools", "agents", "max").file.name == "dev.yaml"


def test_names_follow_the_architecture() -> None:
    prod = model.read("prod").architecture
    assert {
        kind: name(prod, kind) for kind in ("cluster", "postgres", "redis", "storage", "vnet", "gateway")
    } == {
        "cluster": "aks-voiceassistant-prod",
        "postgres": "psql-voiceassistant-prod",
        "redis": "redis-voiceassistant-prod",
        "storage": "stvoiceassistantprod",
        "vnet": "vnet-voiceassistant-prod",
        "gateway": "appgw-voiceassistant-prod",
    }
    assert name(prod, "resource group") == "rg-voiceassistant-prod-eastus"
    assert name(prod, "key vault") == "kv-voiceassistant-prod"
    assert name(prod, "registry") == "acrvoiceassistantprod"
    assert name(prod, "cluster", "westeurope") == "aks-voiceassistant-prod-weu"


def test_no_name_is_too_long_and_none_is_given_twice() -> None:
    for environment in model.environments():
        architecture = model.read(environment).architecture
        long = architecture.model_copy(update={"product": "a-product-with-a-very-long-name-indeed"})
        for kind, (_, limit) in KINDS.items():
            for each in (architecture, long):
                assert len(name(each, kind, each.order[-1], part="api")) <= limit, kind
        regional = [
            name(architecture, kind, region)
            for kind in ("key vault", "storage")
            for region in architecture.order
        ]
        assert len(set(regional)) == len(regional)


def test_a_model_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        model.read("dev").architecture.kubernetes.version = "1.20"  # type: ignore[misc]


MISTAKES = {
    "a typo": ("min_units: 2", "min_unit: 2", "(gateway.min_unit): unknown key", "did you mean 'min_units'?"),
    "a unit missing": (
        "scale_down_unneeded_time: 10m",
        "scale_down_unneeded_time: 10",
        "duration without a unit",
        "10m",
    ),
    "a wrong unit": (
        "scale_down_unneeded_time: 10m",
        "scale_down_unneeded_time: 10min",
        "'10min' is no duration",
        "10m",
    ),
    "a wrong size": ("storage: 256 GB", "storage: 256 MB", "'256 MB' is no size", "GB or TB"),
    "a size without a unit": (
        "storage: 256 GB",
        "storage: 256",
        "size without a unit",
        "did you mean '256 GB'?",
    ),
    "a share without a sign": ("error_rate: 5%", "error_rate: 5", "5 is no percentage", "did you mean '5%'?"),
    "an unknown region": (
        "  eastus:\n",
        "  eastsu:\n",
        "'eastsu' is no Azure region",
        "did you mean 'eastus'?",
    ),
    "a duplicate region": (
        "residency:\n",
        "  eastus: {priority: 2, vnet: 10.50.0.0/16, subnets: {}}\nresidency:\n",
        "the key 'eastus' is given twice (first on line",
        "keep one",
    ),
    "an unknown SKU": (
        "vm_size: Standard_D8s_v5",
        "vm_size: Standard_D8_v5",
        "is no VM size",
        "Standard_D8s_v5",
    ),
    "an unknown tier": (
        "sku: WAF_v2",
        "sku: WAF_v3",
        "sku must be 'WAF_v2' or 'Standard_v2'",
        "did you mean 'WAF_v2'?",
    ),
    "a prefix over 32": ("vnet: 10.10.0.0/16", "vnet: 10.0.0.0/33", "'10.0.0.0/33' is no IPv4 range", "0-32"),
    "bits past the prefix": ("vnet: 10.10.0.0/16", "vnet: 10.10.1.0/16", "past its prefix", "10.10.0.0/16?"),
    "a version as a number": (
        'version: "1.36"',
        "version: 1.36",
        "1.36 is a number, and 1.30 would be 1.3",
        'quote it: "1.36"',
    ),
    "no regions": ("vnet: 10.10.0.0/16", "vnt: 10.10.0.0/16", "unknown key 'vnt'", "did you mean 'vnet'?"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_one_clear_error_for_each_mistake(edited: Edit, mistake: str) -> None:
    old, new, said, hint = MISTAKES[mistake]
    with pytest.raises(BadInput) as caught:
        model.read("prod", edited(old, new))
    assert said in str(caught.value).splitlines()[0]
    assert hint in caught.value.hint
    assert caught.value.place is not None and caught.value.place.line is not None
    line = caught.value.place.file.read_text().splitlines()[caught.value.place.line - 1]
    assert new.splitlines()[0].strip(": ") in line or new.split("\n")[0] in line


def test_min_over_max_names_the_pool(edited: Edit) -> None:
    with pytest.raises(
        BadInput, match=r"base\.yaml:\d+ \(kubernetes\.pools\.agents\): min 30 is more than max 20"
    ):
        model.read("prod", edited("      min: 4\n", "      min: 30\n"))


def test_a_secret_where_a_reference_belongs_is_never_shown(edited: Edit) -> None:
    where = edited("keys: azkv://this/livekit-api-secret", "keys: 8fK2pQx7Lm9ZzT4vW1cB")
    with pytest.raises(BadInput) as caught:
        model.read("prod", where)
    assert "(livekit.keys): a reference to a secret belongs here" in str(caught.value)
    assert "8fK2" not in str(caught.value) + caught.value.hint


def test_overlays_that_go_round(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("extends: prod.yaml\n")
    (tmp_path / "prod.yaml").write_text("extends: base.yaml\n")
    with pytest.raises(BadInput, match="circle"):
        model.read("prod", tmp_path)


def test_an_unknown_environment() -> None:
    with pytest.raises(BadInput) as caught:
        model.read("prd")
    assert caught.value.hint == "did you mean 'prod'?"


def test_the_schema_for_editors_is_current_and_accepts_our_files() -> None:
    written = json.loads((model.folder() / "schema.json").read_text())
    assert written == json.loads(json.dumps(model.schema())), (
        "run: va env schema > environments/architecture/schema.json"
    )
    validator = jsonschema.Draft202012Validator(written)
    for stem in ("base", *model.environments()):
        file = model.folder() / f"{stem}.yaml"
        assert [error.message for error in validator.iter_errors(yaml.safe_load(file.read_text()))] == []
    assert list(validator.iter_errors({"gateway": {"min_unit": 2}}))
