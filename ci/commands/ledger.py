"""`va ledger`: whether the ledgers are as they were written, and their entries for other programs."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ci.commands.answers import answer, failing
from ci.commands.options import Estate, Json, said

if TYPE_CHECKING:
    from ci.delivery.ledger import Verified
    from ci.reporting import Reporter

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="The ledgers: who promoted what where, and why.")

_Env = Annotated[str | None, typer.Option("--env", help="This environment alone.")]


class Format(StrEnum):
    """What an export is written as."""

    JSON = "json"
    CSV = "csv"


@app.command("verify")
def ledger_verify(env: _Env = None, estate: Estate = "local", json: Json = False) -> None:
    """Read every entry, and name each that is changed, missing or moved; 6 when there is one.

    The hash of a last entry, noted elsewhere, shows later that nothing up to there was changed or cut off.

    Example: va ledger verify
    """
    from ci.delivery.ledger import verify_all
    from ci.delivery.ledger.show import verified_page

    async def flow(_: Reporter) -> tuple[Verified, ...]:
        return await verify_all(estate, env)

    if any(one.problems for one in answer(flow, json=json, show=verified_page)):
        raise typer.Exit(6)


@app.command("export")
def ledger_export(
    form: Annotated[Format, typer.Option("--format", help="JSON has all; CSV a row an entry.")] = Format.JSON,
    out: Annotated[Path | None, typer.Option(help="The file; stdout when left out.")] = None,
    env: _Env = None,
    estate: Estate = "local",
    json: Annotated[
        bool, typer.Option("--json", help="Say the file's name, or what was wrong, as JSON.")
    ] = False,
) -> None:
    """Write all entries for other programs: a spreadsheet, an auditor's tool.

    Example: va ledger export --format csv --out ledger.csv
    """
    import asyncio
    import sys

    from ci.delivery.ledger import read_all
    from ci.delivery.ledger.export import as_csv, as_json
    from ci.files import write_whole

    with failing(json):
        ledgers = asyncio.run(read_all(estate, env))
        text = as_json(ledgers) if form is Format.JSON else as_csv(ledgers)
        if out is None:
            sys.stdout.write(text)
        else:
            write_whole(out, text)
            said([out], json)
