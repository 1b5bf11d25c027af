"""`va gate`, as it is typed."""

from __future__ import annotations

import asyncio
import functools
import json
import shutil
import urllib.parse
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner, Result

from ci import places
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


ESTATE = """\
extends: ../base.yaml
waves: [[eastus]]
registries: {home: "127.0.0.1:5501"}
targets:
  eastus:
    kubeconfig: /nowhere
    context: c
    namespace: va-x
    registry: 127.0.0.1:5501
    metrics: http://127.0.0.1:9490
    gateway: http://127.0.0.1:8480
    hostname: api.x
trust: {signers: [{key: /nowhere.pub}], builders: ["*"]}
gates:
"""
GATEWAY = (
    "  gateway: {kind: ratio, source: prometheus, margin: 0, harm: 1, tolerated: 0.01, dry_run: true, "
    """bad: 'answers_total{app="${app}",code=~"5.."}', all: 'answers_total{app="${app}"}'}\n"""
)


def estate(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, gate: str) -> None:
    """An estate with an environment `x` that has that gate besides the usual ones."""
    checkout = tmp_path / "checkout"
    shutil.copytree(places.checkout() / "environments", checkout / "environments")
    (checkout / "environments" / "mine").mkdir()
    (checkout / "environments" / "mine" / "x.yaml").write_text(ESTATE + gate)
    monkeypatch.setattr(places, "checkout", lambda: checkout)


def prometheus(monkeypatch: pytest.MonkeyPatch, answers: dict[str, tuple[str, int]]) -> list[str]:
    """A Prometheus that knows these metrics: of what shape their answer is, and how many series they have."""
    asked: list[str] = []

    def handle(request: httpx.Request) -> httpx.Response:
        query = urllib.parse.parse_qs(request.content.decode())["query"][0]
        asked.append(query)
        shape, series = next((what for name, what in answers.items() if name in query), ("vector", 0))
        if shape == "error":
            return httpx.Response(400, json={"status": "error", "error": "parse error: unexpected end"})
        rows = [{"metric": {"n": str(n)}, "value": [1, "2"]} for n in range(series)]
        return httpx.Response(200, json={"status": "success", "data": {"resultType": shape, "result": rows}})

    monkeypatch.setattr(
        gates, "Prometheus", functools.partial(Prometheus, transport=httpx.MockTransport(handle))
    )
    return asked


@pytest.mark.parametrize(
    ("answers", "problem"),
    [
        ({"answers_total": ("vector", 3)}, ""),
        ({"answers_total": ("matrix", 3)}, "its answer is a matrix: a vector is expected"),
        ({"answers_total": ("scalar", 0)}, "its answer is a scalar"),
        ({"answers_total": ("error", 0)}, "parse error: unexpected end"),
        ({}, "nobody exports answers_total"),
    ],
)
def test_a_gate_of_ones_own_is_tried_on_its_prometheus(
    answers: dict[str, tuple[str, int]], problem: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    estate(monkeypatch, tmp_path, GATEWAY)
    asked = prometheus(monkeypatch, answers)

    done = va("lint", "x", "--estate", "mine")
    assert done.exit_code == (3 if problem else 0), done.output
    assert problem in " ".join(done.output.split())
    if "parse" not in problem:  # which names the query
        assert done.stderr.count("x/eastus: gateway:") == bool(problem)  # of both queries and both tracks
    assert 'answers_total{app="voice-canary",code=~"5.."}' in asked
    listed = va("list", "x", "--estate", "mine").stdout
    assert "gateway (dry run)" in listed and "answers_total" in listed


LOST = "  jobs: {kind: events, source: prometheus, margin: 0, query: 'lost_total'}\n"


@pytest.mark.parametrize(
    ("gate", "said"),
    [
        (GATEWAY.replace("${app}", "${ap}"), "unknown placeholder ${ap}"),
        (
            "  gw: {kind: ratio, source: prometheus, margin: 0, harm: 1, tolerated: 0.1}\n",
            "needs two queries",
        ),
        ("  gateway: {kind: rate}\n", "kind must be one of ratio, share, events, limit, split, not 'rate'"),
        ("  gateway: {}\n", "unknown key 'gateway'"),
        ("  Gate way: {kind: split, margin: 1}\n", "no name of a gate"),
        ("  hot: {kind: limit, limit: 3, samples: 2}\n", "under 1"),
        ("  errors: {dry_run: true}\n", "not dry-run"),
        (GATEWAY.replace("bad: 'answers", "bad: 'rate(answers").replace('"5.."}', '"5.."}[1m])'), "by rate"),
        (LOST.replace("lost_total", "increase (lost_total[5m])"), "is smoothed, by increase"),
        (LOST.replace("lost_total", "max_over_time(lost_total[5m])"), "is smoothed, by max_over_time"),
        (LOST.replace("lost_total", "irate(lost_total[1m])"), "is smoothed, by irate"),
        (LOST.replace("lost_total", "sum without (pod) (lost_total)"), "is aggregated, by sum"),
        (LOST.replace("lost_total", "2 * MAX(lost_total)"), "is aggregated, by MAX"),
        (
            GATEWAY.replace("all: 'answers_total", "all: 'count by(app) (answers_total"),
            "is aggregated, by count",
        ),
        ("  warm-up: {kind: split, margin: 1}\n", "'warm-up' is no name of a gate"),
        ("  pods: {kind: events, margin: 0}\n", "'pods' is no name of a gate"),
        (
            "  twice: {kind: ratio, margin: 1, harm: 2, tolerated: 0.2, weight: 3}\n",
            "'twice' counts what 'errors' does",
        ),
        (
            LOST + LOST.replace("jobs", "again").replace("margin: 0", "margin: 1"),
            "'again' counts what 'jobs'",
        ),
    ],
)
def test_a_gate_that_is_written_wrongly_is_bad_input_with_its_line(
    gate: str, said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    estate(monkeypatch, tmp_path, gate)
    done = va("lint", "x", "--estate", "mine")

    assert done.exit_code == 2
    assert said in " ".join(done.output.split()) and ".yaml:" in done.output


@pytest.mark.parametrize(
    "gate",
    [
        LOST.replace("lost_total", 'lost_total{why="rate(x)",by="sum by (y)"} or vector(0)'),
        LOST.replace("lost_total", "sum_lost_total + count:lost:rate5m"),
        "  twice: {kind: ratio, margin: 1, harm: 2, tolerated: 0.2, dry_run: true}\n",
        "  slow: {kind: share, threshold: 9s, share: 0.01, margin: 0, harm: 1}\n",
        LOST + LOST.replace("jobs", "again").replace("lost_total", "left_total"),
    ],
)
def test_what_only_looks_so_is_a_gate(gate: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    estate(monkeypatch, tmp_path, gate)

    assert va("list", "x", "--estate", "mine").exit_code == 0


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ('sum by (pod) (rate(foo_total{a="b{c}",x=~"y"}[5m]))', {"foo_total"}),
        ("a:b / on(x) group_left bar_x > bool 3", {"a:b", "bar_x"}),
        ('{__name__="zed",t="1"} or vector(0)', {"zed"}),
        ("histogram_quantile(0.9, sum(q_bucket) by (le)) offset 5m", {"q_bucket"}),
        ("1 + 2e3", set()),
    ],
)
def test_the_metrics_of_a_query_are_known_by_name(query: str, names: set[str]) -> None:
    assert gates.metrics_in(query) == names


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
