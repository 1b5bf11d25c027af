"""A workflow that may sign, on a branch that builds whatever it likes, names the trusted builder in its
provenance.

The environment trusts any workflow of the repository to sign, and one builder. The builder was an environment
variable of whoever signed: to be believed it was enough to set it.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from own_sigstore import IDENTITY, Sigstore, Workflow
from signed_world import World, signed, signed_world, verified

from ci.errors import PolicyBlocked

_TOPIC = "https://github.com/o/r/.github/workflows/topic.yml@refs/heads/topic"


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    made = signed_world(tmp_path, monkeypatch)
    sigstore = Sigstore()
    root = sigstore.write_root(tmp_path / "root.json")
    made.key, made.builder = Workflow(sigstore=sigstore, root=root, identity=_TOPIC), IDENTITY
    return made


def refused(world: World, said: str) -> None:
    error = verified(world, signed(world)).error
    assert isinstance(error, PolicyBlocked) and error.exit_code == 8
    assert said in str(error)


def test_a_topic_branch_that_claims_to_be_main_is_refused(world: World) -> None:
    refused(world, f"its builder is {IDENTITY}; the certificate that signed the release says {_TOPIC}")


def test_a_fork_that_calls_the_trusted_workflow_is_refused(world: World) -> None:
    """A reusable workflow signs under its own address, whoever calls it."""
    assert isinstance(world.key, Workflow)
    world.key = Workflow(
        sigstore=world.key.sigstore, root=world.key.root, claims={12: "https://github.com/mallory/fork"}
    )
    refused(world, "which https://github.com/mallory/fork called")


def test_another_commit_than_the_one_that_ran_is_refused(world: World) -> None:
    assert isinstance(world.key, Workflow)
    world.key = Workflow(sigstore=world.key.sigstore, root=world.key.root, claims={13: "d" * 40})
    refused(world, "its commit is cccc")


def test_the_workflow_itself_is_let_through(world: World) -> None:
    assert isinstance(world.key, Workflow)
    world.key = Workflow(sigstore=world.key.sigstore, root=world.key.root)
    assert verified(world, signed(world)).error is None
