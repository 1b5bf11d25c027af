"""The embedded session as a program, in the place of the Dagger CLI.

    _EXPERIMENTAL_DAGGER_CLI_BIN=<a script that runs `python -m ci.engine "$@"`> python pipeline.py

`session` prints {"port": …, "session_token": …} as the first line of its output and ends when its input
closes.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import typer

from ci.engine.engine import LogLine
from ci.engine.server import embedded
from ci.layout import clean
from ci.reporting import console_reporter

app = typer.Typer(add_completion=False, rich_markup_mode=None, help=__doc__)


@app.callback()
def _one_of_several() -> None:
    """Keep `session` a command by name, though it is the only one."""


@app.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
def session(workdir: Path | None = None) -> None:
    """Serve a session until stdin closes. Other options of the Dagger CLI are taken and not used."""

    def log(line: LogLine) -> None:
        print(clean(line.text), file=sys.stderr, flush=True)

    async def serve() -> None:
        async with embedded(console_reporter(), log, workdir=workdir) as address:
            print(json.dumps({"port": address.port, "session_token": address.token}), flush=True)
            await asyncio.to_thread(sys.stdin.buffer.read)

    asyncio.run(serve())


if __name__ == "__main__":
    app()
