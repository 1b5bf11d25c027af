"""The command `va`: all its commands, put together.

Every command's work is in `pipelines/` or in a room of `ci/`; in the modules beside this are only arguments,
output and exit codes. Those rooms are imported inside the commands, so that `va --help` answers at once.
"""

from __future__ import annotations

import sys

import typer

from ci.commands import (
    cache,
    compliance,
    cost,
    databases,
    dr,
    env,
    infra,
    livekit,
    machine,
    promotion,
    registries,
    releases,
    shipping,
    tools,
)
from ci.commands.answers import failing
from ci.commands.options import SETTINGS

__all__ = ["app", "main"]

_EXIT_CODES = """Exit codes: 0 done, 2 bad input, 3 a step or test failed, 4 a gate failed, 5 a gate was
inconclusive, 6 an external system is unavailable, 7 a tool is missing, 8 blocked by policy,
9 root is needed, 130 interrupted."""

_COMMANDS = (
    machine.doctor, machine.up, machine.down,
    shipping.build, shipping.test, shipping.scan, shipping.make, shipping.publish, shipping.ship,
    promotion.promote, promotion.rollback, promotion.status, promotion.demo,
    shipping.lint, cost.cost,
)  # fmt: skip
_GROUPS = {
    "cache": cache, "release": releases, "registry": registries, "livekit": livekit, "db": databases,
    "tools": tools, "env": env, "infra": infra, "compliance": compliance, "dr": dr,
}  # fmt: skip

app = typer.Typer(
    name="va",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings=SETTINGS,
    help="Build, test, scan and publish the Voice Assistant's images, and promote them behind canary gates.",
    epilog=_EXIT_CODES,
)
for _command in _COMMANDS:
    app.command(context_settings=SETTINGS)(_command)
for _name, _group in _GROUPS.items():
    app.add_typer(_group.app, name=_name, context_settings=SETTINGS)


def main() -> None:
    """The console command."""
    try:
        with failing("--json" in sys.argv):
            app()
    except typer.Exit as ended:
        sys.exit(ended.exit_code)
