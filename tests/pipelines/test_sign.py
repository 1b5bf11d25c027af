"""Signing a published release and verifying it: real registries' protocol, keys and documents, no cosign."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from oci import layer, write_image
from own_sigstore import IDENTITY, ISSUER, Sigstore, Workflow
from rich.console import Console
from signed_world import COMMIT, ENDPOINTS, World, signed, signed_world, verified
from signing_key import Key

from ci.environments import Environment
from ci.errors import BadInput, PolicyBlocked, SystemUnavailable
from ci.registry import Bundle, open_archive, parse_manifest, push
from ci.release import Release
from ci.reporting import SilentReporter
from ci.supply.attestations import RELEASE_TYPE, release_bundle, scan_report
from ci.supply.signing import signature
from pipelines.sign import sign_release, signer_of
from pipelines.verify import show_verification, verify


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return signed_world(tmp_path, monkeypatch)


def refusal(world: World, release: Release) -> str:
    error = verified(world, release).error
    assert isinstance(error, PolicyBlocked)
    return str(error)


def test_every_registry_has_every_signature_and_nothing_is_signed_twice(world: World) -> None:
    async def main() -> None:
        release = await world.publish()
        first = await world.sign(release)
        assert [one.name for one in first] == ["api", "voice", "releases"]
        assert [one.subject for one in first] == world.calls
        assert world.calls[-1] == release_bundle(release).digest  # last: who has it has all
        again = await world.sign(release)
        assert all(one.cached for one in again)
        assert [one.digest for one in again] == [one.digest for one in first]
        assert len(world.calls) == 3
        assert (await verify(release, [world.prod])).error is None

    asyncio.run(main())


def test_a_region_without_the_signatures_is_refused_until_replication_brings_them(world: World) -> None:
    async def main() -> None:
        release = await world.publish()
        async with world.registry(ENDPOINTS[0]) as home:
            await sign_release(home, release, signer=world.key.signer, reporter=SilentReporter())
        said = str((await verify(release, [world.prod])).error)
        assert "is not signed" in said and ENDPOINTS[1] in said and ENDPOINTS[0] not in said
        await world.sign(release)
        assert len(world.calls) == 3
        assert (await verify(release, [world.prod])).error is None

    asyncio.run(main())


def test_a_signature_that_was_left_off_its_subjects_list_is_put_on_it(world: World) -> None:
    async def main() -> None:
        release = await world.publish()
        await world.sign(release)
        home = world.servers[ENDPOINTS[0]]
        home.manifests = {at: what for at, what in home.manifests.items() if not at[1].startswith("sha256-")}
        await world.sign(release)
        (image,) = release.images
        async with world.registry(ENDPOINTS[0]) as registry:
            assert len(await registry.referrers("api", image.digest)) == 1

    asyncio.run(main())


def test_livekits_server_is_held_to_a_signature_too(world: World) -> None:
    release = signed(world)
    write_image(world.folder / "livekit.tar", layer(b="2"))
    image = open_archive(world.folder / "livekit.tar")

    def beside(repository: str) -> Environment:
        server = {"enabled": True, "image": {"repository": repository, "digest": image.digest}}
        targets = {"eastus": world.prod.targets["eastus"]}
        return world.prod.model_copy(update={"values": {"livekit": {"server": server}}, "targets": targets})

    async def put(*bundles: Bundle) -> None:
        async with world.registry(ENDPOINTS[0]) as registry:
            for bundle in bundles:
                await push(registry, "livekit-server", bundle)

    ours = beside(f"{ENDPOINTS[0]}/livekit-server")
    assert "livekit-server" in str(verified(world, release, ours).error)  # not even there
    asyncio.run(put(image))
    assert "livekit-server: " in (said := str(verified(world, release, ours).error)) and "not signed" in said
    asyncio.run(put(signature(world.key.bundle(image.digest), image.root.descriptor)))
    assert verified(world, release, ours).error is None
    foreign = beside("docker.io/livekit/livekit-server")
    assert "not named by digest in this registry" in str(verified(world, release, foreign).error)


def test_the_table_says_it_for_every_registry(world: World) -> None:
    release = signed(world)
    result = verified(world, release)
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    console.print(show_verification(result))
    text = console.export_text()
    assert "verified in every registry" in text and text.count("✓") == 2 * (3 + 4)
    assert (
        isinstance(world.key, Key)
        and f"by the key {world.key.id} (cosign.pub)" in text
        and "3 passed" in text
    )


def test_an_unsigned_release_is_refused_once_for_each_thing_that_is_not_signed(world: World) -> None:
    release = asyncio.run(world.publish())
    said = refusal(world, release)
    for name in ("releases", "voice", "api"):
        assert f": {name}@" in said
    assert said.count("is not signed") == 3 and "va ship" in verified(world, release).error.hint  # type: ignore[union-attr]


def test_a_signature_of_another_key_is_refused(world: World) -> None:
    release = signed(world)
    world.key = Key(world.folder / "another.pub")
    assert f"it is not by the key {world.folder}/another.pub" in refusal(world, release)


def test_a_release_can_be_signed_by_nobodys_key(world: World) -> None:
    world.key, world.builder = Workflow(sigstore=Sigstore(), root=world.folder / "root.json"), IDENTITY
    world.key.sigstore.write_root(world.key.root)
    release = signed(world)

    result = verified(world, release)

    assert result.error is None
    signatures = [check for place in result.places for check in place.checks if check.what == "signature"]
    assert {check.said for check in signatures} == {f"by {IDENTITY} (issuer {ISSUER})"}
    assert len(signatures) == 6  # release, chart and image, in two registries

    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    console.print(show_verification(result))
    # The end of an identity tells main from a topic: it is never cut.
    assert "…" not in console.export_text()

    fork = Workflow(sigstore=world.key.sigstore, root=world.key.root, identity=IDENTITY.replace("/o/", "/x/"))
    world.key = fork
    assert f"it is by {IDENTITY} (issuer {ISSUER}), not by {fork.identity}" in refusal(world, release)


def test_each_environment_is_asked_by_what_it_trusts(world: World) -> None:
    release = signed(world)
    strict = world.prod.model_copy(update={"name": "strict"})
    other = Key(world.folder / "other.pub")
    strict = strict.model_copy(
        update={"trust": strict.trust.model_copy(update={"signers": (other.trusted,)})}
    )

    result = verified(world, release, world.prod, strict)

    assert sorted((place.endpoint, place.environments) for place in result.places) == sorted(
        (at, (name,)) for at in ENDPOINTS for name in ("prod", "strict")
    )
    refused = {place.environments for place in result.places if not all(c.passes for c in place.checks)}
    assert refused == {("strict",)}


def test_an_altered_release_file_is_refused(world: World) -> None:
    release = signed(world)
    forged = release.model_copy(update={"commit": COMMIT.model_copy(update={"sha": "d" * 40})})
    assert "is not there: it was not published there, or its file was altered since" in refusal(world, forged)


def test_an_altered_image_is_refused(world: World) -> None:
    release = signed(world)
    (image,) = release.images

    async def alter() -> Release:
        async with world.registry(ENDPOINTS[0]) as registry:
            original = json.loads((await registry.manifest("api", image.digest)).raw)
            altered = parse_manifest(json.dumps({**original, "annotations": {"x": "y"}}).encode())
            await registry.put_manifest("api", altered, release.name)  # the tag is replaced too
        other = image.model_copy(update={"digest": altered.descriptor.digest})
        return release.model_copy(update={"images": (other,)})

    said = refusal(world, asyncio.run(alter()))
    assert f"{image.name}@" in said and "is not signed" in said and "provenance" not in said
    # What the release names is not touched by a tag that points elsewhere.
    assert verified(world, release).error is None


def test_a_forged_release_artifact_is_not_signed_though_it_is_there(world: World) -> None:
    release = signed(world)
    forged = release.model_copy(update={"images": release.images * 2})

    async def put() -> None:
        for endpoint in ENDPOINTS:
            async with world.registry(endpoint) as registry:
                await push(registry, "releases", release_bundle(forged), tags=[release.name])

    asyncio.run(put())
    assert f"releases@{release_bundle(forged).digest} is not signed" in refusal(world, forged)
    assert release_bundle(forged).root.artifact_type == RELEASE_TYPE


def test_a_document_that_the_registry_lost_is_named(world: World) -> None:
    release = signed(world)
    digest = release.images[0].attestations["provenance"]
    del world.servers[ENDPOINTS[0]].manifests["api", digest]
    said = refusal(world, release)
    assert f"provenance of api: the registry lacks {digest}, which the release names ({ENDPOINTS[0]})" in said


def test_a_document_that_someone_else_attached_is_not_read(world: World) -> None:
    release = signed(world)
    (image,) = release.images

    async def attach() -> None:
        async with world.registry(ENDPOINTS[0]) as registry:
            subject = (await registry.manifest("api", image.digest)).descriptor
            await push(registry, "api", scan_report(b'{"all": "well"}').bundle(subject))

    asyncio.run(attach())
    assert verified(world, release).error is None


def test_what_the_policy_blocks_today_is_refused(world: World) -> None:
    release = signed(world, "private-key")
    assert "scan of api: the scan policy refuses it: LOW secret private-key" in refusal(world, release)


def test_bytes_that_are_not_those_of_their_digest_are_no_verdict(world: World) -> None:
    release = signed(world)
    server = world.servers[ENDPOINTS[0]]
    kind, content = server.manifests["api", release.images[0].digest]
    server.manifests["api", release.images[0].digest] = (kind, content.replace(b"amd64", b"arm64") + b" ")
    with pytest.raises(SystemUnavailable, match="bytes with the digest"):
        verified(world, release)


@pytest.mark.parametrize("setting", ["", "mine", "awskms://x/y"])
def test_nothing_else_can_be_signed_with(setting: str) -> None:
    with pytest.raises(BadInput, match="is nothing to sign with"):
        asyncio.run(signer_of(setting, "local"))


def test_the_platforms_key_is_used_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VA_STATE", str(tmp_path))
    with pytest.raises(BadInput, match=r"no signing key .*platform/signing/cosign\.key"):
        asyncio.run(signer_of("local", "local"))
