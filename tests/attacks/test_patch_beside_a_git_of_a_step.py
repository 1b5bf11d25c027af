"""A step leaves a `.git` whose configuration names programs: a patch beside it would run them, as root."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import dagger

if TYPE_CHECKING:
    from conftest import Machine

_PATCH = "--- a/f\n+++ b/f\n@@ -1 +1 @@\n-one\n+two\n"


def test_a_patch_runs_no_filter_of_a_step(machine: Machine, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    config = (
        f'[core]\n\tfsmonitor = touch {ran}\n\thooksPath = hooks\n\tpager = touch {ran}\n[filter "e"]\n'
        f'\tsmudge = tee {ran}\n\tclean = tee {ran}\n\trequired = true\n[diff "e"]\n'
        f"\ttextconv = tee {ran}\n\tcommand = touch {ran}\n"
    )
    script = f"""
mkdir -p /d/.git/objects /d/.git/refs /d/below
echo 'ref: refs/heads/main' > /d/.git/HEAD
cat > /d/.git/config <<'END'
{config}
END
echo '* filter=e diff=e' > /d/.gitattributes
echo one > /d/f; echo one > /d/below/f
"""

    async def pipeline(client: dagger.Client, base: dagger.Container) -> list[str]:
        made = base.with_exec(["sh", "-c", script]).directory("/d")
        file = client.directory().with_new_file("p", _PATCH).file("p")
        patched = made.with_patch(_PATCH)
        changes = patched.changes(made)
        await changes.as_patch().contents()
        return [
            await patched.file("f").contents(),
            await made.with_patch_file(file).file("f").contents(),
            await made.with_patch(_PATCH.replace("/f", "/below/f")).file("below/f").contents(),
        ]

    assert machine.run(pipeline) == ["two\n"] * 3
    assert not ran.exists()
