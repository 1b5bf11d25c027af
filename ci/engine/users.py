"""Users of a container, by its own /etc/passwd and /etc/group."""

from __future__ import annotations

from ci.engine.tree import Tree
from ci.errors import BadInput

__all__ = ["group_id", "home", "ids"]

_MOST = 4 * 2**20
"""Bytes of /etc/passwd and of /etc/group: a step may write them."""
_IDS = 1 << 31


def _rows(tree: Tree, path: str) -> list[list[str]]:
    entry = tree.find(path)
    if entry is None or not entry.is_file:
        return []
    return [line.split(":") for line in tree.read(path, _MOST).decode(errors="replace").splitlines() if line]


def ids(tree: Tree, user: str) -> tuple[int, int, tuple[int, ...]]:
    """User, group and further groups of `user[:group]`, names by the container's /etc/passwd and
    /etc/group."""
    name, _, group = user.partition(":")
    row = next((row for row in _rows(tree, "/etc/passwd") if len(row) > 3 and name in (row[0], row[2])), None)
    if row is None and not name.isdecimal():
        raise BadInput(f"user {name!r} is not in the container's /etc/passwd")
    uid = _id(row[2] if row else name)
    gid = group_id(tree, group) if group else _id(row[3]) if row else 0
    if group or row is None:
        return uid, gid, (gid,)
    more = [
        _id(item[2]) for item in _rows(tree, "/etc/group") if len(item) > 3 and row[0] in item[3].split(",")
    ]
    return uid, gid, tuple(sorted({gid, *more}))


def group_id(tree: Tree, group: str) -> int:
    if group.isdecimal():
        return _id(group)
    row = next((row for row in _rows(tree, "/etc/group") if len(row) > 2 and row[0] == group), None)
    if row is None:
        raise BadInput(f"group {group!r} is not in the container's /etc/group")
    return _id(row[2])


def _id(text: str) -> int:
    if not text.isdecimal() or len(text) > 10 or int(text) >= _IDS:
        raise BadInput(
            f"{text[:100]!r} is no id of a user or group (in the container's /etc/passwd or /etc/group)"
        )
    return int(text)


def home(tree: Tree, uid: int) -> str:
    row = next((row for row in _rows(tree, "/etc/passwd") if len(row) > 5 and row[2] == str(uid)), None)
    return row[5] if row and row[5] else "/root" if uid == 0 else "/"
