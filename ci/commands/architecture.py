"""`va env`, `va cost`, `va infra`, `va compliance`: arguments and output; the work is in the rooms beside.

`mount(app)` puts them into `va`; `on_azure` runs something against Azure or its stand-in, for commands
elsewhere that take the same options. Everything heavy is imported inside the commands: this package costs
`va --help` nothing but typer, which it has already.
"""

from __future__ import annotations

import typer

from ci.commands import compliance, cost, env, infra
from ci.commands.options import SETTINGS, Env, Local, Subscription, on_azure

__all__ = ["Env", "Local", "Subscription", "mount", "on_azure"]


def mount(app: typer.Typer) -> None:
    """Add the commands to `va`."""
    app.add_typer(env.app, name="env", context_settings=SETTINGS)
    app.command("cost", context_settings=SETTINGS)(cost.cost)
    app.add_typer(infra.app, name="infra", context_settings=SETTINGS)
    app.add_typer(compliance.app, name="compliance", context_settings=SETTINGS)
