"""Two folders that are not the same have one digest: the second pipeline builds what the first one had."""

from __future__ import annotations

from typing import TYPE_CHECKING

import dagger
import pytest

if TYPE_CHECKING:
    from conftest import Machine


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (("link", "x", "bc"), ("link", "xb", "c")),
        (("link", "../READM", "Elines.md"), ("link", "../README", "lines.md")),
    ],
)
def test_where_a_link_leads_is_not_the_next_name(
    machine: Machine, first: tuple[str, str, str], second: tuple[str, str, str]
) -> None:
    for folder, (link, target, name) in (("one", first), ("two", second)):
        (machine.work / folder).mkdir()
        (machine.work / folder / link).symlink_to(target)
        (machine.work / folder / name).write_text("the same")

    async def pipeline(client: dagger.Client, _: dagger.Container) -> list[list[str]]:
        return [await client.host().directory(each).entries() for each in ("one", "two")]

    assert machine.run(pipeline) == [sorted((first[0], first[2])), sorted((second[0], second[2]))]
