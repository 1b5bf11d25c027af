"""Where Dagger pipelines run: a real Dagger engine, or the embedded session, which needs no Docker.

    async with session(reporter) as (client, engine):
        await client.container().import_(base).with_exec(["true"]).sync()

The embedded session is a GraphQL server of ours that the unmodified Dagger SDK talks to. `schema` is its
face, `chain` what an object is, `engine` evaluates chains, `containers`, `files`, `images`, `services` and
`secrets` answer the fields, `run` runs commands, `tree`, `oci` and `store` keep what they made.
"""

from __future__ import annotations

TYPE_CHECKING = False  # typing's own is late: a step waits for what starts it, which imports this package
if TYPE_CHECKING:
    from typing import Any

    from ci.engine.cache import Usage, prune, usage
    from ci.engine.engine import LogLine
    from ci.engine.server import embedded
    from ci.engine.sessions import explained, session, uses_real_engine

__all__ = ["LogLine", "Usage", "embedded", "explained", "prune", "session", "usage", "uses_real_engine"]


def __getattr__(name: str) -> Any:
    """Import the Dagger SDK only for those who run pipelines: it takes a second, and pruning does not need
    it."""
    from importlib import import_module

    for room in ("cache", "engine", "server", "sessions"):
        if name in __all__ and hasattr(module := import_module(f"ci.engine.{room}"), name):
            return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
