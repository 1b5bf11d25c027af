"""`python -m voice_agent`: take calls until SIGTERM, then let the running ones end."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys

from voice_agent.logs import configure_logging
from voice_agent.settings import Settings, SettingsError, read_settings

__all__ = ["main"]


def main() -> int:
    """The exit code: 0 after SIGTERM, 1 when LiveKit cannot be reached, 2 when the environment is wrong."""
    try:
        settings = read_settings()
    except SettingsError as error:
        print(error, file=sys.stderr)
        return 2
    configure_logging(settings.log_level, track=settings.va_track, release=settings.va_release)
    try:
        asyncio.run(_until_stopped(settings))
    except (RuntimeError, OSError):
        logging.getLogger("voice_agent").exception("the worker failed")
        return 1
    return 0


async def _until_stopped(settings: Settings) -> None:
    from voice_agent.worker import serve  # seconds of imports, which a wrong environment need not wait for

    stop = asyncio.Event()

    def on_signal() -> None:
        if stop.is_set():
            os._exit(1)  # asked twice: do not wait for calls
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, on_signal)
    await serve(settings, stop)


if __name__ == "__main__":
    sys.exit(main())
