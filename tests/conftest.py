"""Property tests draw the same examples in every run, and take the time that a busy machine needs.

And Ctrl-C works in what tests start: a shell without job control gives its background jobs, and all that they
start, a SIGINT that is ignored.
"""

import gc
import os
import signal
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

import pytest
from hypothesis import settings
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling  # type: ignore[import-untyped]

settings.register_profile("va", deadline=None, derandomize=True)
settings.load_profile("va")
signal.signal(signal.SIGINT, signal.default_int_handler)
# A suite makes millions of objects that live to its end (syntax trees, hypotheses, schemas), and Python looks
# through all of them again and again for what is dead: a quarter of what the collection of tests takes.
gc.set_threshold(50_000, 20, 50)
# xdist tells its workers how wide the terminal is: what a test prints is as wide as it says itself.
os.environ.pop("COLUMNS", None)

_ON_THE_PLATFORM = {
    "test_call", "test_chart", "test_history", "test_promote", "test_signing", "test_web",
}  # fmt: skip
"""Files whose tests use this machine's one embedded platform."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write tests/helm/golden/ anew")


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadFileScheduling | None:
    """With `--dist loadfile` a file is one worker's; all that use the one platform are the same one's."""
    return _OnePlatform(config, log) if config.getvalue("dist") == "loadfile" else None


class _OnePlatform(LoadFileScheduling):  # type: ignore[misc]
    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        return "platform" if PurePosixPath(file).stem in _ON_THE_PLATFORM else file


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    """A folder for a test that syncs files a thousand times: in memory, where this machine has such."""
    shared = Path("/dev/shm")
    with TemporaryDirectory(dir=shared if os.access(shared, os.W_OK) else tmp_path) as folder:
        yield Path(folder)


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
