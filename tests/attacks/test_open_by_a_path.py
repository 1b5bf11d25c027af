"""A line of ours opens a path of an image or a step, and follows its links: ci/below.py is the way in."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

_CHECKOUT = Path(__file__).parents[2]
_ROOMS = [*sorted((_CHECKOUT / "ci" / "engine").glob("*.py")), _CHECKOUT / "ci/build/testreports.py"]
_ROOMS += [_CHECKOUT / "pipelines/test.py"]
_METHODS = {
    *("open", "read_bytes", "read_text", "write_bytes", "write_text", "mkdir", "touch", "chmod", "lchown"),
    *("unlink", "symlink_to", "hardlink_to"),
}
_HARMLESS = {"copyfileobj", "disk_usage", "which"}
"""What shutil does with what is open already, or not at all."""

# What these open is this machine's own: of the kernel, of the caller, or work that nobody else has touched;
# or they open below a descriptor, or an Entry, which is the way in.
_ALLOWED = {
    "boundary.py": {"of", "_mapped"},
    "cache.py": {"_take_away", "lock", "remove"},
    "changes.py": {"_same", "change", "make", "copy"},
    "commands.py": {"_execute"},
    "contained.py": {"main", "contain", "can_show_other_owners", "_overlay"},
    "containers.py": {"read"},
    "dockerfiles.py": {"make", "_buildah", "_in_namespace"},
    "downloads.py": {"keep", "_write"},
    "files.py": {"write", "_lines"},
    "host.py": {"write", "_copy", "_export", "exported", "_is_folder", "clean", "file_export"},
    "launching.py": {"made", "_ca_bundle", "_unlink", "tidy"},
    "limits.py": {"bounded", "expect_a_move", "unbounded", "_count", "_value"},
    "network.py": {"resolv_conf", "make"},
    "patterns.py": {"_ignore_of"},
    "oci.py": {"read_archive", "_unpacked_layer", "layer_blob", "write_archive", "_opened", "opened"},
    "repositories.py": {"_access", "_copy_objects", "_refuse_what_leads_out"},
    "resolver.py": {"nameservers", "search_domains"},
    "run.py": {"_bounding", "_refused", "_feed", "copy_of_init"},
    "schema.py": {"_text"},
    "seccomp.py": {"_profile"},
    "secrets.py": {"_read"},
    "searching.py": {"_ignores", "_matches"},
    "server.py": {"embedded"},
    "services.py": {"open", "_start", "start"},  # networks, no files
    "store.py": {"__init__", "is_full", "scratch", "locked", "secret_key", "add_output", "output"},
    "tars.py": {"_plain", "make_whiteouts", "pack"},
    "tree.py": {"__init__", "open", "read", "write", "adopt", "copy", "_place", "content_digest", "_linked"},
    "images.py": {"_download"},
}


def _calls(file: Path) -> Iterator[tuple[str, str, int]]:
    """Function, what it calls to open, write or delete by a path, and the line."""

    def visit(node: ast.AST, function: str) -> Iterator[tuple[str, str, int]]:
        for child in ast.iter_child_nodes(node):
            inside = child.name if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) else function
            if isinstance(child, ast.Call):
                called = child.func
                if isinstance(called, ast.Name) and called.id == "open":
                    yield inside, "open", child.lineno
                elif isinstance(called, ast.Attribute):
                    of_shutil = isinstance(called.value, ast.Name) and called.value.id == "shutil"
                    if called.attr in _METHODS or (of_shutil and called.attr not in _HARMLESS):
                        yield inside, called.attr, child.lineno
            yield from visit(child, inside)

    yield from visit(ast.parse(file.read_text()), "")


@pytest.mark.parametrize("file", _ROOMS, ids=lambda file: file.name)
def test_nothing_else_opens_by_a_path(file: Path) -> None:
    allowed = _ALLOWED.get(file.name, set())
    found = [f"{file.name}:{line} {name}: {call}" for name, call, line in _calls(file) if name not in allowed]

    assert found == [], "open it by ci.below, or say in this test why its path is nobody else's"
