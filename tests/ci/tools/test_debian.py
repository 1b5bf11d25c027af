from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from ci import tools
from ci.errors import ToolMissing
from ci.reporting import SilentReporter
from ci.tools import debian

Program = Callable[[str, str], Path]


def test_without_root_the_exact_line_for_all_packages_is_given(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)

    with pytest.raises(ToolMissing, match="not installed: prometheus, etcd") as caught:
        asyncio.run(tools.ensure(["prometheus", "etcd", "helm"], SilentReporter()))

    assert caught.value.hint == "sudo apt-get install --no-install-recommends etcd-server prometheus"


def test_services_are_kept_off_only_while_packages_are_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = tmp_path / "policy-rc.d"
    monkeypatch.setattr(debian, "_POLICY", policy)

    for _ in range(2):  # the second time one is there, left by a crash
        with debian._services_kept_off():
            assert policy.read_text().endswith("exit 101\n")
        assert not policy.exists()
        policy.write_text(debian._POLICY_TEXT)


def test_the_hosts_own_policy_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = tmp_path / "policy-rc.d"
    policy.write_text("#!/bin/sh\nexit 0\n")
    monkeypatch.setattr(debian, "_POLICY", policy)

    with debian._services_kept_off():
        assert policy.read_text() == "#!/bin/sh\nexit 0\n"

    assert policy.read_text() == "#!/bin/sh\nexit 0\n"
