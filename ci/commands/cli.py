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
    drill,
    env,
    estate,
    gate,
    github,
    history,
    infra,
    kube,
    ledger,
    livekit,
    machine,
    notify,
    promotion,
    registries,
    releases,
    report,
    shipping,
    tools,
)
from ci.commands.answers import failing
from ci.commands.options import SETTINGS
from ci.commands.streams import replace_streams
from ci.commands.typed import Command, Group, strict, wrong_usage
from ci.errors import Interrupted, SystemUnavailable

__all__ = ["app", "main"]

_EXIT_CODES = """Exit codes: 0 done, 2 bad input, 3 a step or test failed, 4 a gate failed, 5 a gate was
inconclusive, 6 an external system is unavailable, 7 a tool is missing, 8 refused by policy, or
somebody else is at work, 9 root is needed, 130 interrupted, or ordered to end."""

_COMMANDS = (
    machine.doctor, machine.up, machine.down,
    shipping.build, shipping.test, shipping.scan, shipping.make, shipping.publish, shipping.ship,
    promotion.plan, promotion.promote, promotion.approve, promotion.pause, promotion.resume, promotion.abort,
    promotion.retry, promotion.skip_bake, promotion.watch, promotion.rollback, promotion.status,
    history.history, report.report, promotion.demo, shipping.lint, cost.cost,
)  # fmt: skip
_GROUPS = {
    "cache": cache, "release": releases, "registry": registries, "livekit": livekit, "db": databases,
    "tools": tools, "env": env, "infra": infra, "compliance": compliance, "dr": dr, "notify": notify,
    "ledger": ledger, "gate": gate, "kube": kube, "github": github, "estate": estate, "drill": drill,
}  # fmt: skip

app = typer.Typer(
    name="va",
    cls=Group,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings=SETTINGS,
    help="Build, test, scan and publish the Voice Assistant's images, and promote them behind canary gates.",
    epilog=_EXIT_CODES,
)
for _command in _COMMANDS:
    app.command(context_settings=SETTINGS, cls=Command)(_command)
for _name, _group in _GROUPS.items():
    app.add_typer(strict(_group.app), name=_name, cls=Group, context_settings=SETTINGS)


def main() -> None:
    """The console command: a wrong option is told as a wrong file is, with `--json` as JSON too."""
    output = replace_streams()
    try:
        with failing("--json" in sys.argv):
            try:
                code = app(standalone_mode=False)
            except Exception as error:
                if (wrong := wrong_usage(error)) is None:
                    raise
                raise wrong from None
    except typer.Exit as ended:
        code = ended.exit_code
    except typer.Abort:
        code = Interrupted.exit_code
    sys.stdout.flush()
    if output.problem is not None and not code:
        sys.stderr.write(f"error: the result could not be written: {output.problem.strerror}\n")
        code = SystemUnavailable.exit_code
    sys.exit(code if isinstance(code, int) else 0)
