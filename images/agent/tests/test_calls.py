from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import CollectorRegistry
from voice_agent.calls import Calls, Outcome, receive_reports, report


@dataclass
class Clock:
    now: float = 100.0

    def __call__(self) -> float:
        return self.now


class Ledger:
    """Calls with a clock, and what their metrics say."""

    def __init__(self, max_calls: int = 2) -> None:
        self.clock = Clock()
        self.registry = CollectorRegistry()
        self.calls = Calls(max_calls=max_calls, registry=self.registry, clock=self.clock)

    def look(self, *running: str, after: float = 0.0) -> None:
        self.clock.now += after
        self.calls.look(running)

    def count(self, outcome: Outcome) -> float:
        return self.registry.get_sample_value("voice_calls_total", {"outcome": outcome}) or 0.0

    def counts(self) -> dict[Outcome, float]:
        return {outcome: count for outcome in Outcome if (count := self.count(outcome))}


def test_there_are_so_many_places_and_no_more() -> None:
    ledger = Ledger(max_calls=2)
    assert [ledger.calls.take(call) for call in "abc"] == [True, True, False]
    assert ledger.calls.load == 1.0
    ledger.calls.ended("a", Outcome.OK, 3)
    assert ledger.calls.load == 0.5 and ledger.calls.take("c")
    assert ledger.counts() == {Outcome.OK: 1, Outcome.REJECTED: 1}


def test_a_call_counts_once() -> None:
    ledger = Ledger()
    ledger.calls.take("a")
    ledger.calls.ended("a", Outcome.OK, 1)
    ledger.calls.ended("a", Outcome.ERROR, 1)
    ledger.look(after=100)
    assert ledger.counts() == {Outcome.OK: 1}
    assert ledger.registry.get_sample_value("voice_call_duration_seconds_count") == 1


def test_a_call_that_vanished_is_an_error() -> None:
    ledger = Ledger()
    ledger.calls.take("a")
    ledger.look("a", after=1)
    ledger.look(after=1)
    assert ledger.counts() == {}  # its report may still be on the way
    ledger.look(after=4)
    assert ledger.counts() == {Outcome.ERROR: 1} and ledger.calls.load == 0


def test_a_long_call_is_no_lost_call() -> None:
    ledger = Ledger()
    ledger.calls.take("a")
    for _ in range(100):
        ledger.look("a", after=60)
    assert ledger.counts() == {} and ledger.calls.load == 0.5


def test_a_call_that_another_worker_got_is_forgotten() -> None:
    ledger = Ledger()
    ledger.calls.take("a")
    ledger.look(after=30)
    assert ledger.calls.load == 0.5
    ledger.look(after=31)
    ledger.calls.take("b")
    ledger.calls.withdraw("b")
    assert ledger.counts() == {} and ledger.calls.load == 0


def test_metrics_start_at_zero_and_show_the_active() -> None:
    ledger = Ledger()
    for outcome in Outcome:
        assert ledger.registry.get_sample_value("voice_calls_total", {"outcome": outcome}) == 0
    ledger.calls.take("a")
    assert ledger.registry.get_sample_value("voice_calls_active") == 1


def test_reports_arrive_through_the_socket(tmp_path: Path) -> None:
    ledger = Ledger()
    ledger.calls.take("a")

    async def tell() -> None:
        async with receive_reports(tmp_path / "reports", ledger.calls):
            await asyncio.to_thread(report, tmp_path / "reports", "a", Outcome.NO_SHOW, 1.5)
            async with asyncio.timeout(30):
                while ledger.calls.load != 0:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)

    asyncio.run(tell())
    assert ledger.counts() == {Outcome.NO_SHOW: 1}


def test_a_report_to_nobody_is_no_error(tmp_path: Path) -> None:
    report(tmp_path / "gone", "a", Outcome.OK, 1)
