"""The replicator with registries in memory: what it is told, what it loses, what goes wrong on purpose."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from regions import Regions, two_releases
from waiting import until_async

from ci.errors import SystemUnavailable
from ci.platform import replicator as module
from ci.platform.replicator import Faults, Follower, app, events_in
from ci.registry import digest_of
from ci.supply.availability import State, prove
from ci.supply.replication import Event, Pace, ask_replicator, tell_to_reconcile

T = TypeVar("T")


def _whole(text: str) -> str:
    """With digests of their full length, which are written with two digits here."""
    return re.sub(r"sha256:(\w\w)\b", lambda found: f"sha256:{found[1] * 32}", text)


NOTIFICATION = _whole("""{"events": [
 {"id": "1", "timestamp": "2026-01-01T00:00:00Z", "action": "push",
  "target": {"mediaType": "application/vnd.oci.image.manifest.v1+json", "size": 7, "length": 7,
             "digest": "sha256:aa", "repository": "api", "url": "http://x/", "tag": "r1"},
  "request": {"id": "2", "addr": "127.0.0.1:1", "host": "x", "method": "PUT", "useragent": "va"},
  "actor": {}, "source": {"addr": "x:5501", "instanceID": "3"}},
 {"action": "push", "target": {"digest": "sha256:bb", "repository": "chart"}},
 {"action": "pull", "target": {"digest": "sha256:cc", "repository": "chart"}},
 {"action": "delete", "target": {"digest": "sha256:dd", "repository": "api"}},
 {"action": "delete", "target": {"repository": "api", "tag": "r2"}}]}""").encode()


def run(work: Awaitable[T]) -> T:
    async def main() -> T:
        return await asyncio.wait_for(work, 20)

    return asyncio.run(main())


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Regions:
    return two_releases(tmp_path_factory.mktemp("images"))


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FIRST_PAUSE", 0.001)


@asynccontextmanager
async def following(regions: Regions, *, every: float = 1000.0) -> AsyncIterator[Follower]:
    """A follower at work, that has compared all at its start."""
    home, away = regions.clients()
    async with home, away:
        follower = Follower("westeurope", home, away, reconcile_every=every)
        task = asyncio.create_task(follower.run())
        try:
            yield follower
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


until = partial(until_async, seconds=50, every=0.002)


def in_step(follower: Follower) -> Callable[[], bool]:
    return lambda: follower.state().pace is Pace.IN_STEP


def empty(made: Regions) -> Regions:
    """The same, but the home registry has nothing yet: its content is put there by `arrive`."""
    regions = made.fresh()
    regions.home = type(made.home)()
    return regions


def arrive(regions: Regions, made: Regions) -> None:
    regions.home.blobs |= made.home.blobs
    regions.home.manifests |= made.home.manifests


def test_the_pushes_and_deletions_in_a_notification_are_read() -> None:
    assert list(events_in(NOTIFICATION)) == [
        Event(
            repository="api",
            reference="r1",
            digest=_whole("sha256:aa"),
        ),
        Event(
            repository="chart",
            reference=_whole("sha256:bb"),
        ),
        Event(
            repository="api",
            reference=_whole("sha256:dd"),
        ),
        Event(repository="api", reference="r2"),
    ]
    with pytest.raises(ValueError, match="events"):
        list(events_in(b"{}"))


def test_at_its_start_it_brings_what_it_was_not_told_of(made: Regions) -> None:
    regions = made.fresh()

    async def main() -> None:
        async with following(regions) as follower:
            assert follower.state().pace is Pace.BEHIND  # it does not know yet
            await until(in_step(follower))
            assert follower.state().reconciled is not None and follower.state().lag == 0

    run(main())
    assert regions.same()


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_order_events_are_done_in_nothing_is_missing_and_never_was_anything_dangling(
    made: Regions, data: st.DataObject
) -> None:
    regions = empty(made)
    order = data.draw(st.permutations(list(made.events)))
    again = data.draw(st.lists(st.sampled_from(made.events), max_size=3))
    shuffle = data.draw(st.booleans())

    async def main() -> None:
        async with following(regions) as follower:
            await until(in_step(follower))
            follower.faults = Faults(shuffle=shuffle)
            arrive(regions, made)
            regions.away.gate = lambda _: assert_whole(regions)
            for event in [*order, *again]:
                follower.tell(event)
                await asyncio.sleep(0)
            assert follower.state().pending
            await until(in_step(follower))

    run(main())
    assert regions.same() and not regions.dangling()


def assert_whole(regions: Regions) -> None:
    assert not regions.dangling()


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lost=st.sets(st.integers(0, 11)))
def test_what_lost_events_left_behind_the_next_comparison_brings(made: Regions, lost: set[int]) -> None:
    regions = empty(made)

    async def main() -> None:
        async with following(regions) as follower:
            await until(in_step(follower))
            arrive(regions, made)
            for number, event in enumerate(made.events):
                if number in lost:
                    follower.faults = Faults(lose=1)
                follower.tell(event)
            await until(in_step(follower))
            assert not follower.faults.lose
            # What the check calls there has to be there to the last blob.
            for release in made.releases:
                if (await prove(follower._replica, release)).state is State.THERE:
                    image = release.images[0]
                    assert ("api", image.digest) in regions.away.manifests
            await follower.reconcile()

    run(main())
    assert regions.same()


def test_an_event_waits_as_long_as_the_fault_says_and_not_longer(made: Regions) -> None:
    regions = empty(made)

    async def main() -> None:
        async with following(regions) as follower:
            await until(in_step(follower))
            follower.faults = Faults(delay=3600)
            arrive(regions, made)
            for event in made.events:
                follower.tell(event)
            await asyncio.sleep(0.05)
            state = follower.state()
            assert (state.pace, state.pending) == (Pace.BEHIND, len(made.events))
            assert state.lag >= 0.05 and state.last_event is not None
            assert not regions.away.manifests
            with pytest.raises(SystemUnavailable, match="has a delay of 3600 s"):
                await follower.reconcile(deep=True)
            follower.faults = Faults()
            await until(in_step(follower))

    run(main())
    assert regions.same()


@pytest.mark.parametrize("how", ["fault", "refuses", "full"])
def test_while_a_replica_is_down_nothing_is_lost(made: Regions, how: str) -> None:
    regions = empty(made)
    answers = {"fault": None, "refuses": httpx.Response(503), "full": httpx.Response(507)}

    async def main() -> None:
        async with following(regions) as follower:
            await until(in_step(follower))
            arrive(regions, made)
            if how == "fault":
                follower.faults = Faults(down=True)
            regions.away.gate = lambda _: answers[how]
            for event in made.events:
                follower.tell(event)
            await until(lambda: follower.state().pace is Pace.FAILING)
            await asyncio.sleep(0.05)
            state = follower.state()
            assert state.pending == len(made.events) and "127.0.0.1:5002" in state.problem
            regions.away.gate = lambda _: None
            follower.faults = Faults()
            await until(in_step(follower))
            assert follower.state().problem == ""

    run(main())
    assert regions.same()


def test_a_deletion_waits_until_home_can_be_asked_and_is_not_lost(made: Regions) -> None:
    regions = empty(made)
    arrive(regions, made)
    image = made.releases[0].images[0].digest

    async def main() -> None:
        async with following(regions) as follower:
            await until(in_step(follower))
            for at in [at for at in regions.home.manifests if at in {("api", image), ("api", "r1")}]:
                del regions.home.manifests[at]
            regions.home.gate = lambda _: httpx.Response(503)
            follower.tell(Event(repository="api", reference=image))
            await until(lambda: follower.state().pace is Pace.FAILING)
            assert ("api", image) in regions.away.manifests and ("api", "r1") in regions.away.manifests
            regions.home.gate = lambda _: None
            await until(in_step(follower))
            assert ("api", image) not in regions.away.manifests and (
                "api",
                "r1",
            ) not in regions.away.manifests

    run(main())


def test_a_tag_that_home_tells_of_before_it_has_it_is_waited_for(made: Regions) -> None:
    regions = empty(made)

    async def main() -> None:
        async with following(regions) as follower:
            await until(in_step(follower))
            arrive(regions, made)
            tag = regions.home.manifests.pop(("chart", "r2"))
            follower.tell(Event(repository="chart", reference="r2", digest=digest_of(tag[1])))
            await asyncio.sleep(0.2)
            assert follower.state().pending == 1
            regions.home.manifests["chart", "r2"] = tag
            await until(in_step(follower))
            assert regions.away.manifests["chart", "r2"] == tag

    run(main())


def test_a_tag_that_was_moved_since_home_told_of_it_is_followed_as_it_is_now(
    made: Regions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_TAGGED_WITHIN", 0.1)
    regions = empty(made)

    async def main() -> None:
        async with following(regions) as follower:
            await until(in_step(follower))
            arrive(regions, made)
            follower.tell(Event(repository="api", reference="newest", digest="sha256:" + "0" * 64))
            await until(in_step(follower))
            assert regions.away.manifests["api", "newest"] == regions.home.manifests["api", "newest"]

    run(main())


def test_a_repository_that_cannot_be_brought_does_not_keep_the_others(made: Regions) -> None:
    regions = empty(made)

    def broken(request: httpx.Request) -> httpx.Response | None:
        return httpx.Response(500) if "/v2/api/" in request.url.path else None

    async def main() -> None:
        async with following(regions) as follower:
            await until(in_step(follower))
            arrive(regions, made)
            regions.away.gate = broken
            for event in made.events:
                follower.tell(event)
            await until(lambda: ("releases", "r2") in regions.away.manifests)
            await until(lambda: follower.state().pace is Pace.FAILING)
            await until(lambda: {one.event.repository for one in follower._pending} == {"api"})
            assert follower.state().pace is Pace.FAILING

    run(main())


def test_a_comparison_in_depth_brings_back_what_a_replica_lost(made: Regions) -> None:
    regions = made.fresh()

    async def main() -> None:
        async with following(regions) as follower:
            await until(in_step(follower))
            await follower.reconcile()  # sees that what was brought is there
            lost = next(iter(regions.away.blobs))
            del regions.away.blobs[lost]
            regions.away.asked.clear()
            await follower.reconcile()
            assert lost not in regions.away.blobs  # tags are where they were: nothing more is asked
            assert {path.rpartition("/")[2] for _, path in regions.away.asked} == {"_catalog", "list"}
            await follower.reconcile(deep=True)
            assert lost in regions.away.blobs

    run(main())


def test_it_is_talked_to_over_http(made: Regions) -> None:
    regions = made.fresh()

    async def main() -> None:
        async with following(regions) as follower:
            await until(in_step(follower))
            transport = httpx.ASGITransport(app([follower], token="t0"))
            async with httpx.AsyncClient(
                transport=transport, base_url="http://replicator", headers={"authorization": "Bearer t0"}
            ) as client:
                assert (await client.post("/events", content=NOTIFICATION)).status_code == 202
                # Taken: a registry sends what is refused again, for ever, and then nothing else.
                assert (await client.post("/events", content=b"no")).status_code == 202
                assert (await client.put("/faults/mars", json={})).status_code == 404
                assert (await client.put("/faults/westeurope", json={"dealy": 1})).status_code == 400
                set_now = await client.put("/faults/westeurope", json={"delay": 60})
                assert set_now.json()["westeurope"]["delay"] == 60
                with pytest.raises(SystemUnavailable, match=r"503: .* has a delay of 60 s"):
                    await tell_to_reconcile("http://replicator", transport=transport)
                await client.put("/faults/westeurope", json={})
                await tell_to_reconcile("http://replicator", transport=transport)
            said = await ask_replicator("http://replicator", transport=transport)
            assert said["westeurope"].endpoint == "127.0.0.1:5002"

    run(main())


@pytest.mark.parametrize(
    "target",
    [
        {"repository": "../../etc", "digest": "sha256:" + "a" * 64},
        {"repository": "Api", "tag": "r1"},
        {"repository": "api", "digest": "sha256:../../x"},
        {"repository": "api", "tag": "a/../../b"},
        {"repository": "", "tag": "r1"},
    ],
)
def test_what_no_registry_can_have_is_left_out(target: dict[str, str]) -> None:
    good = {"repository": "web", "tag": "r9"}
    body = {"events": [{"action": "push", "target": one} for one in (target, good)]}
    assert [one.repository for one in events_in(json.dumps(body).encode())] == ["web"]


def test_an_event_that_cannot_be_done_ever_does_not_hold_up_the_others(made: Regions) -> None:
    regions = made.fresh()

    async def main() -> None:
        async with following(regions) as follower:
            await until(in_step(follower))
            follower.tell(Event(repository="Not A Name", reference="r1", digest=""))
            for event in made.events:
                follower.tell(event)
            await until(in_step(follower))
            assert not follower._pending

    run(main())


def test_a_stranger_sets_no_faults_and_tells_of_no_events(made: Regions) -> None:
    regions = made.fresh()

    async def main() -> None:
        async with following(regions) as follower:
            transport = httpx.ASGITransport(app([follower], token="t0"))
            async with httpx.AsyncClient(transport=transport, base_url="http://replicator") as client:
                for headers in ({}, {"authorization": "Bearer "}, {"authorization": "Bearer t1"}):
                    told = await client.post("/events", content=NOTIFICATION, headers=headers)
                    put = await client.put("/faults/westeurope", json={"down": True}, headers=headers)
                    assert (told.status_code, put.status_code) == (401, 401)
            assert follower.faults == Faults() and not follower._pending

    run(main())


def test_something_else_at_its_address_is_said() -> None:
    transport = httpx.MockTransport(lambda _: httpx.Response(200, text="<html>"))
    with pytest.raises(SystemUnavailable, match="does not say how far it is"):
        run(ask_replicator("http://replicator", transport=transport))


def test_its_configuration_names_the_home_and_the_others(tmp_path: Path) -> None:
    from ci.platform.instance import Instance

    part = module.replicator(Instance(number=2, folder=tmp_path))
    assert part.needs == ("registry eastus", "registry westeurope", "registry southeastasia")
