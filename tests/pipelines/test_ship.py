"""The whole of ship without an engine: images, trivy, helm and registry are small fakes, the rest is real."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagger
import httpx
import pytest
from dagger._exceptions import QueryErrorValue
from fake_registry import FakeRegistry
from gql import gql
from oci import layer
from pydantic_core import to_json
from rich.console import Console
from ship_world import POLICY, FakeImage, World, client_of, nothing, run, ship_world, write_tools

from ci import places
from ci.errors import BadInput, PipelineError, PolicyBlocked, StepFailed, SystemUnavailable, ToolMissing
from ci.registry import digest_of
from ci.release import Release, read_release
from ci.reporting import SilentReporter
from ci.supply.attestations import attached
from ci.supply.availability import State
from ci.supply.replication import reconcile
from pipelines import build as building
from pipelines import livekit
from pipelines import make as making
from pipelines import ship as shipping
from pipelines import test as testing
from pipelines.registries import EstateRegistries, where_available


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return ship_world(tmp_path, monkeypatch)


def test_a_release_names_exactly_what_the_registry_holds(world: World) -> None:
    shipped = run(world.ship())
    release = shipped.release
    assert read_release(shipped.file) == release
    assert [image.name for image in release.images] == ["fastapi-backend", "livekit-agent"]
    for image in release.images:
        assert (image.name, image.digest) in world.server.manifests
        assert (image.name, release.name) in world.server.manifests
        assert image.tests.passed == 1 and image.tests.coverage == 90.0
        assert image.scan.vulnerabilities is None
    assert (release.chart.name, release.chart.digest) in world.server.manifests
    assert release.name.startswith("20231114-221320-")
    assert not release.commit.dirty
    for name in ("fastapi-backend/junit.xml", "livekit-agent/sbom.cdx.json", "chart/trivy.json"):
        assert (world.root / "reports" / name).is_file()


def test_shipping_the_same_again_changes_nothing_and_sends_nothing(world: World) -> None:
    first = run(world.ship())
    before = first.file.read_bytes()
    world.api.ran = world.agent.ran = datetime.now(UTC) - timedelta(minutes=1)
    again = run(world.ship())
    assert again.release == first.release
    assert again.file.read_bytes() == before and world.releases == [first.file]
    assert all(image.unchanged for image in again.built)
    assert all(image.cached for image in again.tested)
    assert all(subject.cached for subject in again.scanned)
    assert [one.bytes_sent for one in again.published] == [0, 0, 0, 0]
    assert [one.cached for one in first.signed] == [False] * 4
    assert [one.cached for one in again.signed] == [True] * 4


def test_a_layer_that_both_images_have_goes_over_the_wire_once(world: World) -> None:
    published = run(world.ship()).published
    shared = world.api.layers[0]
    digest = digest_of(shared)
    assert ("fastapi-backend", digest) in world.server.blobs and (
        "livekit-agent",
        digest,
    ) in world.server.blobs
    assert sum(one.mounted for one in published) >= 1
    images = [one for one in published if one.name in ("fastapi-backend", "livekit-agent")]
    assert sum(one.bytes_sent for one in images) < 3 * len(shared) + 20_000
    assert sent_times(world, digest) == 1


def sent_times(world: World, digest: str) -> int:
    """How often that blob's bytes arrived, seen by who finished an upload of it."""
    return world.server.finished.count(digest)


def test_what_is_attached_to_each_image_is_named_by_the_release(world: World) -> None:
    release = run(world.ship()).release

    async def look() -> None:
        async with world.registry() as registry:
            for image in release.images:
                found = await attached(registry, image.name, image.digest)
                assert {kind.value for kind in found} == {"sbom", "scan", "provenance", "tests"}
                for digest in image.attestations.values():
                    manifest = await registry.manifest(image.name, digest)
                    assert manifest.subject is not None and manifest.subject.digest == image.digest
            manifest = await registry.manifest("releases", release.name)
            content = await registry.blob("releases", manifest.layers[0].digest)
            assert Release.model_validate_json(content) == release

    run(look())


def test_the_release_goes_last(world: World) -> None:
    world.server.fail("PUT", "livekit-agent/manifests", *[httpx.Response(503)] * 9)
    with pytest.raises(SystemUnavailable):
        run(world.ship())
    assert not [at for at, _ in world.server.manifests if at == "releases"]
    assert not world.releases


def test_a_fault_makes_another_release(world: World) -> None:
    good = run(world.ship())
    bad = run(world.ship(fault=0.05))
    assert world.api.faults == [None, 0.05]
    assert bad.release.name != good.release.name
    assert bad.release.image("fastapi-backend").digest != good.release.image("fastapi-backend").digest


def test_a_failing_test_is_named_and_nothing_is_pushed(world: World) -> None:
    world.api.cases += (
        '<testcase classname="tests.test_b" name="test_sessions">'
        '<failure message="AssertionError: 500 != 201">tests/test_b.py:12: AssertionError: 500 != 201\n'
        "</failure></testcase>"
    )
    with pytest.raises(StepFailed) as caught:
        run(world.ship())
    assert "1 test of fastapi-backend failed" in str(caught.value)
    assert "tests.test_b::test_sessions (tests/test_b.py:12): AssertionError: 500 != 201" in str(caught.value)
    assert not world.server.manifests and not world.server.blobs and not world.releases
    assert (world.root / "reports/fastapi-backend/junit.xml").is_file()


def test_a_suite_of_which_nothing_ran_is_no_pass(world: World) -> None:
    world.agent.cases = '<testcase name="a"><skipped/></testcase>'
    with pytest.raises(StepFailed, match="no test of livekit-agent ran"):
        run(world.ship())


def test_what_the_policy_blocks_is_not_pushed(world: World, tmp_path: Path) -> None:
    secret = {"RuleID": "github-pat", "Severity": "LOW", "Title": "a token", "StartLine": 3}
    write_tools(tmp_path / "bin", Target="/app/.env", Class="secret", Secrets=[secret])
    with pytest.raises(PolicyBlocked, match=r"fastapi-backend: LOW secret github-pat in /app/\.env:3"):
        run(world.ship())
    assert not world.server.manifests and not world.releases


def test_a_wrong_policy_is_said_before_anything_is_built(world: World) -> None:
    (world.root / "policy.yaml").write_text(POLICY + "alow: []\n")
    with pytest.raises(BadInput, match=r"policy\.yaml:5 \(alow\)"):
        run(world.ship())
    assert not world.api.faults and not world.server.asked


def test_a_registry_that_is_down_is_said_before_anything_is_built(world: World) -> None:
    world.server.fail("GET", "/v2/$", *[httpx.ConnectError("refused")] * 9)
    with pytest.raises(SystemUnavailable, match="5999"):
        run(world.ship())
    assert not world.api.faults


def test_a_full_registry_makes_no_release_and_the_same_command_goes_on(world: World) -> None:
    world.server.fail("PUT", "fastapi-backend/blobs/uploads", httpx.Response(507))
    with pytest.raises(SystemUnavailable, match="is full"):
        run(world.ship())
    assert not world.releases
    assert run(world.ship()).release.name
    assert len(world.releases) == 1


def test_a_region_that_lags_is_left_behind_and_the_release_is_available_in_the_others(world: World) -> None:
    lagging, down = FakeRegistry(), FakeRegistry(gate=lambda _: httpx.Response(503))
    replicas = {"westeurope": lagging, "southeastasia": down}
    shipped = run(world.ship(replicas))
    before = shipped.file.read_bytes()

    assert shipped.available.there == ("eastus",)
    states = {one.region: one.has.state for one in shipped.available.lacking}
    assert states == {"westeurope": State.LAGGING, "southeastasia": State.DOWN}
    assert where_available(shipped.release) == shipped.available
    image = shipped.release.images[0]
    assert f"{image.name}@{image.digest}" in shipped.available.lacking[0].has.missing
    assert not lagging.manifests  # nobody but replication writes there

    async def catch_up() -> None:
        async with world.registry() as home, client_of(lagging, 5001) as replica:
            await reconcile(home, replica)

    run(catch_up())
    again = run(world.ship(replicas))
    assert again.release == shipped.release and again.file.read_bytes() == before
    assert again.available.there == ("eastus", "westeurope")
    assert sum(one.bytes_sent for one in again.published) == 0


def test_an_interruption_while_regions_are_waited_for_leaves_a_release(world: World) -> None:
    asked = asyncio.Event()

    def gate(_: httpx.Request) -> None:
        asked.set()

    async def interrupted() -> None:
        task = asyncio.create_task(world.ship({"westeurope": FakeRegistry(gate=gate)}))
        await asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(interrupted())
    (file,) = world.releases
    assert where_available(read_release(file)) is None


def test_a_missing_trivy_is_said(world: World, tmp_path: Path) -> None:
    (tmp_path / "bin" / "trivy").unlink()
    with pytest.raises(ToolMissing, match="trivy"):
        run(world.ship())
    assert not world.server.manifests


@pytest.mark.parametrize("stage", ["export", "test", "push"])
def test_an_interruption_in_any_stage_leaves_nothing_half_and_the_same_command_goes_on(
    world: World, stage: str
) -> None:
    reached = asyncio.Event()

    async def hang() -> None:
        reached.set()
        await asyncio.sleep(60)

    async def interrupted() -> None:
        if stage == "export":
            world.api.on_export = hang
        elif stage == "test":
            world.api.on_test = hang
        else:
            world.server.slow = hang
        task = asyncio.create_task(world.ship())
        await reached.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        world.api.on_export = world.api.on_test = nothing
        world.server.slow = None

    run(interrupted())
    assert not world.releases
    images = places.cache() / "images"
    assert not list(images.rglob(".draft-*"))
    for archive in images.rglob("*.tar"):
        assert archive.read_bytes() != b"half of an image"
    assert run(world.ship()).release.name


def exec_error() -> dagger.ExecError:
    extensions = {
        "_type": "EXEC_ERROR",
        "cmd": ["pip", "install", "nothing"],
        "exitCode": 7,
        "stdout": "\n".join(f"line {n}" for n in range(100)),
        "stderr": "no such package",
    }
    value = QueryErrorValue(message="exit code: 7", extensions=extensions)
    error = dagger.QueryError([value], gql("{ version }"))
    assert isinstance(error, dagger.ExecError)
    return error


def test_a_failing_build_step_shows_its_last_lines(world: World) -> None:
    async def fail() -> None:
        raise exec_error()

    world.api.on_export = fail
    with pytest.raises(StepFailed) as caught:
        run(world.ship())
    text = str(caught.value)
    assert "building fastapi-backend: `pip install nothing` ended with exit code 7" in text
    assert "no such package" in text and "line 99" in text and "line 9\n" not in text
    assert not world.server.manifests


@pytest.mark.parametrize(
    ("error", "kind"),
    [(dagger.DaggerError("gone"), SystemUnavailable), (OSError(28, "No space left on device"), OSError)],
)
def test_an_engine_that_is_gone_is_said(world: World, error: Exception, kind: type[Exception]) -> None:
    async def fail() -> None:
        raise error

    world.api.on_export = fail
    with pytest.raises((kind, PipelineError)):
        run(world.ship())


def test_a_damaged_tarball_of_an_earlier_build_is_made_anew(world: World) -> None:
    def build() -> building.BuiltImage:
        return run(building.build_image(None, world.api, reporter=SilentReporter()))  # type: ignore[arg-type]

    first = build()
    whole = first.archive.read_bytes()
    first.archive.write_bytes(whole[:2000])
    again = build()
    assert not again.unchanged and again.archive.read_bytes() == whole
    assert build().unchanged


def test_only_the_last_few_tarballs_of_an_image_are_kept(world: World) -> None:
    for number in range(7):
        world.api.layers = (layer(a=str(number)),)
        run(building.build_image(None, world.api, reporter=SilentReporter()))  # type: ignore[arg-type]
    assert len(list((places.cache() / "images" / "fastapi-backend").glob("*.tar"))) == 4


def test_parts_can_be_run_alone(world: World) -> None:
    images: Any = (world.agent,)
    tested = run(testing.test(None, reporter=SilentReporter(), reports=world.root / "r", images=images))  # type: ignore[arg-type]
    assert [one.name for one in tested] == ["livekit-agent"]
    scanned = run(
        making.build_and_scan(None, reporter=SilentReporter(), reports=world.root / "r", images=images)  # type: ignore[arg-type]
    )
    assert [one.name for one in scanned] == ["livekit-agent", "chart"]

    assert not world.releases


def test_what_is_shown_and_the_json_say_the_same(world: World) -> None:
    shipped = run(world.ship())
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    console.print(shipping.show_shipped(shipped))
    text = console.export_text()
    assert "not scanned" in text and shipped.release.name in text
    document = json.loads(to_json(shipped))
    assert document["release"]["name"] == shipped.release.name
    assert document["scanned"][0]["summary"]["vulnerabilities"] is None
    assert document["published"][0]["bytes_sent"] > 0


# LiveKit's image, which is in no release -------------------------------------------------------------


@pytest.fixture
def publish(world: World, monkeypatch: pytest.MonkeyPatch) -> Callable[[], livekit.PublishedLiveKit]:
    image = FakeImage("livekit-server", (layer(livekit="1"),))
    monkeypatch.setattr(livekit, "LIVEKIT", image)

    async def flow() -> livekit.PublishedLiveKit:
        async with world.registry() as home:
            return await livekit.publish_livekit(
                None,  # type: ignore[arg-type]
                engine="fake",
                registries=EstateRegistries(home=home, regions={"eastus": home}, deadline=0.3),
                signer=world.key.signer,
                reporter=SilentReporter(),
                reports=world.root / "reports",
            )

    return lambda: run(flow())


def test_livekit_is_published_with_what_is_said_of_it_and_signed_once(
    world: World, publish: Callable[[], livekit.PublishedLiveKit]
) -> None:
    first = publish()
    after = dict(world.server.manifests)
    again = publish()

    assert first.reference == f"127.0.0.1:5999/livekit-server@{first.digest}" == again.reference
    assert (first.cached, again.cached) == (False, True) and world.server.manifests == after
    assert [one.has.state for one in first.regions] == [State.THERE]

    async def said() -> set[str]:
        async with world.registry() as registry:
            listed = await registry.referrers("livekit-server", first.digest)
            assert len(listed) == 5, "four documents and a signature"
            return {kind.value for kind in await attached(registry, "livekit-server", first.digest)}

    assert run(said()) == {"sbom", "scan", "provenance", "tests"}
    assert not world.releases


def test_a_livekit_that_the_policy_refuses_is_not_published(
    world: World, publish: Callable[[], livekit.PublishedLiveKit], tmp_path: Path
) -> None:
    write_tools(
        tmp_path / "bin",
        Secrets=[{"RuleID": "key", "Severity": "CRITICAL", "Title": "a key", "StartLine": 1}],
    )
    with pytest.raises(PolicyBlocked, match="livekit-server"):
        publish()
    assert not world.server.manifests


def test_livekit_is_made_by_one_half_and_published_by_the_other(
    world: World, publish: Callable[[], livekit.PublishedLiveKit], tmp_path: Path
) -> None:
    folder = tmp_path / "made"
    made = run(livekit.make_livekit(None, engine="fake", to=folder, reporter=SilentReporter()))  # type: ignore[arg-type]
    assert not world.server.asked

    async def second(digest: str) -> livekit.PublishedLiveKit:
        async with world.registry() as home:
            return await livekit.publish_made_livekit(
                folder,
                registries=EstateRegistries(home=home, regions={"eastus": home}, deadline=0.3),
                signer=world.key.signer,
                reporter=SilentReporter(),
                digest=digest,
            )

    assert run(second(made.digest)).digest == publish().digest
    with pytest.raises(BadInput, match="its digest is"):
        run(second("sha256:" + "0" * 64))
    with pytest.raises(BadInput, match="it has livekit-server; a release is"):
        run(world.publish(folder))
    run(world.make(folder))
    with pytest.raises(BadInput, match="it has fastapi-backend, livekit-agent"):
        run(second(digest_of((folder / "manifest.json").read_bytes())))
