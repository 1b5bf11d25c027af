from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from ci.reporting import console_reporter


def _console(terminal: bool) -> tuple[Console, io.StringIO]:
    out = io.StringIO()
    return Console(file=out, force_terminal=terminal, no_color=True, width=100, highlight=False), out


def test_without_a_terminal_a_step_is_two_plain_lines() -> None:
    console, out = _console(terminal=False)
    reporter = console_reporter(console)

    with reporter.step("push api") as step:
        step.say("3 of 4 blobs")

    first, second = out.getvalue().splitlines()
    assert first == "  … push api"
    assert second.startswith("  ✓ push api 0.0 s  3 of 4 blobs")
    assert "\x1b" not in out.getvalue()


def test_without_a_terminal_a_long_step_says_now_and_then_where_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    console, out = _console(terminal=False)
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)

    with console_reporter(console).step("build trivy") as step:
        for number in range(100):
            now += 1.0
            step.say(f"package {number}")

    lines = out.getvalue().splitlines()
    assert len(lines) == 2 + 3
    assert lines[1] == "  … build trivy 30 s  package 29"


def test_cached_skipped_and_failed_steps_say_so() -> None:
    console, out = _console(terminal=False)
    reporter = console_reporter(console)

    with reporter.step("a") as step:
        step.cached("digest is there")
    with reporter.step("b") as step:
        step.skipped("no database")
    with pytest.raises(RuntimeError), reporter.step("c"):
        raise RuntimeError

    ends = out.getvalue().splitlines()[1::2]
    assert "cached  digest is there" in ends[0]
    assert "skipped  no database" in ends[1]
    assert "✗ c" in ends[2] and "failed" in ends[2]


def test_on_a_terminal_ended_steps_stay_and_parallel_ones_share_the_display() -> None:
    console, out = _console(terminal=True)
    reporter = console_reporter(console)

    with reporter.step("outer"):
        with reporter.step("inner"):
            pass
        reporter.note("a note with [brackets]")

    assert "✓ inner" in out.getvalue()
    assert "✓ outer" in out.getvalue()
    assert "a note with [brackets]" in out.getvalue()


def test_a_step_named_after_a_long_command_stays_on_one_line() -> None:
    console, out = _console(terminal=False)

    with console_reporter(console).step("sh -c '\nset -eu\n" + "x" * 200):
        pass

    assert [len(line) < 100 for line in out.getvalue().splitlines()] == [True, True]
    assert "… sh -c ' set -eu xxx" in out.getvalue()


def test_a_tree_scrolls_up_as_a_whole_its_parts_below_what_they_are_under() -> None:
    console, out = _console(terminal=True)
    reporter = console_reporter(console)

    with reporter.step("network") as network:
        with reporter.step("eastus", under=network) as step:
            step.say("14 resources")
        with reporter.step("westeurope", under=network):
            pass
        network.say("2 regions")

    plain = re.sub(r"\x1b\[[?\d;]*[A-Za-z]", "", out.getvalue())
    ended = [line for line in plain.splitlines() if "✓" in line and " s" in line][-3:]
    assert ended[0].strip().startswith("✓ network") and "2 regions" in ended[0]
    assert ended[1].strip().startswith("├ ✓ eastus") and "14 resources" in ended[1]
    assert ended[2].strip().startswith("└ ✓ westeurope")


def test_without_a_terminal_a_part_says_what_it_is_under() -> None:
    console, out = _console(terminal=False)
    reporter = console_reporter(console)

    with reporter.step("network") as network, reporter.step("eastus", under=network):
        pass

    assert "  … network › eastus" in out.getvalue().splitlines()
