"""The web client on the embedded platform: its page in a real browser, in a call with our agent.

Debian's Chromium, headless, with its own fake microphone, which beeps all the time. The page asks the API for
a session through the gateway, joins the room, and the beeps come back from the agent in the cluster.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest
import waiting
from chromium import chromium
from installed_chart import PLACE, installed_chart
from selenium import webdriver
from selenium.webdriver.common.by import By

from ci import places

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

HOST = "web.voice.localhost"
PAGE = f"http://{HOST}:{httpx.URL(PLACE.gateway).port}/"
MICROPHONE = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
# The loudest sample that the agent's voice has within four seconds; 1 is full scale.
PLAYS = 'const audio = document.querySelector("#audio audio"); return audio !== null && !audio.paused;'
PEAK = """
const [done] = arguments;
const audio = document.querySelector("#audio audio");
const context = new AudioContext();
const analyser = context.createAnalyser();
context.createMediaStreamSource(audio.srcObject).connect(analyser);
const samples = new Float32Array(analyser.fftSize);
const end = performance.now() + 4000;
let peak = 0;
const look = () => {
  analyser.getFloatTimeDomainData(samples);
  for (const sample of samples) peak = Math.max(peak, Math.abs(sample));
  if (performance.now() < end) return setTimeout(look, 20);
  context.close().then(() => done(peak));
};
look();
"""


@pytest.fixture(scope="module", autouse=True)
def installed() -> Iterator[None]:
    with installed_chart("va-web-e2e", hostname=HOST, release="web-e2e"):
        yield


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[webdriver.Chrome]:
    with chromium(tmp_path / "profile", *MICROPHONE) as driver:
        driver.set_script_timeout(30)
        yield driver


def text(browser: webdriver.Chrome, part: str) -> str:
    return browser.find_element(By.ID, part).text


until = partial(waiting.until, seconds=90)


def picture(browser: webdriver.Chrome, name: str) -> None:
    folder = places.checkout() / "reports" / "web-client"
    folder.mkdir(parents=True, exist_ok=True)
    browser.save_screenshot(str(folder / f"{name}.png"))


def complaints(browser: webdriver.Chrome) -> list[str]:
    """What the browser's console has against the page: errors, and breaches of its policy."""
    return [
        line["message"]
        for line in browser.get_log("browser")
        if line["level"] == "SEVERE" or "Content Security Policy" in line["message"]
    ]


def test_a_call_from_the_browser_is_answered(browser: webdriver.Chrome) -> None:
    browser.get(PAGE)
    until(lambda: text(browser, "status") == "Ready to call", "the page is not ready")
    assert text(browser, "about") == "Release web-e2e"
    picture(browser, "ready")

    browser.find_element(By.ID, "call").click()
    until(
        lambda: text(browser, "status") == "Connected: the assistant is listening",
        f"no call: {text(browser, 'status')} {text(browser, 'error')} {complaints(browser)}",
    )
    until(lambda: browser.execute_script(PLAYS), "the page plays no audio")
    until(lambda: browser.execute_async_script(PEAK) > 0.01, "the agent's voice is silent")
    # The beeps have no pause that ends what they say.
    browser.find_element(By.ID, "mute").click()
    until(lambda: text(browser, "mute") == "Unmute", "it is not muted")
    until(lambda: "I heard you for " in text(browser, "lines"), "the transcript says nothing of the beeps")
    first = browser.find_elements(By.CSS_SELECTOR, "#lines li")[0]
    assert first.get_attribute("data-speaker") == "assistant"
    assert "No AI provider is configured, so you hear yourself." in first.text
    picture(browser, "call")
    # What was on its way may still be played; the beeps come more often than every four seconds.
    until(lambda: browser.execute_async_script(PEAK) < 0.01, "a muted microphone is still heard")
    browser.find_element(By.ID, "mute").click()
    until(lambda: text(browser, "mute") == "Mute", "it is still muted")
    until(lambda: browser.execute_async_script(PEAK) > 0.01, "the microphone is not heard again")

    browser.find_element(By.ID, "call").click()
    until(lambda: text(browser, "status") == "Call ended", "the call does not end")
    assert not browser.find_elements(By.CSS_SELECTOR, "#audio audio"), "it still plays"
    assert complaints(browser) == []


def test_whoever_cannot_reach_the_api_is_told_and_can_try_again(browser: webdriver.Chrome) -> None:
    browser.get(PAGE)
    until(lambda: text(browser, "status") == "Ready to call", "the page is not ready")
    browser.execute_cdp_cmd("Network.enable", {})
    browser.execute_cdp_cmd("Network.setBlockedURLs", {"urls": ["*/v1/sessions"]})
    browser.find_element(By.ID, "call").click()
    until(lambda: text(browser, "status") == "Call failed", "it does not say that it failed")
    assert text(browser, "error").startswith("The assistant cannot be reached.")
    picture(browser, "failed")
    browser.execute_cdp_cmd("Network.setBlockedURLs", {"urls": []})
    browser.find_element(By.ID, "call").click()
    until(lambda: text(browser, "status").startswith("Connected"), "the second try does not connect")
    assert text(browser, "error") == ""


def test_a_script_that_is_not_the_pages_own_does_not_run(browser: webdriver.Chrome) -> None:
    browser.get(PAGE)
    until(lambda: text(browser, "status") == "Ready to call", "the page is not ready")
    ran = browser.execute_script(
        "const script = document.createElement('script');"
        "script.append(document.createTextNode('window.foreign = true'));"
        "try { document.body.append(script); } catch {} return Boolean(window.foreign);"
    )
    assert ran is False
    assert len(complaints(browser)) > 0
    refused = browser.execute_script("try { document.body.innerHTML = '<b>x</b>'; } catch { return true; }")
    assert refused is True, "what is not the page's own can be written into it as HTML"


def test_the_gateway_splits_page_and_api_by_path_and_keeps_the_headers() -> None:
    with httpx.Client(base_url=PLACE.gateway, headers={"host": HOST}, timeout=30) as http:
        page, made, health = http.get("/"), http.post("/v1/sessions"), http.get("/healthz")
        known = http.get("/", headers={"if-none-match": page.headers["etag"]})
    assert (page.status_code, made.status_code, health.status_code, known.status_code) == (200, 201, 200, 304)
    policy = page.headers["content-security-policy"]
    livekit = httpx.URL(PLACE.livekit)
    where = f"{livekit.host}:{livekit.port}"
    assert f"connect-src 'self' ws://{where} http://{where};" in policy
    assert "default-src 'none'" in policy and "unsafe" not in policy
    assert page.headers["x-content-type-options"] == "nosniff"
    assert page.headers["referrer-policy"] == "no-referrer"
    assert "microphone=(self)" in page.headers["permissions-policy"]
    assert page.headers["cache-control"] == "no-cache"
    assert page.headers["content-encoding"] == "gzip"
    assert page.headers["x-va-track"] == made.headers["x-va-track"] == "stable"
    assert page.headers["x-va-release"] == "web-e2e"
