"""The report in a real browser: on a telephone and a desk, by day and by night, and on paper."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest
from chromium import chromium
from ledger_entries import Book
from selenium import webdriver

from ci import places
from ci.delivery.findings import Finding, Tally, Verdict
from ci.delivery.ledger import Action, Kind, Verified
from ci.delivery.report import as_html, report

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

ATTACK = (
    '"\'></title></svg><script>document.title = "owned"</script>'
    "<img src=x onerror=\"document.title='owned'\">"
)
CUT = """
return [...document.querySelectorAll("body *")].filter(one => !one.closest("svg") && (
  one.getBoundingClientRect().right > innerWidth + 1 ||
  one.clientWidth && one.scrollWidth > one.clientWidth + 1)
).map(one => one.outerHTML.slice(0, 200));
"""
"""What is wider than its place, or than the screen."""
OVERLAP = """
const boxes = [...document.querySelectorAll("svg text")].filter(one => one.textContent.trim()).map(
  one => [one, one.getBoundingClientRect()]);
return boxes.flatMap(([one, a], at) => boxes.slice(at + 1).filter(([other, b]) =>
  one.closest("svg") === other.closest("svg") && a.left < b.right - 1
  && b.left < a.right - 1 && a.top < b.bottom - 2 && b.top < a.bottom - 2
).map(([other]) => one.textContent + " over " + other.textContent));
"""
"""Words of a picture that stand over others."""


def page(file: Path) -> Path:
    """A promotion that failed, with long words and an attack in it."""
    book = Book()
    book.begin()
    target = "prod/a-region-with-a-long-name"
    book.write(
        Kind.INTENT, Action.START, target=target, detail={"before": "20261118-080000-1234567-89abcdef"}
    )
    for number in range(8):
        book.write(Kind.ORDER, Action.PAUSE, target=target, reason=f"{ATTACK} {number} {'word' * 40}")
    for weight in (5, 25, 50):
        book.write(Kind.OUTCOME, Action.MOVE, target=target, weight=weight, result="done", minutes=30)
        tally = Tally(canary_bad=1234, canary=123456, stable_bad=3, stable=1234567)
        gate = Finding(
            metric="errors" if weight < 50 else "a-gate-with-a-very-long-name-that-somebody-chose",
            verdict=Verdict.FAIL, reason="r" * 300, tally=tally, log_harm=900.0, log_fail_at=5.2,
            log_safe=-900.0, log_pass_at=2.3,
        )  # fmt: skip
        book.write(Kind.OUTCOME, Action.STEP, target=target, weight=weight, result="failed", findings=(gate,))
    book.write(Kind.OUTCOME, Action.FINISH, target=target, result="failed", reason="that is why")
    checked = Verified(
        environment="prod", where="https://account.blob.example/" + "x" * 80, entries=len(book.entries),
        last=book.entries[-1].hash, problems=(),
    )  # fmt: skip
    file.write_text(as_html(report({"prod": book.entries}, [checked])))
    return file


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[webdriver.Chrome]:
    with chromium(tmp_path / "profile") as driver:
        yield driver


def test_a_report_can_be_read_everywhere(browser: webdriver.Chrome, tmp_path: Path) -> None:
    file = page(tmp_path / "report.html")
    pictures = places.checkout() / "reports" / "promotion-report"
    pictures.mkdir(parents=True, exist_ok=True)
    papers = set()
    for width in (320, 390, 768, 1440):
        for scheme in ("light", "dark"):
            size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
            browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
            wanted = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
            browser.execute_cdp_cmd("Emulation.setEmulatedMedia", wanted)
            browser.get(file.as_uri())
            assert browser.execute_script(CUT) == [], f"{width} {scheme}"
            assert browser.execute_script(OVERLAP) == [], f"{width} {scheme}"
            papers.add(
                (scheme, browser.execute_script("return getComputedStyle(document.body).backgroundColor"))
            )
            assert "owned" not in browser.title.partition(":")[0]
            assert browser.execute_script("return document.scripts.length + document.images.length") == 0
            assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0
            shot = browser.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True})
            (pictures / f"{width}-{scheme}.png").write_bytes(base64.b64decode(shot["data"]))
    assert len({colour for _, colour in papers}) == 2, "dark is another paper than light"
    assert browser.get_log("browser") == []
    paper = browser.execute_cdp_cmd("Page.printToPDF", {"printBackground": True, "preferCSSPageSize": True})
    assert base64.b64decode(paper["data"]).startswith(b"%PDF-")
