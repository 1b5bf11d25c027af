"""Debian's Chromium, headless, without a home that it could call."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from selenium import webdriver

from ci import tools
from ci.reporting import SilentReporter

__all__ = ["chromium"]

_FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1000,1000", "--disable-quic"),
    *("--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--no-default-browser-check", "--no-proxy-server"),
)


@contextmanager
def chromium(profile: Path, *flags: str) -> Iterator[webdriver.Chrome]:
    """One with a profile of its own while this lasts; what its console says is kept."""
    asyncio.run(tools.ensure(["chromedriver"], SilentReporter()))
    options = webdriver.ChromeOptions()
    for flag in (*_FLAGS, *flags, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.binary_location = "/usr/bin/chromium"
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(str(tools.path("chromedriver"))))
    try:
        yield driver
    finally:
        driver.quit()
