from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from ci.release import Chart, Commit, Image, Release, ScanSummary, TestSummary
from ci.scan import Database, Finding, Findings, Kind, Package, Scanned, Severity
from ci.supply.comparison import ReleaseChange, compare, compare_values

_TIME = datetime(2026, 1, 1, tzinfo=UTC)


def digest(letter: str) -> str:
    return "sha256:" + letter * 64


def release(name: str, chart: str = "c", **images: str) -> Release:
    return Release(
        name=name,
        created=_TIME,
        commit=Commit(sha="a" * 40, dirty=False, time=_TIME),
        engine="embedded",
        images=tuple(
            Image(
                name=at,
                digest=digest(letter),
                size=1,
                tests=TestSummary(passed=1, failed=0, skipped=0),
                scan=ScanSummary(
                    vulnerabilities=None, misconfigurations={}, secrets=0, licences={}, packages=0
                ),
            )
            for at, letter in images.items()
        ),
        chart=Chart(name="chart", version="1.0.0", digest=digest(chart)),
    )


def scan(letter: str, *packages: str, findings: tuple[Finding, ...] = (), looked: bool = True) -> Findings:
    """Packages are written `name=version`."""
    split = [text.partition("=") for text in packages]
    return Findings(
        of=Scanned.IMAGE,
        subject=digest(letter),
        scanner="trivy 0",
        database=Database(version=2, updated=_TIME) if looked else None,
        findings=findings,
        packages=tuple(Package(name=name, version=version, type="debian") for name, _, version in split),
    )


def cve(id: str, package: str = "openssl", version: str = "1") -> Finding:
    return Finding(
        kind=Kind.VULNERABILITY,
        id=id,
        severity=Severity.HIGH,
        target="debian",
        package=package,
        version=version,
    )


def between(old: Findings, new: Findings, **more: Any) -> ReleaseChange:
    return compare(
        release("r1", api="a"),
        release("r2", api="b"),
        scans={digest("a"): old, digest("b"): new},
        **more,
    )


def test_packages_come_go_and_change() -> None:
    (image,) = between(scan("a", "curl=1", "old=1", "same=1"), scan("b", "curl=2", "new=1", "same=1")).images
    assert [(one.name, one.before, one.after) for one in image.packages] == [
        ("curl", "1", "2"),
        ("new", None, "1"),
        ("old", "1", None),
    ]


def test_a_flaw_that_a_new_version_still_has_is_not_new() -> None:
    old = scan("a", findings=(cve("CVE-1"), cve("CVE-2")))
    new = scan("b", findings=(cve("CVE-1", version="2"), cve("CVE-3")))
    (image,) = between(old, new).images
    assert [one.id for one in image.new] == ["CVE-3"]
    assert [one.id for one in image.fixed] == ["CVE-2"]


def test_without_a_scan_in_one_no_vulnerability_is_called_fixed_or_new() -> None:
    old = scan("a", findings=(cve("CVE-1"),))
    (image,) = between(old, scan("b", looked=False)).images
    assert not image.fixed and not image.new
    assert not image.vulnerabilities_compared


def test_images_that_come_and_go_are_said() -> None:
    change = compare(
        release("r1", api="a", old="b"),
        release("r2", api="a", web="d"),
        scans={digest(letter): scan(letter, "x=1") for letter in "abd"},
    )
    assert [(one.name, one.before is None, one.after is None) for one in change.images] == [
        ("api", False, False),
        ("old", False, True),
        ("web", True, False),
    ]
    assert [one.changed for one in change.images] == [False, True, True]
    assert [(one.before, one.after) for one in change.images[1].packages] == [("1", None)]
    assert not change.same


def test_the_same_release_has_no_change() -> None:
    one = release("r1", api="a")
    change = compare(one, one, scans={digest("a"): scan("a", "x=1", findings=(cve("CVE-1"),))})
    assert change.same and not change.values and not change.images[0].packages


def test_another_chart_and_its_values_are_said() -> None:
    change = compare(
        release("r1", chart="c", api="a"),
        release("r2", chart="d", api="a"),
        scans={digest("a"): scan("a")},
        values=({"api": {"replicas": 1, "gone": True}}, {"api": {"replicas": 2}, "new": [1]}),
    )
    assert change.chart == (digest("c"), digest("d")) and not change.same
    assert [(one.path, one.before, one.after) for one in change.values] == [
        ("api.gone", True, None),
        ("api.replicas", 1, 2),
        ("new", None, [1]),
    ]


_packages = st.lists(
    st.builds(lambda name, version: f"{name}={version}", st.sampled_from("abc"), st.sampled_from("123")),
    unique=True,
)


@given(_packages, _packages)
def test_package_changes_lead_from_the_old_list_to_the_new(old: list[str], new: list[str]) -> None:
    (image,) = between(scan("a", *old), scan("b", *new)).images
    result = {tuple(one.split("=")) for one in old}
    for change in image.packages:
        if change.before is not None:
            result.remove((change.name, change.before))
        if change.after is not None:
            assert (change.name, change.after) not in result
            result.add((change.name, change.after))
    assert result == {tuple(one.split("=")) for one in new}


_ids = st.lists(st.sampled_from(["CVE-1", "CVE-2", "CVE-3"]), unique=True)


@given(_ids, _ids)
def test_what_is_new_one_way_is_fixed_the_other_way(old: list[str], new: list[str]) -> None:
    first, second = (
        scan("a", findings=tuple(map(cve, old))),
        scan("b", findings=tuple(map(cve, new))),
    )
    (there,) = between(first, second).images
    back_first, back_second = scan("a", findings=second.findings), scan("b", findings=first.findings)
    (back,) = between(back_first, back_second).images
    assert {one.id for one in there.new} == {one.id for one in back.fixed} == set(new) - set(old)


_values = st.recursive(
    st.integers() | st.text(max_size=3),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=6,
)


@given(_values)
def test_values_do_not_differ_from_themselves(values: Any) -> None:
    assert not list(compare_values(values, values))
