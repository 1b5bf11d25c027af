"""checkov itself on what is rendered: nothing found without a waiver, and no waiver that covers nothing."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from ci import dates, tools
from ci.architecture import model
from ci.azure import offline
from ci.azure.render import render
from ci.reporting import SilentReporter
from ci.yamlfile import load

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

TODAY = dates.today()


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, offline.Checked]:
    """What is found in each environment, by the checkov that the command brings along."""
    asyncio.run(tools.ensure(("checkov",), SilentReporter()))
    return {
        name: asyncio.run(
            offline.check_templates(
                render(model.read(name).architecture),
                model.folder() / "waivers.yaml",
                today=TODAY,
                checkov=tools.path("checkov"),
            )
        )
        for name in model.environments()
    }


@pytest.mark.timeout(300)
def test_no_finding_without_a_waiver(found: dict[str, offline.Checked]) -> None:
    for name, checked in found.items():
        assert checked.sources == ("ours", "schema", "checkov")
        assert [(one.id, one.resource, one.message) for one in checked.problems] == [], name


def test_no_waiver_without_a_finding(found: dict[str, offline.Checked]) -> None:
    waived = {one.id for checked in found.values() for one in checked.waived}
    assert {waiver["id"] for waiver in load(model.folder() / "waivers.yaml").data["waivers"]} == waived


@pytest.mark.timeout(120)
def test_checkov_really_looks(tmp_path: Path) -> None:
    # Without our waivers what they cover is found: the templates are read, and not silently skipped.
    none = tmp_path / "waivers.yaml"
    none.write_text("waivers: []\n")
    modules = render(model.read("dev").architecture)
    seen = asyncio.run(offline.check_templates(modules, none, today=TODAY, checkov=tools.path("checkov")))
    assert "CKV_AZURE_226" in {one.id for one in seen.problems if one.source == "checkov"}
