"""One promotion told to people who were not there: a page, and a summary for GitHub, from the ledger alone.

found = report(ledgers, verified, "2026-11-29T2015")
Path("report.html").write_text(as_html(found))

data.py      what is told, as frozen models: the same for the same entries, whenever it is asked
sentence.py  the first sentence of it
scales.py    where a time and an E stand on their axes
html.py      the page, by page.html.jinja: one file that loads nothing;   markdown.py for GitHub
"""

from ci.delivery.report.data import Event, Kept, Report, Share, TargetStory, Trial, report
from ci.delivery.report.html import as_html
from ci.delivery.report.markdown import as_markdown
from ci.delivery.report.sentence import measured

__all__ = [
    "Event",
    "Kept",
    "Report",
    "Share",
    "TargetStory",
    "Trial",
    "as_html",
    "as_markdown",
    "measured",
    "report",
]
