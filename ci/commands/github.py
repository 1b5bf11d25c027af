"""`va github`: what a workflow tells people, where they look: on a pull request, as an issue."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ci.commands.answers import answer
from ci.commands.options import Json
from ci.errors import BadInput

if TYPE_CHECKING:
    from ci.layout import Page
    from ci.reporting import Reporter

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True, help="In a job of GitHub: tell people, on a pull request or as an issue."
)

Text = Annotated[Path, typer.Argument(help="A file of Markdown: what is said.")]
Mark = Annotated[str, typer.Option("--as", help="What it is about; said again, it is changed.")]


@app.command()
def comment(
    text: Text,
    on: Annotated[int, typer.Option(min=1, help="The number of the pull request.")],
    mark: Mark,
    json: Json = False,
) -> None:
    """Say it on a pull request: one comment, which the next run changes.

    Example: va github comment plan.md --on 12 --as plan-prod
    """
    from ci.github import comment as said

    async def flow(_: Reporter) -> str:
        return await said(on, _read(text), mark)

    answer(flow, json=json, show=_line)


@app.command()
def issue(
    text: Text,
    title: Annotated[str, typer.Option(help="Its title.")],
    mark: Mark,
    json: Json = False,
) -> None:
    """Have it as an open issue: one, which the next run changes.

    Example: va github issue drift.md --title "prod has drifted" --as drift-prod
    """
    from ci.github import open_issue

    async def flow(_: Reporter) -> str:
        return await open_issue(title, _read(text), mark)

    answer(flow, json=json, show=_line)


@app.command()
def settled(mark: Mark, json: Json = False) -> None:
    """Close the issue that was opened as that, for it is well again.

    Example: va github settled --as drift-prod
    """
    from ci.github import close_issue

    async def flow(_: Reporter) -> str | None:
        return await close_issue(mark)

    answer(flow, json=json, show=_line)


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise BadInput(f"{file} is no text") from error


def _line(address: str | None) -> Page:
    from ci.layout import page

    return page(address or "there was none")
