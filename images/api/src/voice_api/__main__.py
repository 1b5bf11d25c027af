"""`python -m voice_api`: run the API until SIGTERM."""

from __future__ import annotations

import sys
import time
from types import FrameType

import uvicorn

from voice_api.app import create_app
from voice_api.observe import Lifecycle, configure_logging
from voice_api.settings import Settings, SettingsError, read_settings

# Longer than gateways in front keep an idle connection (Traefik: 90 s), so that it is never us who closes one
# just as the next request is on its way.
_KEEP_ALIVE_SECONDS = 120


class DrainingServer(uvicorn.Server):
    """uvicorn, but the first SIGTERM only announces the end: for a while it serves on and /readyz says no.

    The second signal ends the wait, the third (SIGINT) everything.
    """

    def __init__(self, config: uvicorn.Config, lifecycle: Lifecycle, drain_seconds: float) -> None:
        super().__init__(config)
        self._lifecycle = lifecycle
        self._drain_seconds = drain_seconds
        self._stop_at = float("inf")

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._lifecycle.draining:
            super().handle_exit(sig, frame)
            return
        self._lifecycle.draining = True
        self._stop_at = time.monotonic() + self._drain_seconds

    async def on_tick(self, counter: int) -> bool:
        if time.monotonic() >= self._stop_at:
            self.should_exit = True
        return await super().on_tick(counter)


def main() -> int:
    """The exit code: 0 after SIGTERM, 2 when the environment is wrong, 3 when the port cannot be had."""
    try:
        settings = read_settings(Settings)
    except SettingsError as error:
        print(error, file=sys.stderr)
        return 2
    configure_logging(settings.log_level, track=settings.va_track, release=settings.va_release)
    lifecycle = Lifecycle()
    config = uvicorn.Config(
        create_app(settings, lifecycle=lifecycle),
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        server_header=False,
        forwarded_allow_ips=settings.trusted_proxies,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=settings.shutdown_seconds,
    )
    server = DrainingServer(config, lifecycle, settings.drain_seconds)
    server.run()
    return 0 if server.started else 3


if __name__ == "__main__":
    sys.exit(main())
