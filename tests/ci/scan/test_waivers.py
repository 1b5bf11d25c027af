"""Waivers held against what a checker found."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from ci.azure.checkov import Found
from ci.errors import BadInput
from ci.scan.waivers import Sorted, sort_out

TODAY = date(2026, 11, 24)
HOST = Found(id="CKV_K8S_19", resource="Deployment.media.livekit", file="prod.yaml", title="host network")
LIMIT = Found(id="CKV_K8S_11", resource="Deployment.voice.api", file="prod.yaml", title="CPU limits")


def waivers(folder: Path, *entries: str) -> Path:
    file = folder / "waivers.yaml"
    file.write_text("waivers:\n" + "".join(f"  - {entry}\n" for entry in entries))
    return file


def entry(found: Found, expires: str = "2027-06-30", resource: str = "") -> str:
    reason = "there is no other way at the moment"
    return (
        f"{{id: {found.id}, resource: '{resource or found.resource}', reason: {reason}, expires: {expires}}}"
    )


def test_a_waiver_lets_its_own_finding_through(tmp_path: Path) -> None:
    file = waivers(tmp_path, entry(HOST))
    done = sort_out([HOST, LIMIT], file, today=TODAY)
    assert done == Sorted(left=(LIMIT,), waived=(HOST,), expired=(), unused=())


def test_an_expired_waiver_is_named_beside_what_it_let_through(tmp_path: Path) -> None:
    done = sort_out([HOST], waivers(tmp_path, entry(HOST, "2026-11-23")), today=TODAY)
    (one,) = done.expired
    assert done.left == (HOST,) and done.unused == ()
    assert "expired on 2026-11-23" in one.message and one.place.line == 2


def test_a_valid_waiver_beside_an_expired_one_counts(tmp_path: Path) -> None:
    file = waivers(tmp_path, entry(HOST, "2026-11-23"), entry(HOST, TODAY.isoformat(), resource="livekit"))
    done = sort_out([HOST], file, today=TODAY)
    assert done.waived == (HOST,) and len(done.expired) == 1


def test_a_waiver_that_nothing_needs_is_named(tmp_path: Path) -> None:
    (one,) = sort_out([HOST], waivers(tmp_path, entry(HOST), entry(LIMIT)), today=TODAY).unused
    assert one.place.line == 3
    assert "nothing needs the waiver of CKV_K8S_11" in one.message


def test_a_waiver_needs_a_reason(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="reason"):
        sort_out([], waivers(tmp_path, "{id: A, resource: b, reason: so, expires: 2027-01-01}"), today=TODAY)
