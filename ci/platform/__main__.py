"""`python -m ci.platform up|down|status`: the platform without the command line, for working on it."""

from __future__ import annotations

import asyncio
import sys

from ci import platform
from ci.errors import PipelineError
from ci.layout import show
from ci.reporting import console_reporter


async def _main(word: str) -> None:
    if word == "up":
        show(str(await platform.up(console_reporter())))
    elif word == "down":
        await platform.down(console_reporter())
    else:
        for part in await platform.status():
            show(f"{part.name:40} {part.problem or 'ok':30} {part.pid or ''} {part.detail}")


try:
    asyncio.run(_main(sys.argv[1]))
except PipelineError as error:
    sys.exit(f"{error}\n{error.hint}")
