"""Taking regions out and back, through Azure's own client and a Traffic Manager that speaks its protocol."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from ci.delivery.regions import Endpoint, GlobalTraffic, Monitor, Profile, put_back, take_out, traffic_manager
from ci.errors import BadInput, PolicyBlocked, SystemUnavailable
from ci.platform.profile import Definition, Probes, Steered, probed
from ci.platform.traffic_manager import Manager, app, profile_id
from ci.serving import serving

REGIONS = ("eastus", "westeurope", "southeastasia")


def definition(**change: Any) -> Definition:
    endpoints = tuple(
        Steered(name=name, target=f"10.9.{number}.2", priority=number + 1)
        for number, name in enumerate(REGIONS)
    )
    return Definition(
        id=profile_id(),
        fqdn="voice.test",
        ttl=7,
        routing="Weighted",
        probes=Probes(port=1),
        endpoints=endpoints,
    ).model_copy(update=change)


def are_well(manager: Manager, *names: str) -> None:
    manager.endpoints = tuple(probed(one, well=one.name in names, tolerated=0) for one in manager.endpoints)


def with_manager(
    folder: Path, flow: Callable[[Manager, GlobalTraffic], Awaitable[None]], *, token: str = "secret"
) -> None:
    async def run() -> None:
        manager = Manager(definition(), folder / "changes.json")
        are_well(manager, *REGIONS)
        shown = folder / "token"
        shown.write_text(token)
        async with (
            serving(app(manager, token="secret")) as port,
            traffic_manager(profile_id(), at=f"http://127.0.0.1:{port}", token=shown) as traffic,
        ):
            await flow(manager, traffic)

    asyncio.run(run())


def test_the_client_of_azure_sees_the_profile_as_it_is(tmp_path: Path) -> None:
    async def flow(manager: Manager, traffic: GlobalTraffic) -> None:
        are_well(manager, "eastus", "southeastasia")
        assert await traffic.look() == Profile(
            fqdn="voice.test",
            ttl=7,
            routing="Weighted",
            interval=10.0,
            tolerated=3,
            endpoints=tuple(
                Endpoint(
                    region=name,
                    target=f"10.9.{number}.2",
                    enabled=True,
                    monitor=Monitor.DEGRADED if name == "westeurope" else Monitor.ONLINE,
                    priority=number + 1,
                    weight=1,
                )
                for number, name in enumerate(REGIONS)
            ),
        )

    with_manager(tmp_path, flow)


def test_a_change_touches_what_is_given_and_outlives_the_process(tmp_path: Path) -> None:
    async def flow(manager: Manager, traffic: GlobalTraffic) -> None:
        changed = await traffic.change("westeurope", weight=40)
        assert (changed.weight, changed.priority, changed.enabled) == (40, 2, True)
        changed = await traffic.change("westeurope", enabled=False, priority=9)
        assert (changed.weight, changed.priority, changed.monitor) == (40, 9, Monitor.DISABLED)
        assert await traffic.change("westeurope", priority=2) == (await traffic.look()).endpoint("westeurope")

    with_manager(tmp_path, flow)

    again = {one.name: one for one in Manager(definition(), tmp_path / "changes.json").endpoints}
    assert (again["westeurope"].enabled, again["westeurope"].weight) == (False, 40)
    assert again["westeurope"].monitor == Monitor.DISABLED
    assert again["eastus"].monitor == Monitor.CHECKING


def test_priorities_that_were_swapped_are_read_back(tmp_path: Path) -> None:
    async def flow(manager: Manager, traffic: GlobalTraffic) -> None:
        for region, priority in (("eastus", 99), ("westeurope", 1), ("eastus", 2)):
            await traffic.change(region, priority=priority)

    with_manager(tmp_path, flow)

    again = Manager(definition(), tmp_path / "changes.json").endpoints
    assert [one.priority for one in again] == [2, 1, 3]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"priority": 3}, "southeastasia"),
        ({"priority": 0}, "from 1 to 1000"),
        ({"weight": 1001}, "from 1 to 1000"),
    ],
)
def test_what_azure_refuses_is_refused_and_nothing_is_changed(
    tmp_path: Path, change: dict[str, int], why: str
) -> None:
    async def flow(manager: Manager, traffic: GlobalTraffic) -> None:
        before = await traffic.look()
        with pytest.raises(BadInput, match=why):
            await traffic.change("eastus", enabled=False, **change)  # type: ignore[arg-type]
        assert await traffic.look() == before

    with_manager(tmp_path, flow)
    assert not (tmp_path / "changes.json").exists()


def test_a_region_that_is_no_endpoint_is_named(tmp_path: Path) -> None:
    async def flow(manager: Manager, traffic: GlobalTraffic) -> None:
        with pytest.raises(BadInput, match="brazilsouth"):
            await traffic.change("brazilsouth", enabled=False)
        with pytest.raises(BadInput, match="brazilsouth") as told:
            await take_out(traffic, "brazilsouth")
        assert "eastus, westeurope, southeastasia" in str(told.value.hint)

    with_manager(tmp_path, flow)


def test_who_shows_another_token_sees_nothing(tmp_path: Path) -> None:
    async def flow(manager: Manager, traffic: GlobalTraffic) -> None:
        with pytest.raises(SystemUnavailable, match=r"(?i)not let us in.*authentication failed"):
            await traffic.look()

    with_manager(tmp_path, flow, token="guessed")


@pytest.mark.parametrize(
    ("path", "options", "status", "code"),
    [
        ("", {}, 400, "MissingApiVersionParameter"),
        ("?api-version=newest", {}, 400, "InvalidApiVersionParameter"),
        ("x?api-version=2022-04-01", {}, 404, "ResourceNotFound"),
        ("/nestedEndpoints/eastus?api-version=2022-04-01", {}, 404, "ResourceNotFound"),
        ("/externalEndpoints/mars?api-version=2022-04-01", {}, 404, "ResourceNotFound"),
        ("/externalEndpoints/eastus?api-version=2022-04-01", {"content": b"{"}, 400, "InvalidRequestContent"),
        ("/externalEndpoints/eastus?api-version=2022-04-01", {"json": []}, 400, "InvalidRequestContent"),
        (
            "/externalEndpoints/eastus?api-version=2022-04-01",
            {"json": {"properties": {"endpointStatus": "Off"}}},
            400,
            "BadRequest",
        ),
        (
            "/externalEndpoints/eastus?api-version=2022-04-01",
            {"json": {"properties": {"weight": "2"}}},
            400,
            "BadRequest",
        ),
    ],
)
def test_errors_have_the_shape_of_resource_managers(
    tmp_path: Path, path: str, options: dict[str, Any], status: int, code: str
) -> None:
    async def ask() -> httpx.Response:
        manager = Manager(definition(), tmp_path / "changes.json")
        async with serving(app(manager, token="t")) as port, httpx.AsyncClient() as http:
            url = f"http://127.0.0.1:{port}{profile_id()}{path}"
            method = "PATCH" if options else "GET"
            return await http.request(method, url, headers={"Authorization": "Bearer t"}, **options)

    said = asyncio.run(ask())
    assert (said.status_code, said.json()["error"]["code"]) == (status, code)


def test_the_names_of_a_path_have_no_case_as_in_azure(tmp_path: Path) -> None:
    async def ask() -> int:
        manager = Manager(definition(), tmp_path / "changes.json")
        async with serving(app(manager, token="t")) as port, httpx.AsyncClient() as http:
            url = f"http://127.0.0.1:{port}{profile_id().replace('trafficManager', 'TRAFFICmanager')}"
            url = f"{url}/ExternalENDPOINTS/eastus?api-version=2022-04-01"
            return (await http.get(url, headers={"Authorization": "Bearer t"})).status_code

    assert asyncio.run(ask()) == 200


@pytest.mark.parametrize(
    ("profile", "at"),
    [("voice-prod", None), (profile_id(), "http://10.0.0.1:80"), (f"{profile_id()}/x", None)],
)
def test_what_is_no_profile_or_not_here_is_bad_input(profile: str, at: str | None) -> None:
    async def look() -> None:
        async with traffic_manager(profile, at=at) as traffic:
            await traffic.look()

    with pytest.raises(BadInput):
        asyncio.run(look())


def test_nobody_there_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ci.delivery.regions._RETRIES", 0)

    async def look() -> None:
        async with traffic_manager(profile_id(), at="http://127.0.0.1:1") as traffic:
            await traffic.look()

    with pytest.raises(SystemUnavailable, match="does not answer about voice-prod") as told:
        asyncio.run(look())
    assert "\n" not in told.value.message


# Who may be taken out -------------------------------------------------------------------------------------


def test_a_region_goes_out_and_comes_back_and_either_may_be_asked_twice(tmp_path: Path) -> None:
    async def flow(manager: Manager, traffic: GlobalTraffic) -> None:
        for _ in range(2):
            out = await take_out(traffic, "westeurope")
            assert [one.enabled for one in out.endpoints] == [True, False, True]
        for _ in range(2):
            await put_back(traffic, "westeurope")
            back = await traffic.look()
            assert all(one.enabled for one in back.endpoints)
        assert back.endpoint("westeurope").monitor == Monitor.CHECKING  # enabled is not yet online

    with_manager(tmp_path, flow)


@pytest.mark.parametrize("well", [("eastus",), ()])
def test_the_last_that_is_online_is_never_taken_out(tmp_path: Path, well: tuple[str, ...]) -> None:
    async def flow(manager: Manager, traffic: GlobalTraffic) -> None:
        are_well(manager, *well)
        with pytest.raises(PolicyBlocked, match="the last region"):
            await take_out(traffic, "eastus")
        assert all(one.enabled for one in manager.endpoints)

    with_manager(tmp_path, flow)


@pytest.mark.parametrize("how", ["taken out", "Degraded", "CheckingEndpoint"])
def test_two_are_never_out_at_once(tmp_path: Path, how: str) -> None:
    async def flow(manager: Manager, traffic: GlobalTraffic) -> None:
        if how == "Degraded":
            are_well(manager, "eastus", "westeurope")
        else:
            await take_out(traffic, "southeastasia")
        if how == "CheckingEndpoint":
            await put_back(traffic, "southeastasia")
        with pytest.raises(PolicyBlocked, match=rf"southeastasia is .*{how}"):
            await take_out(traffic, "westeurope")
        assert manager.named("westeurope").enabled

    with_manager(tmp_path, flow)


def test_two_who_take_out_two_regions_at_once_do_not_both_go_on(tmp_path: Path) -> None:
    """Each looked while all was well; each sees the other's when it looks again."""

    async def flow(manager: Manager, traffic: GlobalTraffic) -> None:
        both = asyncio.Barrier(2)

        class AtOnce:
            """Two promoters in step."""

            looks = 0

            async def look(self) -> Profile:
                seen = await traffic.look()
                self.looks += 1
                if self.looks == 1:
                    await both.wait()
                return seen

            async def change(self, region: str, **wanted: Any) -> Endpoint:
                done = await traffic.change(region, **wanted)
                if wanted["enabled"] is False:
                    await both.wait()
                return done

        went = await asyncio.gather(
            *(take_out(AtOnce(), name) for name in ("eastus", "westeurope")), return_exceptions=True
        )
        assert sum(isinstance(one, PolicyBlocked) for one in went) >= 1
        assert sum(not one.enabled for one in manager.endpoints) <= 1

    with_manager(tmp_path, flow)
