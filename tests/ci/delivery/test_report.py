"""The report of a promotion: what it says, that it loads nothing, and that what people type stays text."""

from __future__ import annotations

import math
import re
from datetime import timedelta
from html.parser import HTMLParser
from itertools import pairwise
from math import log

import pytest
from ledger_entries import NOON, RELEASE, Book

from ci.delivery.findings import Exposure, Finding, Tally, Verdict
from ci.delivery.ledger import Action, Entry, Event, Kind, Problem, Verified
from ci.delivery.report import Report, as_html, as_markdown, report
from ci.delivery.report.scales import Evidence, Times, apart
from ci.errors import BadInput

ATTACK = (
    "</title></style></svg><script>alert(1)</script><img src=x onerror=alert(2)> \"' onload=alert(3) '"
    "{{ 7 * 7 }}{% x %}&#60;b&#62; javascript:alert(4) \u202egnp.exe \x1b[31m\x00 ]]> --> ``` | "
    "[x](https://e.example/) "
    "![i](https://e.example/i.png) <https://e.example> www.e.example\n# head\n- list"
)


GOOD = Tally(canary=107, stable=329)


def finding(
    metric: str = "errors",
    verdict: Verdict = Verdict.PASS,
    tally: Tally | None = GOOD,
    harm: float | None = 0.0,
    safe: float | None = log(12),
    reason: str = "as it should be",
    floor: float | None = None,
) -> Finding:
    return Finding(
        metric=metric,
        verdict=verdict,
        reason=reason,
        tally=tally,
        log_harm=harm,
        log_fail_at=None if harm is None else log(180),
        log_floor=floor,
        log_floor_at=None if floor is None else log(5),
        log_safe=safe,
        log_pass_at=None if safe is None else log(10),
    )


BAD = finding(
    verdict=Verdict.FAIL,
    tally=Tally(canary_bad=5, canary=93, stable_bad=1, stable=296),
    harm=log(213),
    safe=log(0.08),
    reason="5 of 93 (5.38%)",
    floor=log(31),
)
UNSEEN = finding("saturation", Verdict.INCONCLUSIVE, None, None, None, "memory was not seen")


def done(book: Book, action: Action, minutes: int = 1, **more: object) -> None:
    book.write(Kind.INTENT, action, minutes=minutes, **more)
    book.write(Kind.OUTCOME, action, **({"result": "done"} | more))


def baked(book: Book, target: str, weight: int, result: str, *findings: Finding, **more: object) -> None:
    """The canary has that weight, and its gates say something, 30 minutes later."""
    done(book, Action.MOVE, target=target, weight=weight)
    book.write(Kind.INTENT, Action.STEP, target=target, weight=weight, minutes=30)
    told = {"result": result, "findings": findings, "reason": "that is why"} | more
    book.write(Kind.OUTCOME, Action.STEP, target=target, weight=weight, **told)


def good(book: Book, target: str) -> None:
    book.write(Kind.INTENT, Action.START, target=target, detail={"before": "the-one-before"})
    done(book, Action.CANARY, target=target)
    for weight in (25, 50):
        baked(book, target, weight, "passed", finding(), finding("latency", safe=log(1e9)))
    done(book, Action.UPGRADE, target=target)
    done(book, Action.MOVE, target=target, weight=0)
    done(book, Action.REMOVE, target=target)
    book.write(Kind.OUTCOME, Action.FINISH, target=target, result="promoted", reason="every step passed")


def bad(book: Book, target: str) -> None:
    book.write(Kind.INTENT, Action.START, target=target, detail={"before": "the-one-before"})
    done(book, Action.CANARY, target=target)
    baked(book, target, 25, "failed", BAD, finding("latency"), UNSEEN)
    done(book, Action.MOVE, target=target, weight=0)
    book.write(Kind.OUTCOME, Action.FINISH, target=target, result="failed", reason="that is why")


def promotion() -> dict[str, list[Entry]]:
    """Staging has it, prod/a had it for 25 %; people, the guard and a region that was left out."""
    staging, prod = Book(), Book(NOON + timedelta(hours=3))
    staging.write(Kind.ORDER, Action.APPROVE, "other", reason="seen and tried")
    staging.begin()
    good(staging, "staging/a")
    staging.end("done")
    prod.begin()
    prod.write(Kind.ORDER, Action.PAUSE, target="prod/a", reason=ATTACK)
    prod.write(Kind.ORDER, Action.RESUME, target="prod/a", reason="it was the weather")
    prod.write(Kind.NOTE, Action.GUARD, target="prod/a", weight=25, reason="nobody renews the lease")
    prod.write(Kind.NOTE, Action.NOT_THERE, target="prod/b", reason="it lacks a blob")
    bad(prod, "prod/a")
    prod.end("not done")
    return {"staging": staging.entries, "prod": prod.entries}


def verified(ledgers: dict[str, list[Entry]], *damaged: str) -> list[Verified]:
    problem = Problem(sequence=3, where="prod.sqlite", problem="is not what was written")
    return [
        Verified(
            environment=name,
            where=f"/ledger/{name}.sqlite",
            entries=len(entries),
            last="" if name in damaged else entries[-1].hash,
            problems=(problem,) if name in damaged else (),
        )
        for name, entries in ledgers.items()
    ]


def of(ledgers: dict[str, list[Entry]], name: str | None = None, *damaged: str) -> Report:
    return report(ledgers, verified(ledgers, *damaged), name)


class Page(HTMLParser):
    """Its elements, their attributes, and its text; what is opened is closed in its turn."""

    _EMPTY = ("meta", "br")
    _MAY_BE_EMPTY = ("rect", "line", "circle")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.words: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in self._EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in self._MAY_BE_EMPTY
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def test_all_that_was_decided_is_on_the_page() -> None:
    found = of(promotion())
    page = Page(as_html(found))

    assert (found.result, found.ended) == ("failed", True)
    assert found.headline == (
        f"{RELEASE} was stopped in prod/a at 25 % of the traffic: 5 of 93 of the canary's sessions failed "
        "(5.38%), 1 of 296 of stable's (0.34%). Its users were back on stable 2.0 min after the verdict. "
        "It is stable on staging/a."
    )
    verdicts = [one.verdict for trial in found.trials for one in trial.findings]
    assert len(verdicts) == 7
    pills = re.findall(r'<span class="pill (?:good|bad|odd)">(pass|fail|undecided)</span>', as_html(found))
    words = {Verdict.PASS: "pass", Verdict.FAIL: "fail", Verdict.INCONCLUSIVE: "undecided"}
    assert pills == [words[verdict] for verdict in verdicts]
    for said in (
        found.headline, "5 of 93 (5.38 %)", "1 of 296 (0.34 %)", "E of harm 213 fails at 180",
        "E over tolerated 31 fails at 5",
        "memory was not seen", "E of safety 0.08 passes at 10", "alice : order to resume",
        "it was the weather", "the guard : all traffic", "nobody renews the lease", "it lacks a blob",
        "seen and tried", "Change failure rate 100 % (1 of 1)", "✓ prod: as it was written",
        "before: the-one-before",
    ):  # fmt: skip
        assert said in page.text, said
    for entries in promotion().values():
        for entry in entries:
            assert entry.promotion == "other" or entry.hash[:12] in page.text
        assert entries[-1].hash in page.text


def test_who_had_it_when() -> None:
    found = of(promotion())
    staging, prod, left_out = found.targets
    assert [(one.percent, one.stable) for one in staging.shares] == [
        (0, False), (25, False), (50, False), (100, True)
    ]  # fmt: skip
    assert [one.percent for one in prod.shares] == [0, 25, 0]
    assert prod.shares[1].until - prod.shares[1].since == timedelta(minutes=33)
    assert prod.shares[-1].until == found.until
    assert (left_out.target, left_out.result, left_out.shares[0].percent) == ("prod/b", "not there", 0)
    for before, after in pairwise(staging.shares):
        assert before.until == after.since


def test_what_the_guard_did_ends_a_canary_s_share() -> None:
    book = Book()
    book.begin()
    book.write(Kind.INTENT, Action.START, target="prod/a")
    done(book, Action.MOVE, target="prod/a", weight=25, minutes=5)
    acted = book.now
    book.now += timedelta(minutes=9)
    told = {"time": acted.isoformat(), "who": "the guard"}
    book.write(Kind.NOTE, Action.GUARD, target="prod/a", weight=25, detail=told)
    book.write(Kind.NOTE, Action.START, target="prod/a", reason="the same promotion goes on")
    found = of({"prod": book.entries})
    assert [one.percent for one in found.targets[0].shares] == [0, 25, 0]
    assert found.targets[0].shares[1].until == acted, "when it acted, not when somebody saw that"
    assert (found.ended, found.result) == (False, "begun")
    assert "is on its way: prod/a" in found.headline
    assert "it has not ended" in as_html(found)


def test_a_move_that_was_not_seen_to_its_end_may_have_moved_something() -> None:
    book = Book()
    book.begin()
    book.write(Kind.INTENT, Action.MOVE, target="prod/a", weight=25)
    book.write(Kind.OUTCOME, Action.MOVE, target="prod/a", weight=25, result="error", minutes=9)
    book.write(Kind.OUTCOME, Action.MOVE, target="prod/a", weight=0, result="interrupted", minutes=9)
    book.write(Kind.OUTCOME, Action.MOVE, target="prod/a", weight=0, result="done", minutes=9)
    book.write(Kind.OUTCOME, Action.FINISH, target="prod/a", result="aborted")
    assert [one.percent for one in of({"prod": book.entries}).targets[0].shares] == [0, 25, 0]


def test_what_was_promoted_and_taken_back_is_said_so() -> None:
    book = Book()
    book.begin()
    good(book, "prod/a")
    book.end("done", minutes=60)
    book.write(Kind.ORDER, Action.ROLL_BACK, target="prod/a", reason="users complain")
    done(book, Action.ROLL_BACK, target="prod/a", minutes=5)
    book.write(Kind.OUTCOME, Action.FINISH, target="prod/a", result="rolled back", minutes=5)
    found = of({"prod": book.entries})
    assert found.headline == (f"{RELEASE} was taken back by alice: users complain. No target has it now.")
    assert [one.percent for one in found.targets[0].shares][-2:] == [100, 0]


def test_the_watch_that_takes_something_back_is_no_person() -> None:
    book = Book()
    book.begin()
    good(book, "prod/a")
    book.write(Kind.INTENT, Action.WATCH, minutes=10)
    book.write(Kind.OUTCOME, Action.WATCH, result="failed", reason="prod/a: errors fail", findings=(BAD,))
    book.write(Kind.ORDER, Action.ROLL_BACK, reason="prod/a: errors fail")
    found = of({"prod": book.entries})
    assert [(one.by, one.what) for one in found.events if one.look in ("person", "guard")] == [
        ("the watch", "order to roll-back")
    ]
    assert "After it was promoted" in as_html(found)


def test_what_an_earlier_version_wrote_is_told_too() -> None:
    book = Book()
    for minute, (event, weight) in enumerate(
        [(Event.STARTED, None), (Event.CANARY, None), (Event.STEP_FAILED, 25), (Event.ROLLED_BACK, 25)]
    ):
        what = {"time": (NOON + timedelta(minutes=minute)).isoformat(), "who": "bob"}
        book.write(
            Kind.NOTE, Action.TAKEN_OVER, target="prod/a", result=event, weight=weight, detail=what,
            findings=(BAD,) if weight else (),
        )  # fmt: skip
    found = of({"prod": book.entries})
    assert (found.result, found.by, len(found.trials)) == ("failed", "bob", 1)
    assert [one.percent for one in found.targets[0].shares] == [0, 25]
    assert "5 of 93 of the canary's sessions failed" in found.headline


def test_the_page_loads_and_runs_nothing() -> None:
    html = as_html(of(promotion()))
    page = Page(html)
    assert html.startswith("<!doctype html>")
    assert not {
        "script",
        "link",
        "img",
        "iframe",
        "object",
        "embed",
        "base",
        "form",
        "audio",
        "video",
        "use",
        "image",
    } & {*page.tags}
    assert {name for _, name, _ in page.attributes} & {"src", "srcset", "action", "style", "data"} == set()
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert {value for _, name, value in page.attributes if "href" in name} <= {"#ledger"}
    (style,) = re.findall(r"<style>(.*?)</style>", html, re.DOTALL)
    assert "url(" not in style and "@import" not in style
    assert "prefers-color-scheme: dark" in style and "@media print" in style
    policy = [value for _, name, value in page.attributes if name == "content" and "default-src" in value]
    assert policy[0].startswith("default-src 'none'; style-src 'unsafe-inline'")
    assert not [value for _, _, value in page.attributes if "://" in value]


@pytest.mark.parametrize(
    "where", ["reason", "who", "target", "release", "metric", "finding", "result", "detail", "place"]
)
def test_what_people_type_is_text(where: str) -> None:
    """An attack anywhere that a person, a pod or a file may write to changes no element of the page."""

    def made(text: str) -> Report:
        book = Book()
        put = {one: text if one == where else one for one in ("reason", "target", "release", "result")}
        release = {"release": put["release"]}
        book.begin(**release)
        book.write(Kind.ORDER, Action.ABORT, reason=put["reason"], **release)
        tests = (
            finding(
                text if where == "metric" else "m",
                Verdict.FAIL,
                None,
                reason=text if where == "finding" else "r",
            ),
        )
        before = {"before": text if where == "detail" else "b"}
        book.write(Kind.INTENT, Action.START, target=put["target"], detail=before, **release)
        baked(book, put["target"], 25, "failed", *tests, **release)
        book.write(
            Kind.OUTCOME,
            Action.FINISH,
            target=put["target"],
            result=put["result"],
            reason=put["reason"],
            **release,
        )
        entries = book.entries
        if where == "who":
            entries = [one.model_copy(update={"who": text}) for one in entries]
        found = verified({"prod": entries})
        found = [one.model_copy(update={"where": text if where == "place" else "w"}) for one in found]
        return report({"prod": entries}, found)

    calm, attacked = made("calm"), made(ATTACK)
    html = as_html(attacked)
    one, other = Page(as_html(calm)), Page(html)
    assert one.tags == other.tags
    assert [(tag, name) for tag, name, _ in one.attributes] == [
        (tag, name) for tag, name, _ in other.attributes
    ]
    assert "alert(1)" in other.text and "\\u202e" in other.text and "{{ 7 * 7 }}" in other.text
    assert "\u202e" not in html and "\x00" not in html and "\x1b" not in html

    summary = as_markdown(attacked)
    assert "<" not in summary and "\u202e" not in summary
    assert not re.search(r"(?<!\\)\[x(?<!\\)\]", summary) and not re.search(r"(?<!\\):(?=//)", summary)
    assert summary.count("```") == 2, "the picture is one block, and nothing ends it"
    assert not re.search(r"^(# head|- list)", summary, re.MULTILINE)
    picture = summary.split("```")[1]
    assert "alert(1)" not in picture and "%%{" not in picture


def test_the_same_entries_make_the_same_page() -> None:
    assert as_html(of(promotion())) == as_html(of(promotion()))


def test_a_damaged_ledger_is_said_first() -> None:
    found = of(promotion(), None, "prod")
    page = Page(as_html(found))
    assert not found.whole
    assert "The ledger does not verify." in page.text
    assert "✗ prod: it does not verify" in page.text and "entry 3 is not what was written" in page.text
    assert "does not verify" in as_markdown(found)


def test_the_last_one_is_told_of_where_no_name_is_said() -> None:
    ledgers = promotion()
    book = Book(NOON + timedelta(days=2))
    book.begin("p9")
    assert of(ledgers | {"dev": book.entries}).promotion == "p9"
    assert of(ledgers | {"dev": book.entries}, "p1").promotion == "p1"
    book.begin("p8", release="another")
    assert of(ledgers | {"dev": book.entries}, "another").promotion == "p8"
    assert of(ledgers | {"dev": book.entries}, RELEASE).promotion == "p9", "the last one of it"


@pytest.mark.parametrize(("name", "said"), [("p2", "p1"), ("zzz", "p1"), ("p", "")])
def test_one_that_is_not_there_is_said_with_those_that_are(name: str, said: str) -> None:
    ledgers = promotion()
    if not said:
        assert of(ledgers, name).promotion == "p1"
        return
    with pytest.raises(BadInput) as error:
        of(ledgers, name)
    assert said in error.value.hint and error.value.exit_code == 2


def test_an_approval_alone_is_no_promotion() -> None:
    book = Book()
    book.write(Kind.ORDER, Action.APPROVE, reason="yes")
    with pytest.raises(BadInput, match="nothing was promoted yet"):
        of({"prod": book.entries})


@pytest.mark.parametrize(
    ("harm", "safe"),
    [(math.inf, -math.inf), (math.nan, math.nan), (-1e9, 1e9), (0.0, None), (None, None), (700.0, 1e300)],
)
def test_numbers_that_are_none_are_drawn_all_the_same(harm: float | None, safe: float | None) -> None:
    book = Book()
    book.begin()
    exposure = Exposure(intended=0.25, observed=None, log_e=0.0, mismatch=False)
    baked(book, "prod/a", 25, "inconclusive", finding(harm=harm, safe=safe), exposure=exposure)
    html = as_html(of({"prod": book.entries}))
    places = [float(one) for one in re.findall(r'\b(?:x|x1|x2|cx|width)="(-?[\d.]+|-?inf|nan)%"', html)]
    assert places and all(0 <= one <= 100 for one in places)
    as_markdown(of({"prod": book.entries}))


def test_a_scale_shows_thresholds_apart_and_a_value_where_it_decides() -> None:
    axis = Evidence.of([BAD, finding("latency", safe=log(1e30))])
    assert 0 < axis.at(0.0) < axis.at(log(10)) < axis.at(log(180)) < axis.at(log(213)) < 100
    assert axis.at(log(1e30)) == 100 and axis.beyond(log(1e30)) == "right" and axis.beyond(log(213)) == ""
    assert axis.beyond(-math.inf) == "left" and axis.beyond(math.nan) == ""
    assert "1" in [mark.text for mark in axis.marks()]
    assert len(axis.marks()) <= 6


@pytest.mark.parametrize("seconds", [0, 1, 7, 61, 600, 5400, 90_000, 86_400 * 9, 86_400 * 400])
def test_marks_of_time_are_few_and_round(seconds: int) -> None:
    times = Times(since=NOON + timedelta(seconds=1), until=NOON + timedelta(seconds=1 + seconds))
    marks = times.marks()
    assert len(marks) <= 8
    assert all(0 <= one.at <= 100 for one in marks)
    assert len({one.text for one in marks}) == len(marks)


@pytest.mark.parametrize(
    "places", [[], [50.0], [0.0, 0.0, 0.1], [99.0, 99.0, 100.0], [5.0 * n for n in range(40)]]
)
def test_flags_stand_apart_in_their_order(places: list[float]) -> None:
    found = apart([min(place, 100.0) for place in places], 6.5)
    gap = min(6.5, 100 / max(1, len(places)))
    assert len(found) == len(places) and all(0 <= one <= 100 for one in found)
    assert all(b - a >= gap - 1e-6 for a, b in pairwise(found))
