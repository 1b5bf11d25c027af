from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import threading

import pytest
from rich.cells import cell_len
from rich.console import Console
from waiting import until

from ci import places
from ci.reporting import Reporter, console_reporter


def _console(terminal: bool) -> tuple[Console, io.StringIO]:
    out = io.StringIO()
    return Console(file=out, force_terminal=terminal, no_color=True, width=100, highlight=False), out


def test_a_log_gets_a_line_a_finished_step() -> None:
    console, out = _console(terminal=False)
    reporter = console_reporter(console)

    with reporter.step("push api") as step:
        for number in range(500):
            step.say(f"{number} of 500 blobs")
    reporter.note("a note with [brackets]")

    first, second = out.getvalue().splitlines()
    assert first.startswith("  ✓ push api 0.") and first.endswith(" s  499 of 500 blobs")
    assert second == "a note with [brackets]"
    assert "\x1b" not in out.getvalue()


def test_a_log_that_was_silent_for_long_says_what_runs() -> None:
    console, out = _console(terminal=False)
    reporter = console_reporter(console, silence=(0.05, 0.05))
    sign = r"  … build trivy \d+ s; network › prod/southeastasia \d+ s  14 of 20 resources\n"

    with (
        reporter.step("build trivy"),
        reporter.step("network") as network,
        reporter.step("prod/southeastasia", under=network) as step,
    ):
        step.say("14 of 20 resources")
        until(lambda: re.search(sign, out.getvalue()))


def test_a_log_is_quiet_again_when_everything_has_ended() -> None:
    console, _ = _console(terminal=False)
    reporter = console_reporter(console, silence=(0.01, 0.01))
    for _ in range(2):
        with reporter.step("a"):
            pass
        until(lambda: not [one for one in threading.enumerate() if one.name == "signs of life"])


def test_cached_skipped_and_failed_steps_say_so() -> None:
    console, out = _console(terminal=False)
    reporter = console_reporter(console)

    with reporter.step("a") as step:
        step.cached("digest is there")
    with reporter.step("b") as step:
        step.skipped("no database")
    with pytest.raises(RuntimeError), reporter.step("c"):
        raise RuntimeError

    ends = out.getvalue().splitlines()
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

    assert [len(line) < 100 for line in out.getvalue().splitlines()] == [True]
    assert "✓ sh -c ' set -eu xxx" in out.getvalue()


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

    assert out.getvalue().splitlines()[0].startswith("  ✓ network › eastus 0.")


def _plain(out: io.StringIO) -> list[str]:
    return re.sub(r"\x1b\[[?\d;]*[A-Za-z]", "\n", out.getvalue()).splitlines()


def _drawn(reporter: Reporter) -> list[str]:
    """The live display as it is now."""
    return [line.plain for line in reporter._draw().lines()]  # type: ignore[attr-defined]


@pytest.mark.parametrize("width", [20, 40, 80, 110, 150])
def test_no_line_of_the_live_display_is_wider_than_the_screen(width: int) -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, no_color=True, width=width, height=40, highlight=False)
    reporter = console_reporter(console)
    tools = "build kubeadm, kube-apiserver, kube-controller-manager, kube-scheduler, kubelet, 世界, kubectl"
    target = "prod/southeastasia"

    with (
        reporter.step(f"{target}: 20261128-124435-d292a58-ea228095") as above,
        reporter.step(tools) as step,
        reporter.step(f"{target}: 25 % to the canary", under=above) as inner,
    ):
        inner.say("\x1b[2J412 req 0 lost | err 3/96 vs 0/310\r\n | E 1.2/180 | safe 14/10 | p95 43 ms")
        step.say("github.com/containerd/" + "x" * 300)
        reporter.note(f"{target}: " + "a note of many words " * 9)
        drawn = _drawn(reporter)

    assert [line for line in (*drawn, *_plain(out)) if cell_len(line) > width] == []
    assert "\x1b[2J" not in out.getvalue() and "\\x1b[2J" in out.getvalue()
    if width >= 80:
        for name in (target, "20261128-124435-d292a58-ea228095", "kube-controller-manager", "kubectl"):
            assert any(name in line for line in drawn), name
            assert any(name in line for line in _plain(out)), name


def test_a_low_screen_keeps_what_runs_and_lets_go_what_has_ended() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, no_color=True, width=80, height=6, highlight=False)
    reporter = console_reporter(console)
    with reporter.step("all") as above:
        for number in range(20):
            with reporter.step(f"ended {number}", under=above):
                pass
        with reporter.step("the one that runs", under=above):
            drawn = _drawn(reporter)
    assert len(drawn) < 6
    assert "all" in drawn[0] and "the one that runs" in drawn[-2] and drawn[-1].strip() == "… and 18 more"


_SCRIPT = """
from ci.reporting import console_reporter
with console_reporter().step("prod/southeastasia: 20261128-124435-d292a58-ea228095") as step:
    step.say("25 % to the canary, and more words than there is room for on any screen of eighty columns")
print("the result")
"""


@pytest.mark.parametrize(("term", "live"), [("xterm-256color", True), ("dumb", False)])
def test_progress_is_for_the_terminal_and_the_result_for_the_pipe(term: str, live: bool) -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    environment = {**os.environ, "TERM": term, "PYTHONPATH": str(places.checkout()), "NO_COLOR": "1"}
    environment.pop("COLUMNS", None)
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT], stdout=subprocess.PIPE, stderr=theirs, env=environment, check=True
    )
    os.close(theirs)
    seen = os.read(ours, 65536).decode()
    os.close(ours)
    assert done.stdout == b"the result\n" and "the result" not in seen
    assert ("\x1b[?25l" in seen) is live  # the cursor is hidden while something is drawn
    lines = re.sub(r"\x1b\[[?\d;]*[A-Za-z]", "", seen).replace("\r", "\n").splitlines()
    assert max(map(cell_len, lines)) <= 80
    assert any("prod/southeastasia: 20261128-124435-d292a58-ea228095" in line for line in lines)


def test_a_log_is_no_screen_however_coloured_it_is() -> None:
    environment = {**os.environ, "FORCE_COLOR": "1", "PYTHONPATH": str(places.checkout())}
    environment.pop("NO_COLOR", None)
    done = subprocess.run([sys.executable, "-c", _SCRIPT], capture_output=True, env=environment, check=True)
    assert b"\x1b[32m" in done.stderr and b"\x1b[?25l" not in done.stderr
    assert len(done.stderr.splitlines()) == 1
