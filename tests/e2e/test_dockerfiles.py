"""Directory.dockerBuild in a session of its own: what is in the context, and where a base comes from."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagger
import httpx
import pytest
from real_registry import free_port, registry_on
from tiny_image import write_tiny_image

from ci.engine import session
from ci.errors import PipelineError
from ci.reporting import SilentReporter

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(os.geteuid() != 0, reason="the embedded engine needs root"),
    pytest.mark.skipif(not shutil.which("buildah"), reason="needs buildah"),
]


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("VA_ENGINE", "embedded")
    monkeypatch.delenv("DAGGER_SESSION_PORT", raising=False)
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


def built(work: Path, **args: Any) -> list[str]:
    """What a build has in /in: paths of files."""

    async def main() -> list[str]:
        async with session(SilentReporter(), workdir=work) as (client, _):
            image = client.host().directory("context").docker_build(**args)
            return await image.directory("/in").glob("**/*")

    return sorted(name for name in asyncio.run(main()) if not name.endswith("/"))


def lay(work: Path, **files: str | bytes) -> None:
    for name, content in files.items():
        path = work / "context" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)


COPY_ALL = "FROM scratch\nCOPY . /in/\n"
FILES = {"keep.txt": "1", "src/a.py": "2", "src/deep/b.py": "3", "token.env": "4", "docs/notes.md": "5"}


@pytest.mark.parametrize(
    ("dockerfile", "ignores", "there"),
    [
        (
            "Dockerfile",
            {".dockerignore": "docs\n", "Dockerfile.dockerignore": "token.env\n*.dockerignore\nDockerfile"},
            ["docs/notes.md", "keep.txt", "src/a.py", "src/deep/b.py"],
        ),
        (
            "build/api.Dockerfile",
            {".dockerignore": "**", "build/api.Dockerfile.dockerignore": "**\n!src/deep\n"},
            ["src/deep/b.py"],
        ),
        (
            "Dockerfile",
            {".dockerignore": b"\xef\xbb\xbfsrc\r\n# keep.txt\r\n  docs  \r\n\r\n.*\r\nD*"},
            ["keep.txt", "token.env"],
        ),
        ("Dockerfile", {".dockerignore": "**/*\n! src/*.py\n", ".containerignore": "src\n"}, ["src/a.py"]),
        (
            "Dockerfile",
            {"other.Dockerfile.dockerignore": "**"},
            ["Dockerfile", *sorted(FILES), "other.Dockerfile.dockerignore"],
        ),
    ],
)  # fmt: skip
def test_the_ignore_file_of_a_dockerfile_wins(
    work: Path, dockerfile: str, ignores: dict[str, str | bytes], there: list[str]
) -> None:
    lay(work, **FILES, **ignores, **{dockerfile: COPY_ALL})

    assert built(work, dockerfile=dockerfile) == sorted(there)


def test_another_dockerfile_or_ignore_file_is_another_build(work: Path) -> None:
    lay(work, **FILES, Dockerfile=COPY_ALL, **{".dockerignore": "**\n!keep.txt"})
    assert built(work) == ["keep.txt"]
    lay(work, Dockerfile="FROM scratch\nCOPY keep.txt /in/other.txt\n")
    assert built(work) == ["other.txt"]
    lay(work, Dockerfile=COPY_ALL, **{".dockerignore": "**\n!token.env"})
    assert built(work) == ["token.env"]


@pytest.mark.parametrize(
    ("dockerfile", "said"),
    [
        (" \n", "Dockerfile is empty"),
        ("FROM scratch\nCOPI keep.txt /in/\n", "Dockerfile, line 2: COPI: no instruction of a Dockerfile"),
        ("FROM scratch\nCOPY none.txt /in/\n", "none.txt"),
    ],
)
def test_what_is_wrong_with_a_dockerfile_is_said_without_places_of_ours(
    work: Path, dockerfile: str, said: str
) -> None:
    lay(work, **FILES, Dockerfile=dockerfile)

    with pytest.raises(PipelineError, match=said) as error:
        built(work)
    assert str(work.parent / "cache") not in str(error.value)


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    if not shutil.which("docker-registry"):
        pytest.skip("needs docker-registry")
    with registry_on(tmp_path / "registry", free_port()) as endpoint:
        yield endpoint


def push_index(endpoint: str, folder: Path) -> None:
    """`base:1`: an index of an attestation, a Windows image and this machine's, in that order."""
    http = httpx.Client(base_url=f"http://{endpoint}/v2/base", trust_env=False)

    def blob(data: bytes) -> dict[str, Any]:
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        where = http.post("/blobs/uploads/").headers["Location"]
        http.put(f"{where}&digest={digest}", content=data).raise_for_status()
        return {"digest": digest, "size": len(data)}

    def manifest(body: dict[str, Any], name: str = "") -> dict[str, Any]:
        raw = json.dumps(body).encode()
        digest = f"sha256:{hashlib.sha256(raw).hexdigest()}"
        kind = body["mediaType"]
        http.put(
            f"/manifests/{name or digest}", content=raw, headers={"Content-Type": kind}
        ).raise_for_status()
        return {"mediaType": kind, "digest": digest, "size": len(raw)}

    with tarfile.open(write_tiny_image(folder / "tiny.tar")) as tar:
        blobs = {
            one.name.replace("blobs/sha256/", "sha256:"): tar.extractfile(one).read()
            for one in tar
            if one.isfile()
        }  # type: ignore[union-attr]
    (top,) = json.loads(blobs["index.json"])["manifests"]
    image = json.loads(blobs[top["digest"]])
    config = json.loads(blobs[image["config"]["digest"]])
    image["mediaType"] = "application/vnd.oci.image.manifest.v1+json"
    for layer in image["layers"]:
        blob(blobs[layer["digest"]])

    def of(system: str) -> dict[str, Any]:
        own = {"os": system, "architecture": "amd64", "config": {"Env": ["PATH=/bin", f"SYSTEM={system}"]}}
        changed = json.dumps(config | own).encode()
        return manifest(image | {"config": image["config"] | blob(changed)})

    there = [
        of("unknown") | {"platform": {"os": "unknown", "architecture": "unknown"}},
        of("windows") | {"platform": {"os": "windows", "architecture": "amd64", "os.version": "10.0.20348"}},
        of("linux") | {"platform": {"os": "linux", "architecture": "amd64"}},
    ]
    manifest(
        {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": there}, "1"
    )


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the index names amd64")
@pytest.mark.parametrize(
    ("dockerfile", "args"),
    [
        ("FROM --platform=linux/amd64 HOST/base:1\nCOPY keep.txt /in/\n", []),
        ("\ufeff# a comment\nARG REGISTRY\nfrom ${REGISTRY}/base:1 as one\n"
         "FROM scratch\nCOPY --from=one /etc/passwd /in/keep.txt\n",
         [("REGISTRY", "HOST")]),
        ("# escape=`\nARG R=HOST\nFROM `\n  # between\n  $R/base:1\nCOPY keep.txt /in/\n", []),
    ],
)  # fmt: skip
def test_a_base_comes_from_a_registry_of_this_machine_however_it_is_written(
    work: Path, registry: str, dockerfile: str, args: list[tuple[str, str]]
) -> None:
    push_index(registry, work)
    lay(work, **FILES, Dockerfile=dockerfile.replace("HOST", registry))
    pairs = [dagger.BuildArg(name, value.replace("HOST", registry)) for name, value in args]

    assert built(work, build_args=pairs) == ["keep.txt"]


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the index names amd64")
def test_the_image_of_this_platform_is_pulled(work: Path, registry: str) -> None:
    push_index(registry, work)

    async def main() -> str | None:
        async with session(SilentReporter(), workdir=work) as (client, _):
            image = client.container().from_(f"{registry}/base:1")
            assert "app:x:1000" in await image.file("/etc/passwd").contents()
            return await image.env_variable("SYSTEM")

    assert asyncio.run(main()) == "linux"
