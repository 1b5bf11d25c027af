"""What the architecture costs: sums, what-if, and the written table with its wrong total."""

from __future__ import annotations

import pytest

from ci.architecture import model
from ci.architecture.cost import HOURS, estimate, prices_file, stated, what_if
from ci.architecture.kinds import VM_SIZES
from ci.errors import BadInput
from ci.yamlfile import load

TABLE = load(prices_file()).data
USD = {line["id"]: line["usd"] for line in TABLE["prices"]}


def test_every_line_has_a_source_and_a_day() -> None:
    assert all(
        line["source"] and line["read"] and line["unit"] and "eastus" in line["usd"]
        for line in TABLE["prices"]
    )
    assert len(USD) == len(TABLE["prices"]), "an id is given twice"
    assert all(assumption["why"] for assumption in TABLE["assumptions"].values())


def test_a_pool_costs_its_nodes_disks_and_addresses() -> None:
    prod = model.read("prod").architecture
    lines = {
        line.basis.split(":")[0]: line
        for line in estimate(prod, "eastus").lines
        if line.component == "kubernetes"
    }
    node = USD["vm Standard_D4s_v5"]["eastus"] * HOURS + USD["disk P10"]["eastus"]
    assert lines["agents"].low == pytest.approx(4 * node)
    assert lines["agents"].high == pytest.approx(20 * node)
    livekit = (
        USD["vm Standard_D8s_v5"]["eastus"] * HOURS
        + USD["disk P10"]["eastus"]
        + USD["public ip"]["eastus"] * HOURS
    )
    assert lines["livekit"].high == pytest.approx(10 * livekit)


def test_the_sum_is_the_sum_of_regions_and_of_components() -> None:
    prod = model.read("prod").architecture
    whole = estimate(prod)
    assert sum(estimate(prod, region).high for region in prod.order) == pytest.approx(whole.high)
    assert sum(high for _, high in whole.by_component().values()) == pytest.approx(whole.high)
    assert 0 < whole.low < whole.high
    assert {"registry", "traffic-manager", "key-vault"} <= set(whole.by_component()), (
        "what the written table left out"
    )


def test_every_figure_says_by_what_price_and_whose() -> None:
    whole = estimate(model.read("prod").architecture)
    assert all(line.prices for line in whole.lines)
    used = {(one.item, one.region): one for one in whole.prices()}
    # A region with a figure of its own, and one without: then it says by which factor.
    assert used["vm Standard_D4s_v5", "westeurope"].usd == USD["vm Standard_D4s_v5"]["westeurope"]
    derived = used["nat gateway", "southeastasia"]
    assert derived.usd == pytest.approx(USD["nat gateway"]["eastus"] * 1.25)
    assert derived.source.endswith("; East US x 1.25") and derived.read == "2026-11-23"
    agents = next(line for line in whole.lines if line.basis.startswith("agents:"))
    assert {one.item for one in agents.prices} == {"vm Standard_D4s_v5", "disk P10"}


def test_smaller_environments_cost_less() -> None:
    high = [estimate(model.read(environment).architecture).high for environment in ("dev", "staging", "prod")]
    assert high == sorted(high)


def test_a_what_if_changes_nothing_else() -> None:
    prod = model.read("prod")
    before, after = estimate(prod.architecture), estimate(what_if(prod, ["agents.max=40"]).architecture)
    assert after.low == pytest.approx(before.low)
    node = {
        region: USD["vm Standard_D4s_v5"][region] * HOURS + USD["disk P10"]["eastus"] * factor
        for region, factor in {"eastus": 1, "westeurope": 1.2, "southeastasia": 1.25}.items()
    }
    assert after.high - before.high == pytest.approx(20 * sum(node.values()))
    assert prod.architecture.kubernetes.pools["agents"].max == 20


def test_two_servers_while_highly_available() -> None:
    prod = model.read("prod")
    lines = estimate(what_if(prod, ["postgres.high_availability=none"]).architecture, "eastus").by_component()
    assert lines["postgres"][0] == pytest.approx(
        estimate(prod.architecture, "eastus").by_component()["postgres"][0] / 2
    )


@pytest.mark.parametrize(
    ("change", "said", "hint"),
    [
        ("agents.mx=40", "there is no key 'agents.mx'", "did you mean 'agents.max'?"),
        ("max=40", "'max' may be kubernetes.pools.", "more of the path"),
        ("agents.max", "is no change", "--what-if agents.max=40"),
        ("agents.max=many", "--what-if agents.max=many: a whole number is expected", ""),
        ("agents.max=1", "min 4 is more than max 1", ""),
        ("agents.vm_size=Standard_D4s_v9", "no VM size known", "Standard_D4s_v5"),
        ("agents.max=[", "is no value", ""),
    ],
)
def test_a_wrong_what_if(change: str, said: str, hint: str) -> None:
    with pytest.raises(BadInput) as caught:
        what_if(model.read("prod"), [change])
    assert said in str(caught.value)
    assert hint in caught.value.hint or hint in caught.value.hint.replace("v6", "v5")


def test_an_unknown_region_and_a_size_without_a_price() -> None:
    prod = model.read("prod")
    with pytest.raises(BadInput, match="no region 'uksouth'"):
        estimate(prod.architecture, "uksouth")
    unpriced = next(size for size in VM_SIZES if f"vm {size}" not in USD)
    with pytest.raises(BadInput, match="no price for"):
        estimate(what_if(prod, [f"agents.vm_size={unpriced}"]).architecture)


def test_the_written_table_with_its_wrong_total() -> None:
    claims = model.read_file(model.folder() / "as-written" / "prod.yaml").architecture.claims
    assert claims is not None
    table = stated(claims)
    assert table.sums == (4420, 10500)
    assert table.total == (4420, 10150)
    assert len(table.rows) == 8
