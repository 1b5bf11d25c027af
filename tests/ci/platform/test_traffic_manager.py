"""Probes and choices of a Traffic Manager profile: Azure's rules, and real probes of real listeners."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st
from waiting import until_async

from ci.delivery.regions import Monitor
from ci.platform.instance import Instance
from ci.platform.profile import Definition, Probes, Steered, answered, as_json, chosen, probed, started
from ci.platform.traffic_manager import Manager, definition, profile_id


def endpoint(name: str, monitor: Monitor = Monitor.ONLINE, **more: object) -> Steered:
    fields = {"name": name, "target": f"{name}.test", "priority": 1, "monitor": monitor, **more}
    return Steered.model_validate(fields)


def test_so_many_failures_are_tolerated_and_one_success_makes_up_for_all() -> None:
    one, seen = started(endpoint("a")), []
    for well in (True, False, False, True, False, False, False, False, True):
        one = probed(one, well=well, tolerated=2)
        seen.append(str(one.monitor))

    assert seen == [*["Online"] * 6, "Degraded", "Degraded", "Online"]


def test_one_that_was_never_well_is_checked_on_until_it_failed_too_often() -> None:
    one = started(endpoint("a"))
    assert probed(one, well=False, tolerated=1).monitor == Monitor.CHECKING
    assert probed(probed(one, well=False, tolerated=1), well=False, tolerated=1).monitor == Monitor.DEGRADED


def test_a_probe_that_ends_after_its_endpoint_was_disabled_says_nothing() -> None:
    one = started(endpoint("a", enabled=False))
    assert probed(one, well=True, tolerated=0) == one


@pytest.mark.parametrize(
    ("monitors", "expected"),
    [
        (("Online", "Online", "Online"), "abc"),
        (("Online", "Degraded", "CheckingEndpoint"), "ac"),
        (("Degraded", "Degraded", "Disabled"), "ab"),  # all bad: all that are enabled, as Azure does
        (("Disabled", "Disabled", "Disabled"), ""),
    ],
)
def test_who_is_answered(monitors: tuple[str, ...], expected: str) -> None:
    endpoints = [
        endpoint(name, Monitor(one), enabled=one != "Disabled")
        for name, one in zip("abc", monitors, strict=True)
    ]
    assert "".join(one.name for one in answered(endpoints)) == expected


def test_priority_takes_the_first_and_weighted_each_by_its_share() -> None:
    three = [endpoint("a", priority=3, weight=1), endpoint("b", priority=2, weight=3)]

    assert {chosen(three, "Priority") for _ in range(20)} == {three[1]}
    counts = Counter(one.name for _ in range(4000) if (one := chosen(three, "Weighted")))
    assert 0.65 < counts["b"] / 4000 < 0.85
    assert chosen([], "Weighted") is None


@given(st.lists(st.sampled_from(["Online", "Degraded", "CheckingEndpoint", "Disabled"]), max_size=5))
def test_the_profile_is_as_well_as_azure_says(monitors: list[str]) -> None:
    endpoints = [
        endpoint(str(number), Monitor(one), enabled=one != "Disabled") for number, one in enumerate(monitors)
    ]
    profile = definition(Instance(number=0, folder=Path("/x"), clusters=3))
    said = as_json(profile, endpoints)["properties"]["monitorConfig"]["profileMonitorStatus"]

    order = ["Degraded", "Online", "CheckingEndpoint"]
    worst = next((one for one in order if one in monitors), "")
    assert said == {"": "Inactive", "CheckingEndpoint": "CheckingEndpoints"}.get(worst, worst)


def test_the_platforms_profile_has_its_regions_at_the_same_port() -> None:
    profile = definition(Instance(number=2, folder=Path("/x"), clusters=3))

    assert [(one.name, one.target) for one in profile.endpoints] == [
        ("eastus", "10.202.0.2"), ("westeurope", "10.202.1.2"), ("southeastasia", "10.202.2.2"),
    ]  # fmt: skip
    assert profile.probes.port == 10480
    # Failed, and failed again: both within less than three intervals from when it broke.
    assert profile.probes.interval * (1 + profile.probes.tolerated) + profile.probes.timeout < (
        3 * profile.probes.interval
    )


@pytest.mark.parametrize("protocol", ["HTTP", "TCP"])
def test_a_listener_is_probed_lost_and_found(tmp_path: Path, protocol: str) -> None:
    asked_of: Counter[bytes] = Counter()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked_of[await reader.readline()] += 1
        asked_of[(await reader.readline()).lower()] += 1
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        writer.close()

    async def run() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        probes = Probes(
            protocol=protocol,  # type: ignore[arg-type]
            port=port, path="/up", host="api.test", interval=0.02, timeout=2.0, tolerated=1,
        )  # fmt: skip
        manager = Manager(
            Definition(
                id=profile_id(), fqdn="voice.test", ttl=1, routing="Priority", probes=probes,
                endpoints=(Steered(name="a", target="127.0.0.1", priority=1),),
            ),
            tmp_path / "changes.json",
        )  # fmt: skip

        def says(monitor: Monitor) -> bool:
            return manager.named("a").monitor == monitor

        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as http:
            probing = asyncio.create_task(manager.probe(http))
            await until_async(lambda: says(Monitor.ONLINE), every=0.01)
            server.close()
            await until_async(lambda: says(Monitor.DEGRADED), every=0.01)
            async with await asyncio.start_server(answer, "127.0.0.1", port):
                await until_async(lambda: says(Monitor.ONLINE), every=0.01)
                manager.change("a", {"endpointStatus": "Disabled"})
                assert manager.choose() is None
                manager.change("a", {"endpointStatus": "Enabled"})
                await until_async(lambda: says(Monitor.ONLINE), every=0.01)
            probing.cancel()
            await asyncio.gather(probing, return_exceptions=True)

    asyncio.run(run())
    if protocol == "HTTP":
        assert asked_of[b"GET /up HTTP/1.1\r\n"] > 0
        assert asked_of[b"host: api.test\r\n"] == asked_of[b"GET /up HTTP/1.1\r\n"]
