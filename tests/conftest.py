"""Property tests draw the same examples in every run, and take the time that a busy machine needs.

And Ctrl-C works in what tests start: a shell without job control gives its background jobs, and all that they
start, a SIGINT that is ignored.
"""

import os
import signal

import pytest
from hypothesis import settings

settings.register_profile("va", deadline=None, derandomize=True)
settings.load_profile("va")
signal.signal(signal.SIGINT, signal.default_int_handler)
# xdist tells its workers how wide the terminal is: what a test prints is as wide as it says itself.
os.environ.pop("COLUMNS", None)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write tests/helm/golden/ anew")


@pytest.hookimpl(tryfirst=True)  # xdist looks for the groups in a hook of its own
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """End to end, a file is one worker's; all that use the one platform are the same one's."""
    for item in items:
        if item.get_closest_marker("e2e") and not item.get_closest_marker("xdist_group"):
            item.add_marker(pytest.mark.xdist_group(item.path.stem))


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """A run of which every test was skipped has shown nothing: it fails."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or exitstatus != pytest.ExitCode.OK:
        return
    ran = any(reporter.stats.get(how) for how in ("passed", "xfailed", "xpassed"))
    if reporter.stats.get("skipped") and not ran:
        reporter.write_line("every test was skipped, so nothing was shown", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
