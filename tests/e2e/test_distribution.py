"""Our stand-ins of registries against the conformance suite of the OCI distribution specification.

The suite is for registries. Here it is turned round: what the client is tested against behaves as the
specification says of what it claims, so that those tests mean something. Debian's docker-registry (2.8) is a
real one: its own deviations are named here, and what stands before it adds none.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import pytest
from anyio.from_thread import start_blocking_portal
from azure_registry import ADMIN, azure_registry
from fake_registry import FakeRegistry, app
from real_registry import free_port, registry_on

from ci import tools
from ci.reporting import SilentReporter
from ci.serving import serving

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]  # the first one may wait for other builds of Go
needs_registry = pytest.mark.skipif(
    shutil.which("docker-registry") is None, reason="docker-registry is not installed"
)

_NO_REFERRERS = ("API_REFERRER", "DATA_SUBJECT", "DATA_SUBJECT_MISSING", "DATA_SUBJECT_LIST")
_SHA256_ALONE = ("DATA_SHA512",)
_NO_TAGS_DELETED = ("API_TAGS_DELETE",)
"""docker-registry deletes manifests only; ACR deletes tags by an interface of its own."""

DEVIATIONS = {
    "sha256 blobs/chunked out-of-order",
    "sha256 blobs/chunked out-of-order and put chunk",
    "sha256 blobs/range requests",
    "non-distributable-layers/push",
    "non-distributable-layers/tag-list",
    "non-distributable-layers/head",
    "non-distributable-layers/pull",
    "invalid-digest-format/manifest-put",
    "invalid-digest-format/manifest-get",
}
"""Of docker-registry 2.8: it takes pieces of a blob out of order, breaks off at a range that is none, refuses
layers that are elsewhere, and answers 500 to a digest that is none."""

_PAGES = {"artifacts-with-subject/tag-list", "index-with-subject/tag-list"}
"""Nor does it know `last` of a list of tags, which the suite asks about where there are several."""


@pytest.fixture(scope="module")
def suite() -> Path:
    asyncio.run(tools.ensure(["oci-conformance"], SilentReporter()))
    return tools.path("oci-conformance")


def failures(suite: Path, folder: Path, endpoint: str, *off: str, **settings: str) -> set[str]:
    """What fails there, by the names of tests, two levels deep; most have passed."""
    env = {
        "PATH": os.defpath,
        "OCI_REGISTRY": endpoint,
        "OCI_TLS": "disabled",
        "OCI_RESULTS_DIR": str(folder / "results"),
        "OCI_VERSION": "1.1",
        **{f"OCI_{name}": "false" for name in off},
        **settings,
    }
    done = subprocess.run([suite], env=env, cwd=folder, capture_output=True, text=True, timeout=240)
    report = folder / "results" / "junit.xml"
    assert report.is_file(), done.stdout + done.stderr
    cases = [
        (case.get("name", ""), case.get("status")) for case in ElementTree.parse(report).iter("testcase")
    ]
    assert sum(status == "passed" for _, status in cases) > 200, done.stdout
    failed = {name for name, status in cases if status not in ("passed", "skipped", "disabled")}
    assert bool(failed) == bool(done.returncode), done.stdout
    return {"/".join(name.split("/")[1:3]) for name in failed}


@pytest.mark.parametrize("referrers", [True, False])
def test_the_registry_in_memory_is_one(suite: Path, tmp_path: Path, referrers: bool) -> None:
    registry = FakeRegistry(has_referrers=referrers)
    off = () if referrers else _NO_REFERRERS
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(serving(app(registry))) as port,
    ):
        found = failures(suite, tmp_path, f"127.0.0.1:{port}", *off, *_SHA256_ALONE, *_NO_TAGS_DELETED)
    assert found == set()


@needs_registry
def test_docker_registry_deviates_as_is_known(suite: Path, tmp_path: Path) -> None:
    with registry_on(tmp_path / "registry", free_port()) as endpoint:
        found = failures(suite, tmp_path, endpoint, *_NO_REFERRERS, *_SHA256_ALONE, *_NO_TAGS_DELETED)
    assert found == DEVIATIONS


@needs_registry
def test_what_stands_for_azure_adds_no_deviation(suite: Path, tmp_path: Path) -> None:
    with azure_registry(tmp_path / "acr") as server:
        server.scheme = "http"
        # Go takes credentials along to another port of the same host, which storage does not stand.
        server.data_endpoint = server.data_endpoint.replace("127.0.0.1", "localhost")
        who = {"OCI_USERNAME": ADMIN, "OCI_PASSWORD": server.password}
        found = failures(suite, tmp_path, server.endpoint, *_SHA256_ALONE, *_NO_TAGS_DELETED, **who)
    assert found <= DEVIATIONS | _PAGES
