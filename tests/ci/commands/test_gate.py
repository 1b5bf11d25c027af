"""`va gate`, as it is typed."""

from __future__ import annotations

import asyncio
import functools
import json
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner, Result

from ci.commands.cli import app
from ci.delivery.findings import Carried, Factor, Finding, Tally, Verdict
from ci.delivery.ledger import Action, Draft, Kind, open_named
from ci.delivery.metrics import Prometheus
from ci.delivery.promotion.measurements import Measurements
from ci.environments import read_environment
from pipelines import gates

NAME = "2026-11-29T201512-ab12"
BAD = Finding(
    metric="errors", verdict=Verdict.FAIL, reason="9 of 90 (10.00%) of the canary's, 0 of 270 (0.00%)",
    tally=Tally(canary_bad=9, canary=90, stable=270), log_harm=6.2, log_fail_at=4.4, log_floor=9.0,
    log_floor_at=1.6, evidence=Carried(factors=(Factor(weight=25, tally=Tally(canary_bad=9, canary=90)),)),
)  # fmt: skip


def va(*args: str) -> Result:
    return CliRunner().invoke(app, ["gate", *args])


@pytest.fixture(autouse=True)
def promoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One promotion on staging/eastus, whose errors failed at the second look."""
    monkeypatch.setenv("VA_STATE", str(tmp_path / "state"))

    async def main() -> None:
        async with open_named("local", "staging") as ledger:
            step = Draft(
                promotion=NAME, kind=Kind.INTENT, action=Action.STEP, release="r1", target="staging/eastus",
                weight=25,
            )  # fmt: skip
            await ledger.append(step)
            over = {"kind": Kind.OUTCOME, "result": "failed", "findings": (BAD,)}
            await ledger.append(step.model_copy(update=over))

    asyncio.run(main())
    kept = Measurements("local", NAME, read_environment("local", "staging").target("eastus"))
    for second, (bad, canary) in enumerate([(2, 30), (9, 90)], 1):
        tally = Tally(canary_bad=bad, canary=canary, stable=3 * canary)
        looked = BAD.model_copy(update={"tally": tally})
        kept.write(step=1, weight=25, seconds=float(second), findings=[looked])


def test_the_gates_of_an_environment_are_listed() -> None:
    done = va("list", "prod", "--json")

    listed = {one["name"]: one for one in json.loads(done.stdout)}
    assert set(listed) == {"errors", "latency", "restarts", "exposure"}
    assert listed["errors"]["fails"] == "over stable's, and over 1.00%"
    assert listed["latency"]["fails"].startswith("slower than stable's own quantile: over 2 times stable's")
    assert "voice_sessions_total" in va("list", "prod").stdout


@pytest.mark.parametrize("missing", ["", "voice_session_duration_seconds_bucket"])
def test_a_metric_that_nobody_exports_is_found(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def handle(request: httpx.Request) -> httpx.Response:
        there = not missing or missing.encode() not in request.content
        rows = [{"metric": {}, "value": [1, "2"]}] if there else []
        return httpx.Response(200, json={"status": "success", "data": {"result": rows}})

    asked = functools.partial(Prometheus, transport=httpx.MockTransport(handle))
    monkeypatch.setattr(gates, "Prometheus", asked)

    done = va("check", "staging")
    assert done.exit_code == (3 if missing else 0)
    assert ("staging/eastus: latency: nobody exports it there" in done.output) is bool(missing)


def test_what_a_gate_said_is_explained_in_a_sentence_and_in_numbers() -> None:
    said = va("explain", NAME[:15])

    assert said.exit_code == 0
    assert "staging/eastus at 25 %: failed" in said.stdout
    assert (
        "9 of 90 of the canary's sessions failed (10.00%), 0 of 270 of stable's (0.00%): were it no worse, "
        "that would be seen in one of 493 promotions at most." in said.stdout
    )
    assert "E 493 (fails at 81)" in said.stdout
    assert va("explain", NAME, "--target", "staging/westeurope").exit_code == 2


@pytest.mark.parametrize(
    ("finding", "words"),
    [
        ({"verdict": Verdict.PASS, "log_safe": 3.0}, "were it harmful, it would look as good in one of 20"),
        ({"verdict": Verdict.PASS}, "nothing speaks against it"),
        ({"verdict": Verdict.INCONCLUSIVE}, "too little to say"),
        ({"verdict": Verdict.INCONCLUSIVE, "reason": "no data"}, "never good news"),
    ],
)
def test_each_verdict_has_a_sentence(finding: dict[str, object], words: str) -> None:
    assert words in gates.sentence(BAD.model_copy(update=finding))


def test_a_promotion_is_replayed_with_other_numbers() -> None:
    now = json.loads(va("replay", NAME, "staging/eastus", "--json").stdout)
    assert [(one["verdict"], one["seconds"]) for one in now] == [("fail", 2.0)]

    strict = json.loads(va("replay", NAME, "staging/eastus", "--alpha", "1e-9", "--json").stdout)
    assert [(one["was"], one["verdict"]) for one in strict] == [("fail", "inconclusive")]
    tolerant = json.loads(va("replay", NAME, "staging/eastus", "--floor", "0.4", "--json").stdout)
    assert [one["verdict"] for one in tolerant] == ["inconclusive"]

    nothing = va("replay", NAME, "dev/eastus")
    assert nothing.exit_code == 2 and "kept no look" in nothing.output
    assert va("replay", NAME, "staging/nowhere").exit_code == 2
