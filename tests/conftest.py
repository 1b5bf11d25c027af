"""Property tests draw the same examples in every run, and take the time that a busy machine needs.

And Ctrl-C works in what tests start: a shell without job control gives its background jobs, and all that they
start, a SIGINT that is ignored.
"""

import signal

import pytest
from hypothesis import settings

settings.register_profile("va", deadline=None, derandomize=True)
settings.load_profile("va")
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write tests/helm/golden/ anew")
