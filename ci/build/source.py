"""The git checkout: which commit is built, whether it is clean, and which files belong to it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

from ci.errors import BadInput
from ci.process import run
from ci.release import Commit

__all__ = ["commits_between", "files", "read_commit", "source_date_epoch"]


async def read_commit(root: Path, *paths: str) -> Commit:
    """HEAD of the checkout at `root`, or the last commit that changed any of `paths`.

    It is dirty when a file there that git does not ignore differs from it. BadInput when `root` is no git
    checkout or has no such commit yet.
    """
    try:
        words = ("log", "-1", "--format=%H %ct", "HEAD", "--", *paths)
        shown = await run("git", "-C", root, *words, failure=BadInput)
        sha, _, seconds = shown.stdout.strip().partition(" ")
        time = datetime.fromtimestamp(int(seconds), UTC)
    except (BadInput, ValueError) as error:
        raise BadInput(
            f"{root} is not a git checkout with a commit in it",
            hint="a release names the commit it was built from: clone the project, or commit",
        ) from error
    words = ("status", "--porcelain", "--untracked-files=normal", "--", *paths)
    changed = await run("git", "-C", root, *words)
    return Commit(sha=sha, dirty=bool(changed.stdout.strip()), time=time)


def source_date_epoch(commit: Commit) -> int:
    """The commit's time in seconds: the one date that reproducible builds may put into what they make."""
    return int(commit.time.timestamp())


async def files(root: Path, under: str = ".") -> tuple[PurePosixPath, ...]:
    """The files below `root/under` that git tracks or would track, relative to `root`, sorted.

    These are the build context: never .git, never what .gitignore names, so nothing there spoils a cache.
    """
    words = ("ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", under)
    listed = await run("git", "-C", root, *words, failure=BadInput)
    names = {name for name in listed.stdout.split("\0") if name}
    return tuple(PurePosixPath(name) for name in sorted(names) if (root / name).is_file())


async def commits_between(root: Path, before: str, after: str) -> tuple[str, ...]:
    """`<short sha> <subject>` of the commits that `after` has and `before` has not, the newest first.

    None when this checkout does not know one of the two (a shallow clone, a rewritten history).
    """
    words = ("log", "--no-decorate", "--format=%h %s", f"{before}..{after}", "--")
    listed = await run("git", "-C", root, *words, check=False)
    return tuple(listed.stdout.splitlines()) if listed.code == 0 else ()
