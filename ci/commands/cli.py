"""The command `va`: all its commands, put together.

Every command's work is in `pipelines/` or in a room of `ci/`; in the modules beside this are only arguments,
output and exit codes. Those rooms are imported inside the commands, so that `va --help` answers at once.
"""

from __future__ import annotations

import re
import sys

import typer

from ci.commands import (
    cache,
    compliance,
    cost,
    databases,
    dr,
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
from ci.commands.answers import failing, write_json
from ci.commands.options import SETTINGS
from ci.commands.streams import replace_streams
from ci.errors import BadInput, Interrupted, SystemUnavailable

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
    "ledger": ledger, "gate": gate, "kube": kube, "github": github, "estate": estate,
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
    """The console command: a wrong option is told as a wrong file is, with `--json` as JSON too."""
    output = replace_streams()
    try:
        with failing("--json" in sys.argv):
            code = app(standalone_mode=False)
    except typer.Exit as ended:
        code = ended.exit_code
    except typer.Abort:
        code = Interrupted.exit_code
    except Exception as error:
        # What Typer says of a command line: it names no class for that.
        if not hasattr(error, "format_message"):
            raise
        if isinstance(getattr(error, "message", None), str):
            error.message = _in_words(error.message)  # type: ignore[attr-defined]
        if "--json" in sys.argv[1:]:
            told = {"kind": BadInput.__name__, "message": error.format_message(), "hint": "va --help"}
            write_json({"error": told})
        error.show()  # type: ignore[attr-defined]
        code = getattr(error, "exit_code", BadInput.exit_code)
    sys.stdout.flush()
    if output.problem is not None and not code:
        sys.stderr.write(f"error: the result could not be written: {output.problem.strerror}\n")
        code = SystemUnavailable.exit_code
    sys.exit(code if isinstance(code, int) else 0)


def _in_words(message: str) -> str:
    """What Typer has from pydantic, without its words for types."""
    found = re.fullmatch(
        r"(.*)Input should be (?:a valid (integer|number|\w+)|(.*?))(?:, (?!.*').*)?", message
    )
    if found is None:
        return message.replace("Value error, ", "")
    kind = {"integer": "whole number"}.get(found[2], found[2])
    return f"{found[1]}{f'a {kind} is expected' if kind else f'it should be {found[3]}'}"
