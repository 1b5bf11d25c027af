"""What is the next thing to do on a target? Pure: from what is (facts), what was (ledger), what shall be.

`next_act` reads STATES from the top; the first that holds decides. Nothing else does: after a kill, a FAIL, a
pause, an abort or harm elsewhere the same table is read again, so the same command goes on from anywhere. The
order is the policy: traffic leaves a canary that nobody watches before anything else is done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC

from ci.delivery.findings import Carried
from ci.delivery.ledger import Action, Entry, Kind, left_by
from ci.delivery.promotion.facts import Facts
from ci.delivery.revisions import Values
from ci.delivery.tracks import Track

__all__ = [
    "STATES",
    "Act",
    "Before",
    "Goal",
    "Past",
    "State",
    "View",
    "closing",
    "left_open",
    "next_act",
    "past_of",
    "paused_by",
    "unfinished",
]


@dataclass(frozen=True, kw_only=True)
class Goal:
    """What one target is to become."""

    promotion: str
    target: str
    release: str
    stable: Values = field(default_factory=dict)
    """The chart's values of each track, once the release is there."""
    canary: Values = field(default_factory=dict)
    weights: tuple[int, ...] = ()
    """Of the canary's steps, percent; none: stable is upgraded at once."""


@dataclass(frozen=True, kw_only=True)
class Before:
    """What was stable when the promotion came: where a roll-back goes."""

    release: str
    number: int
    """Helm's revision."""


@dataclass(frozen=True, kw_only=True)
class Left:
    """A release that is stable and has no good end: nothing to go back to. What was before it is."""

    release: str
    before: Before | None


@dataclass(frozen=True, kw_only=True)
class Past:
    """What the ledger says of one promotion on one target."""

    started: bool = False
    before: Before | None = None
    """None: nothing was installed."""
    passed: int = 0
    """The weight of the last step that this canary has passed; 0: none."""
    carried: Mapping[str, Carried] = field(default_factory=dict)
    """Each metric's evidence up to there."""
    baked: bool = False
    """Whether this canary has passed a step."""
    baking: tuple[int, ...] = ()
    """The ledger's sequences of the bakes of this step that came to no end: each is a run that was killed."""
    followed: int | None = None
    """The weight that the gateway was seen to follow last; None while a move is in doubt."""
    touched: bool = False
    """Whether stable was begun to be changed."""
    gone_back: bool = False
    """Whether stable was brought back to what was before, and not changed since."""
    tried: bool = False
    """Whether sessions were tried on what is stable now."""
    verified: bool = False
    failed: str = ""
    """Why it is not to be here; it stays so for good."""
    held: str = ""
    """Why no gate could decide, in this run."""
    paused: str = ""
    """Who wants it to wait, since when and why (`paused_by`)."""
    aborted: str = ""
    closed: str = ""
    """Why this promotion is over in the whole environment, by somebody else: that is as an abort."""
    ordered_back: str = ""
    ended: str = ""
    """How it ended here: promoted, failed, stopped, aborted, rolled back; empty: it has not."""
    why: str = ""
    """The reason of that."""
    was: str = ""
    """The release that the last promotion before this one left as stable here."""
    left: Left | None = None
    """What the last promotion that changed stable before this one left, where it came to no good end."""

    def nothing_before(self, release: str) -> bool:
        """Whether what failed stays, for there is nothing to go back to."""
        return self.before is None or (self.before.release == release and not self.gone_back)


@dataclass(frozen=True, kw_only=True)
class Act:
    """The one thing to do now."""

    action: Action
    weight: int | None = None
    track: Track = "stable"
    result: str = ""
    """Of FINISH: how it ends."""
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class View:
    """All that decides."""

    goal: Goal
    facts: Facts
    past: Past
    harm: str = ""
    """What failed on another target of this promotion; empty when nothing did."""

    @property
    def back(self) -> tuple[str, str] | None:
        """How it ends and why, when this release is not to be here."""
        past = self.past
        told = (
            ("rolled back", past.ordered_back),
            ("failed", past.failed),
            ("aborted", past.aborted or past.closed),
            ("stopped", self.harm),
        )
        return next(((result, why) for result, why in told if why), None)

    @property
    def over(self) -> bool:
        """It ended here, and what it ended with is still so."""
        return bool(self.past.ended) and (
            self.past.ended != "promoted" or self.arrived or not self.goal.stable
        )

    @property
    def arrived(self) -> bool:
        """Stable is the release, as it is wanted here."""
        stable = self.facts.stable
        return stable is not None and stable.deployed and dict(stable.values) == dict(self.goal.stable)

    @property
    def canary_is_ours(self) -> bool:
        """The canary is the release, as it is wanted here."""
        canary = self.facts.canary
        return canary is not None and canary.deployed and dict(canary.values) == dict(self.goal.canary)

    @property
    def between(self) -> Track | None:
        """The track that Helm left in between, or failed with; a canary that failed is removed."""
        stable, canary = self.facts.stable, self.facts.canary
        if stable is not None and (stable.in_between or stable.status == "failed"):
            return "stable"
        return "canary" if canary is not None and canary.in_between else None

    @property
    def loose(self) -> bool:
        """The canary has traffic, or it is not known that it has none: the gateway was not seen to follow."""
        return self.split or self.past.followed != 0

    @property
    def split(self) -> bool:
        """The route gives the canary traffic."""
        return not self.facts.on_stable or self.facts.weight > 0

    @property
    def unanswered(self) -> bool:
        """The route is on stable already, which is to go back: it may be why the gateway does not answer."""
        return not self.split and self.back is not None and self.stable_goes_back

    @property
    def may_be_split(self) -> bool:
        """Whether a canary may have traffic now: it is ours, it baked well so far, and nobody objects."""
        return (
            self.past.started
            and bool(self.goal.weights)
            and self.canary_is_ours
            and self.facts.canary_ready
            and not (self.arrived or self.over or self.back or self.between)
            and not (self.past.paused or self.past.held)
        )

    @property
    def stable_goes_back(self) -> bool:
        """This promotion changed stable, and the release before is not there again."""
        before, stable = self.past.before, self.facts.stable
        if before is None or stable is None or not (self.past.touched or self.past.ordered_back):
            return False
        if stable.release not in (self.goal.release, before.release):
            return False  # somebody has promoted another one since
        there = stable.deployed and stable.release == before.release
        if self.goal.release == before.release:  # a change of values keeps the name
            there = there and (stable.number == before.number or self.past.gone_back)
        return not there

    @property
    def to_go_back_to(self) -> Before | None:
        """Where a promotion that begins now would go back: what runs, or if that failed, what ran before."""
        stable, left = self.facts.stable, self.past.left
        if stable is None:
            return None
        if left is not None and left.before is not None and left.release == stable.release:
            return left.before
        return Before(release=stable.release, number=stable.number)

    @property
    def weight(self) -> int | None:
        """Of the step that comes now; None when all have passed."""
        return next((one for one in self.goal.weights if one > self.past.passed), None)

    @property
    def there_already(self) -> bool:
        """The release was here before this promotion came, and all of it is well known."""
        return not self.past.started and self.arrived and self.past.was == self.goal.release


@dataclass(frozen=True, kw_only=True)
class State:
    """A row of the table."""

    name: str
    when: str
    then: str
    holds: Callable[[View], bool]
    act: Callable[[View], Act]


def _do(
    action: Action, *, weight: int | None = None, track: Track = "stable", result: str = "", reason: str = ""
) -> Callable[[View], Act]:
    act = Act(action=action, weight=weight, track=track, result=result, reason=reason)
    return lambda _: act


def _finish(view: View) -> Act:
    result, why = view.back or ("promoted", "")
    return Act(action=Action.FINISH, result=result, reason=why)


def _promoted(view: View) -> Act:
    before = view.past.before
    if before is None:
        reason = "the first release here: nothing to compare with, sessions were tried"
    elif not view.past.touched:
        reason = "it runs there already"
    elif not view.goal.weights:
        reason = f"upgraded at once: {view.goal.target.partition('/')[0]} has no canary"
    else:
        reason = "every step passed"
    return Act(action=Action.FINISH, result="promoted", reason=reason)


STATES: tuple[State, ...] = (
    State(
        name="loose",
        when="the canary has traffic, or nobody saw the gateway take it away, and it may have none "
        "(but for a route that is on stable already, where stable itself is to go back)",
        then="all traffic to stable",
        holds=lambda view: view.loose and not (view.may_be_split or view.unanswered),
        act=_do(Action.MOVE, weight=0),
    ),
    State(
        name="over",
        when="this promotion has ended here",
        then="nothing",
        holds=lambda view: view.over,
        act=lambda view: Act(action=Action.FINISH, result=view.past.ended, reason=view.past.why),
    ),
    State(
        name="stable goes back",
        when="it is not to be here (a gate failed, harm elsewhere, an order), and stable was changed",
        then="stable to the release before this promotion",
        holds=lambda view: view.back is not None and view.stable_goes_back,
        act=lambda view: Act(action=Action.ROLL_BACK, reason=(view.back or ("", ""))[1]),
    ),
    State(
        name="canary goes",
        when="it is not to be here, and a canary is",
        then="remove the canary",
        holds=lambda view: view.back is not None and view.past.started and view.facts.canary is not None,
        act=_do(Action.REMOVE),
    ),
    State(
        name="back",
        when="it is not to be here, and nothing of it is",
        then="end: failed, stopped, aborted or rolled back",
        holds=lambda view: view.back is not None,
        act=_finish,
    ),
    State(
        name="in between",
        when="Helm was killed in the middle of something, or failed and could not put back what ran",
        then="wait for a helm that is still at work, then bring it to the revision that ran",
        holds=lambda view: view.between is not None,
        act=lambda view: Act(action=Action.MEND, track=view.between or "stable"),
    ),
    State(
        name="there already",
        when="the release is stable, nothing of a canary is left, and an earlier promotion ended so",
        then="nothing",
        holds=lambda view: view.there_already and view.facts.canary is None,
        act=_do(Action.FINISH, result="promoted", reason="it runs there already"),
    ),
    State(
        name="new",
        when="this promotion has not begun here",
        then="write down what runs, to go back to",
        holds=lambda view: not view.past.started,
        act=_do(Action.START),
    ),
    State(
        name="paused",
        when="somebody ordered a pause",
        then="wait, traffic on stable, until somebody orders to go on",
        holds=lambda view: bool(view.past.paused),
        act=lambda view: Act(action=Action.PAUSE, reason=view.past.paused),
    ),
    State(
        name="held",
        when="no gate could decide, and the environment wants a person to",
        then="end for now: the canary stays, the same command goes on with the evidence",
        holds=lambda view: bool(view.past.held),
        act=lambda view: Act(action=Action.FINISH, result="held", reason=view.past.held),
    ),
    State(
        name="empty",
        when="nothing is installed",
        then="install the release",
        holds=lambda view: view.facts.stable is None,
        act=_do(Action.INSTALL),
    ),
    State(
        name="done with the canary",
        when="stable is the release, and a canary is left",
        then="remove the canary",
        holds=lambda view: view.arrived and view.facts.canary is not None,
        act=_do(Action.REMOVE),
    ),
    State(
        name="untried",
        when="stable is the release, no gate has measured it, and no session was tried",
        then="try some sessions; when they fail, go back",
        holds=lambda view: view.arrived and not view.past.tried and not view.past.baked,
        act=_do(Action.SMOKE),
    ),
    State(
        name="unverified",
        when="stable is the release",
        then="verify what runs: every pod, its digests against the release's own, a session, `helm test`",
        holds=lambda view: view.arrived and not view.past.verified,
        act=_do(Action.VERIFY),
    ),
    State(
        name="promoted",
        when="stable is the release, and was verified",
        then="end: promoted",
        holds=lambda view: view.arrived,
        act=_promoted,
    ),
    State(
        name="no canary wanted",
        when="the environment has no canary steps",
        then="upgrade stable",
        holds=lambda view: not view.goal.weights,
        act=_do(Action.UPGRADE),
    ),
    State(
        name="another canary",
        when="a canary is there that is not this release as it is wanted here",
        then="remove it",
        holds=lambda view: view.facts.canary is not None and not view.canary_is_ours,
        act=_do(Action.REMOVE, track="canary"),
    ),
    State(
        name="no canary",
        when="no canary is there",
        then="install it; its steps begin with the first",
        holds=lambda view: view.facts.canary is None,
        act=_do(Action.CANARY, track="canary"),
    ),
    State(
        name="no pod",
        when="a step is left, and a service of the canary has no ready pod",
        then="wait for one as long as an installation may take; then it has failed",
        holds=lambda view: view.weight is not None and not view.facts.canary_ready,
        act=_do(Action.VERIFY, track="canary"),
    ),
    State(
        name="next step",
        when="a step is left, and the gateway does not follow its weight",
        then="move its share of the traffic",
        holds=lambda view: (
            view.weight is not None
            and (view.facts.weight != view.weight or view.past.followed != view.weight)
        ),
        act=lambda view: Act(action=Action.MOVE, weight=view.weight, track="canary"),
    ),
    State(
        name="bake",
        when="a step is left, and the canary has its share of the traffic",
        then="look until its gates decide",
        holds=lambda view: view.weight is not None,
        act=lambda view: Act(action=Action.STEP, weight=view.weight, track="canary"),
    ),
    State(
        name="proven",
        when="every step has passed",
        then="upgrade stable",
        holds=lambda _: True,
        act=_do(Action.UPGRADE),
    ),
)
"""In the order in which they are asked."""


def next_act(view: View) -> tuple[State, Act]:
    """The first state that holds, and what it wants done."""
    state = next(state for state in STATES if state.holds(view))
    return state, state.act(view)


def unfinished(entries: Iterable[Entry]) -> dict[str, str]:
    """The promotions that began in an environment and came to no end: release by id, the oldest first.

    One that waits for a person, or for a region's registry, has not come to its end.
    """
    found: dict[str, str] = {}
    for entry in entries:
        if entry.target:
            continue
        if entry.action is Action.START and entry.kind is Kind.INTENT:
            found[entry.promotion] = entry.release
        elif entry.action is Action.FINISH and entry.result not in ("waits", "partly"):
            found.pop(entry.promotion, None)
    return found


def left_open(entries: Sequence[Entry], promotion: str) -> list[str]:
    """The targets where that promotion has begun and has come to no end, whichever were meant this time."""
    own = [entry for entry in entries if entry.promotion == promotion]
    pasts = {target: past_of(own, promotion, target) for target in {one.target for one in own} - {""}}
    return sorted(target for target, past in pasts.items() if past.started and not past.ended)


def closing(entry: Entry) -> str | None:
    """Why a promotion is over in the whole environment by this entry; None when it does not say so."""
    ends = not entry.target and entry.kind is Kind.OUTCOME and entry.action is Action.FINISH
    if not ends or entry.result not in ("superseded", "not done"):
        return None
    return f"{entry.result}, by {entry.who}" + (f": {entry.reason}" if entry.reason else "")


def paused_by(order: Entry) -> str:
    """`paused by anna@laptop since 2026-11-29 20:15:12 UTC: the call centre reports echoes`."""
    since = f"{order.when.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
    return f"paused by {order.by} since {since}" + (f": {order.reason}" if order.reason else "")


def past_of(entries: Iterable[Entry], promotion: str, target: str) -> Past:
    """What an environment's ledger says of one promotion on one target, and of the one before."""
    entries = tuple(entries)
    past = Past(followed=0, left=_unproven(entries, promotion, target))
    for entry in entries:
        if entry.target not in ("", target):
            continue
        if entry.promotion == promotion:
            past = _after(past, entry)
        elif entry.target and (left := left_by(entry)) is not None:
            past = replace(past, was=left)
    return past


def _unproven(entries: Sequence[Entry], promotion: str, target: str) -> Left | None:
    """What the last other promotion that changed stable left there, unless it ended well or went back."""
    last = next(
        (
            entry
            for entry in reversed(entries)
            if entry.target == target
            and entry.promotion != promotion
            and entry.kind is Kind.INTENT
            and entry.action in (Action.INSTALL, Action.UPGRADE)
        ),
        None,
    )
    if last is None:
        return None
    past = Past()
    for entry in entries:
        if entry.promotion == last.promotion and entry.target in ("", target):
            past = _after(past, entry)
    good = past.ended in ("promoted", "rolled back") or past.gone_back
    return None if good else Left(release=last.release, before=past.before)


def _after(past: Past, entry: Entry) -> Past:
    if entry.kind is Kind.ORDER:
        return _ordered(past, entry)
    if not entry.target:
        if entry.action is Action.START and entry.kind is Kind.INTENT:
            return replace(past, closed="")
        return replace(past, closed=closing(entry) or past.closed)
    if entry.kind is Kind.INTENT:
        return _intended(past, entry)
    if entry.kind is Kind.OUTCOME:
        return _came_of(past, entry)
    return replace(past, held="") if entry.action is Action.START else past  # a run goes on


def _ordered(past: Past, entry: Entry) -> Past:
    why = entry.reason or f"ordered by {entry.who}"
    match entry.action:
        case Action.PAUSE:
            return replace(past, paused=paused_by(entry))
        case Action.RESUME:
            return replace(past, paused="")
        case Action.RETRY:
            return replace(past, held="")
        case Action.ABORT if not past.ended:
            return replace(past, aborted=why)
        case Action.ROLL_BACK if past.ended != "rolled back":
            return replace(past, ordered_back=why, ended="")
        case _:
            return past


def _intended(past: Past, entry: Entry) -> Past:
    match entry.action:
        case Action.START:
            told = entry.detail
            before = (
                Before(release=str(told["before"]), number=int(told["revision"]))
                if "before" in told
                else None
            )
            return replace(past, started=True, before=before)
        case Action.CANARY:
            return replace(past, passed=0, carried={}, baked=False, baking=())
        case Action.STEP:
            return replace(past, baking=(*past.baking, entry.sequence))
        case Action.MOVE:
            return replace(past, followed=None)
        case Action.INSTALL | Action.UPGRADE:
            return replace(past, touched=True, gone_back=False, tried=False, verified=False)
        case _:
            return past


def _came_of(past: Past, entry: Entry) -> Past:
    evidence = past.carried
    if entry.action is Action.STEP and entry.findings:
        evidence = {**evidence, **{finding.metric: finding.carried for finding in entry.findings}}
        past = replace(past, baking=())
    match entry.action, entry.result:
        case Action.MOVE, "done":
            return replace(past, followed=entry.weight)
        case Action.ROLL_BACK, "done":
            return replace(past, gone_back=True)
        case Action.STEP, "passed":
            return replace(past, passed=entry.weight or 0, carried=evidence, baked=True)
        case Action.STEP, "inconclusive":
            return replace(past, held=entry.reason, carried=evidence)
        case Action.STEP, "stopped":
            return replace(past, carried=evidence)
        case ((Action.STEP | Action.SMOKE | Action.VERIFY | Action.WATCH), "failed"):
            return replace(past, failed=entry.reason or "failed")
        case Action.SMOKE, "passed":
            return replace(past, tried=True)
        case Action.VERIFY, "passed":
            return replace(past, verified=True)
        case Action.FINISH, "held":
            return replace(past, held="")
        case Action.FINISH, result:
            return replace(past, ended=result, why=entry.reason)
        case _:
            return past
