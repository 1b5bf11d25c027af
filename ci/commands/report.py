"""`va report`: one promotion told to people who were not there, as one file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ci.commands.answers import answer
from ci.commands.options import Estate, Json, said

if TYPE_CHECKING:
    from ci.delivery.report import Report
    from ci.reporting import Reporter

__all__ = ["report"]


def report(
    promotion: Annotated[
        str | None,
        typer.Argument(
            help="Its name or the first letters of it, or a release: the last one of it, or of all."
        ),
    ] = None,
    env: Annotated[str | None, typer.Option("--env", help="By the ledger of this environment alone.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="The file; reports/promotion-NAME.html when left out.")
    ] = None,
    open_it: Annotated[bool, typer.Option("--open", help="Show it in the browser.")] = False,
    estate: Estate = "local",
    json: Json = False,
) -> None:
    """Tell of a promotion on one page, for people who were not there.

    What came of it, who had the release when, what each gate counted, what people and the guard did, and
    whether the ledger is as it was written (6 when it is not). The file loads nothing from elsewhere. With
    --json its data is printed instead, and a file written only where one is named. In a job of GitHub the
    step's summary gets a short form.

    Example: va report 2026-11-29T20 --open
    """
    from pipelines.report import read_report, summarise, write_report

    files: list[Path] = []

    async def flow(_: Reporter) -> Report:
        found = await read_report(estate, promotion, env=env)
        if out is not None or open_it or not json:
            files.append(write_report(found, out))
        summarise(found)
        return found

    found = answer(flow, json=json)
    if not json:
        said(files, json)
    if open_it:
        _open(files[0])
    if not found.whole:
        raise typer.Exit(6)


def _open(file: Path) -> None:
    import sys
    import webbrowser

    from ci.layout import page, show

    if not webbrowser.open(file.absolute().as_uri()):
        show(page(f"no browser was found here: {file} is the page"), to=sys.stderr)
