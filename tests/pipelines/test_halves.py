"""The two halves of a ship, each for itself: what one leaves is all that the other gets."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from oci import layer, write_image
from ship_world import World, client_of, run, ship_world, write_tools

from ci import tools
from ci.errors import BadInput, PolicyBlocked, StepFailed, SystemUnavailable
from ci.registry import digest_of
from ci.release import Release
from ci.supply.attestations import Kind, attached
from ci.supply.handover import MANIFEST
from pipelines.make import Made

_RUN = "https://github.com/o/r/actions/runs/7/attempts/1"
_JOB = {
    "GITHUB_WORKFLOW_REF": "o/r/.github/workflows/release.yml@refs/heads/main",
    "GITHUB_REPOSITORY": "o/r", "GITHUB_REF": "refs/heads/main", "GITHUB_RUN_ID": "7",
    "GITHUB_RUN_ATTEMPT": "1", "GITHUB_JOB": "make", "RUNNER_ENVIRONMENT": "github-hosted",
}  # fmt: skip


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    for name in _JOB:
        monkeypatch.delenv(name, raising=False)
    return ship_world(tmp_path, monkeypatch)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "made"


def job(monkeypatch: pytest.MonkeyPatch, **change: str) -> None:
    for name, value in (_JOB | change).items():
        monkeypatch.setenv(name, value)


def provenances(world: World, release: Release) -> list[dict[str, Any]]:
    async def look() -> list[dict[str, Any]]:
        async with world.registry() as registry:
            found = [await attached(registry, image.name, image.digest) for image in release.images]
        return [json.loads(one[Kind.PROVENANCE].content)["predicate"] for one in found]

    return run(look())


def refused(world: World, made: Made, said: str, *, digest: str | None = None) -> BadInput:
    """The folder is refused with these words, and nothing was pushed."""
    before = (dict(world.server.manifests), dict(world.server.blobs))
    with pytest.raises(BadInput, match=said) as caught:
        run(world.publish(made.folder, digest))
    assert (world.server.manifests, world.server.blobs) == before and not world.releases
    assert caught.value.place is not None and caught.value.place.file.is_relative_to(made.folder)
    return caught.value


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    file = folder / MANIFEST
    document = json.loads(file.read_text())
    change(document)
    file.write_text(json.dumps(document))


def test_the_halves_make_the_release_that_the_whole_makes(world: World, folder: Path) -> None:
    made = run(world.make(folder))
    assert not world.server.asked and not world.releases, "the first half needs no registry"
    assert sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()) >= [
        "images/fastapi-backend.tar",
        "images/livekit-agent.tar",
        "manifest.json",
    ]
    done = run(world.publish(folder, made.digest))
    assert world.releases == [done.file] and done.available.there == ("eastus",)
    assert run(world.ship()).release == done.release


def test_the_second_half_needs_no_engine_no_scanner_and_no_helm(
    world: World, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = run(world.make(folder))
    asked: list[str] = []
    monkeypatch.setattr(tools, "path", lambda name: asked.append(name) or Path("/nowhere") / name)
    run(world.publish(folder, made.digest))
    assert set(asked) <= {"cosign"}


def test_both_halves_can_be_run_again(world: World, folder: Path) -> None:
    first, again = run(world.make(folder)), run(world.make(folder))
    assert first.digest == again.digest, "the manifest holds no time and no place"
    one, two = run(world.publish(folder)), run(world.publish(folder))
    assert one.release == two.release and all(signed.cached for signed in two.signed)
    assert sum(each.bytes_sent for each in two.published) == 0


def test_a_second_half_that_was_cut_off_goes_on(world: World, folder: Path) -> None:
    made = run(world.make(folder))
    world.server.fail("PUT", "livekit-agent/manifests", *[httpx.Response(503)] * 9)
    with pytest.raises(SystemUnavailable):
        run(world.publish(folder, made.digest))
    assert not world.releases
    assert run(world.publish(folder, made.digest)).release.name


def test_a_first_half_that_was_cut_off_leaves_nothing_to_publish(world: World, folder: Path) -> None:
    run(world.make(folder))
    reached = asyncio.Event()

    async def hang() -> None:
        reached.set()
        await asyncio.sleep(60)

    async def interrupted() -> None:
        world.api.on_export = hang
        task = asyncio.create_task(world.make(folder))
        await reached.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(interrupted())
    with pytest.raises(BadInput, match=r"manifest\.json: it is not there: what was made is not whole"):
        run(world.publish(folder))


def test_what_the_tests_or_the_policy_refuse_leaves_nothing_to_publish(
    world: World, folder: Path, tmp_path: Path
) -> None:
    run(world.make(folder))
    secret = {"RuleID": "github-pat", "Severity": "LOW", "Title": "a token", "StartLine": 3}
    write_tools(tmp_path / "bin", Target="/app/.env", Class="secret", Secrets=[secret])
    world.api.layers = (layer(another="1"),)
    with pytest.raises(PolicyBlocked):
        run(world.make(folder))
    assert (folder / "reports/fastapi-backend/findings.sarif").is_file(), "its findings are looked for then"
    assert not (folder / MANIFEST).exists()
    world.api.cases = '<testcase name="a"><failure message="no"/></testcase>'
    with pytest.raises(StepFailed):
        run(world.make(folder))
    assert not (folder / MANIFEST).exists()


def test_the_policy_of_the_second_half_is_its_own(world: World, folder: Path) -> None:
    run(world.make(folder))
    stricter = (world.root / "policy.yaml").read_text() + "allow: []\nsbom: {}\n"
    (world.root / "policy.yaml").write_text(stricter)
    with pytest.raises(BadInput, match=r"policy\.yaml"):
        run(world.publish(folder))
    assert not world.server.manifests


def test_provenance_says_which_job_made_what(
    world: World, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job(monkeypatch)
    made = run(world.make(folder))
    job(monkeypatch, GITHUB_JOB="publish", GITHUB_RUN_ATTEMPT="2")
    for said in provenances(world, run(world.publish(folder, made.digest)).release):
        assert said["runDetails"] == {
            "builder": {"id": "https://github.com/o/r/.github/workflows/release.yml@refs/heads/main"},
            "metadata": {"invocationId": _RUN},
        }
        build = said["buildDefinition"]
        assert build["internalParameters"] == {
            "engine": "fake",
            "runner": "github-hosted",
            "made": {
                "by": "https://github.com/o/r/.github/workflows/release.yml@refs/heads/main",
                "job": "make",
                "run": _RUN,
            },
        }
        assert build["resolvedDependencies"][1] == {
            "name": "manifest.json",
            "digest": {"sha256": made.digest.removeprefix("sha256:")},
        }


def test_provenance_of_a_workstation_names_no_run(world: World, folder: Path) -> None:
    run(world.make(folder))
    (said, _) = provenances(world, run(world.publish(folder)).release)
    assert said["runDetails"] == {"builder": {"id": "urn:voice-assistant:workstation"}}
    assert said["buildDefinition"]["internalParameters"]["made"] == {"by": "urn:voice-assistant:workstation"}


@pytest.mark.parametrize("change", [{"GITHUB_RUN_ID": "8"}, {"GITHUB_REPOSITORY": "x/r"}])
def test_a_job_publishes_only_what_its_own_run_made(
    world: World, folder: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, str]
) -> None:
    job(monkeypatch)
    made = run(world.make(folder))
    job(monkeypatch, **change)
    refused(world, made, r"manifest.json \(maker\): it was made by .*runs/7/attempts/1; this is ")


def test_a_job_does_not_publish_what_a_workstation_made(
    world: World, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = run(world.make(folder))
    job(monkeypatch)
    refused(world, made, "it was made by urn:voice-assistant:workstation")


def test_a_folder_of_another_commit_is_refused(world: World, folder: Path) -> None:
    made = run(world.make(folder))
    subprocess.run(["git", "-C", world.root, "commit", "-q", "--allow-empty", "-m", "next"], check=True)
    refused(world, made, r"manifest.json \(commit\): it was made of commit [0-9a-f]{40}; this checkout is at")


def test_a_chart_that_is_not_the_one_that_was_scanned_is_refused(world: World, folder: Path) -> None:
    made = run(world.make(folder))
    (world.root / "helm/voice-assistant/values.yaml").write_text("a: 1\n")
    refused(world, made, r"manifest.json \(chart\): its chart is sha256:.*; this checkout's is")


def test_changes_in_no_commit_are_told_of_whichever_half_saw_them(world: World, folder: Path) -> None:
    run(world.make(folder))
    (world.root / "notes").write_text("x")
    assert run(world.publish(folder)).release.commit.dirty
    (world.root / "notes").unlink()
    assert not run(world.publish(folder)).release.commit.dirty


def test_a_manifest_with_another_digest_is_refused(world: World, folder: Path) -> None:
    made, digest = run(world.make(folder)), "sha256:" + "0" * 64
    error = refused(world, made, f"its digest is {made.digest}, not {digest}", digest=digest)
    assert "va make says the digest" in error.hint


def test_whoever_writes_into_the_folder_does_not_write_into_the_cache(world: World, folder: Path) -> None:
    made = run(world.make(folder))
    (folder / "images/fastapi-backend.tar").write_bytes(b"")
    refused(world, made, r"fastapi-backend\.tar: it has 0 bytes")
    again = run(world.make(folder))
    assert again.digest == made.digest and run(world.publish(folder, made.digest)).release.name


def test_a_tarball_that_cannot_be_linked_is_copied(
    world: World, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    made = run(world.make(folder, linked=True))
    assert run(world.publish(folder, made.digest)).release.name


def replaced(folder: Path, **how: Any) -> None:
    """Exchange the api's tarball, and have the manifest name what is there now."""
    file = folder / "images/fastapi-backend.tar"
    file.unlink()
    digest = write_image(file, layer(a="evil"), **how)

    def change(said: dict[str, Any]) -> None:
        findings = folder / "reports/fastapi-backend/findings.json"
        document = json.loads(findings.read_text()) | {"subject": digest}
        findings.write_text(json.dumps(document))
        said["images"][0].update(digest=digest, archive=file.stat().st_size)
        content = findings.read_bytes()
        said["images"][0]["findings"] = {"digest": digest_of(content), "size": len(content)}

    edit(folder, change)


def test_whoever_rewrites_the_whole_folder_is_found_by_the_digest_from_elsewhere(
    world: World, folder: Path
) -> None:
    made = run(world.make(folder))
    replaced(folder)
    refused(world, made, "its digest is sha256:", digest=made.digest)


def test_an_index_of_one_image_is_an_image(world: World, folder: Path) -> None:
    run(world.make(folder))
    replaced(folder, nested=True)
    assert run(world.publish(folder)).release.name


def test_a_registry_is_not_asked_before_the_folder_was_read(world: World, folder: Path) -> None:
    made = run(world.make(folder))
    (folder / "images/livekit-agent.tar").write_bytes(b"")
    refused(world, made, "images/livekit-agent.tar: it has 0 bytes")
    assert not world.server.asked
    assert client_of(world.server, 1)
