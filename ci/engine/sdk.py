"""The Dagger SDK without the checks of types that it makes at run time: of our own calls mypy has made them.

For the checks beartype writes a function for each of the SDK's thousand methods, which takes as long as all
else of its import. Its switch is PYTHONOPTIMIZE, which it reads while it is imported. A program that has
imported `dagger` before has the checks.
"""

from __future__ import annotations

import os

__all__ = ["dagger"]

_SWITCH = "PYTHONOPTIMIZE"
_before = os.environ.get(_SWITCH)
os.environ[_SWITCH] = "1"
try:
    import dagger
finally:
    if _before is None:
        del os.environ[_SWITCH]
    else:
        os.environ[_SWITCH] = _before
