"""The git checkout: which commit is built, whether it is clean, and which files belong to it.

Asked by plumbing commands alone, with none of the user's settings (but whom git may trust: `safe.directory`)
and none of the environment's: two people who build one commit get the same answers, and no program of theirs
runs, but for the filters that the checkout itself has set up (as git-lfs does): no file of them is to be
compared without.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

from ci.errors import BadInput
from ci.process import Completed, run
from ci.release import Commit

__all__ = ["commits_between", "files", "read_commit"]

_SETTINGS = (
    # What a file of the repository may set, and git's own files in the home folder do without being named.
    "core.fsmonitor=false",
    "core.hooksPath=/dev/null",
    "core.excludesFile=/dev/null",
    "core.attributesFile=/dev/null",
    "core.abbrev=auto",
    # A checkout that lay on another file system has it off; modes are part of what is built.
    "core.fileMode=true",
)

_REFUSED = 128
"""How git ends when it does not trust a checkout, among other things."""


async def read_commit(root: Path, *paths: str) -> Commit:
    """HEAD of the checkout at `root`, or the last commit that changed any of `paths`.

    It is dirty when a file there that git does not ignore differs from it, or may: git was told not to look
    at it (`assume-unchanged`), or that it need not be there (a sparse checkout). What is inside of submodules
    is not looked at, since it is in no build. BadInput, in git's own words, when `root` is no git checkout,
    has no such commit yet, or belongs to somebody whom git does not trust.
    """
    shown = await _git(root, "rev-list", "--max-count=1", "--timestamp", "HEAD", "--", *paths)
    seconds, _, sha = shown.stdout.strip().partition(" ")
    if shown.code or not sha:
        raise await _no_commit(root, paths)
    words = ("--porcelain", "-z", "--untracked-files=normal", "--ignore-submodules=dirty", "--no-renames")
    changed = await _git(root, "status", *words, "--", *paths)
    if changed.code:
        raise _refused(root, changed)
    listed = await _git(root, "ls-files", "-v", "-z", "--cached", "--", *paths)
    if listed.code:
        raise _refused(root, listed)
    unseen = any(row.startswith("S") or row[:1].islower() for row in listed.stdout.split("\0"))
    time = datetime.fromtimestamp(int(seconds), UTC)
    return Commit(sha=sha, dirty=bool(changed.stdout) or unseen, time=time)


async def files(root: Path, under: str = ".") -> tuple[PurePosixPath, ...]:
    """The files below `root/under` that git tracks or would track, relative to `root`, sorted.

    These are the build context: never .git, never what .gitignore names, so nothing there spoils a cache.
    BadInput in git's own words.
    """
    listed = await _git(root, "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", under)
    if listed.code:
        raise _refused(root, listed)
    names = {name for name in listed.stdout.split("\0") if name}
    return tuple(PurePosixPath(name) for name in sorted(names) if _is_file(root / name))


async def commits_between(root: Path, before: str, after: str) -> tuple[str, ...]:
    """`<short sha> <subject>` of the commits that `after` has and `before` has not, the newest first.

    None when this checkout does not know one of the two (a shallow clone, a rewritten history).
    """
    words = ("--no-commit-header", "--format=%h %s", "--encoding=UTF-8", f"{before}..{after}")
    listed = await _git(root, "rev-list", *words, "--")
    return tuple(listed.stdout.splitlines()) if listed.code == 0 else ()


def _is_file(path: Path) -> bool:
    """Whether git keeps it as one: a link is, wherever it leads."""
    return path.is_symlink() or path.is_file()


async def _git(root: Path, *words: str) -> Completed:
    """What git says, whatever its exit code. Names that are no UTF-8 are as Python's paths have them."""
    cleared = {name: None for name in os.environ if name.startswith("GIT_")}
    alone = {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_NO_REPLACE_OBJECTS": "1"}

    async def asked(*settings: str) -> Completed:
        return await run(
            *("git", "--no-optional-locks", "--literal-pathspecs", "-C", root),
            *(word for one in (*_SETTINGS, *settings) for word in ("-c", one)),
            *words,
            env={**cleared, **alone, "LC_ALL": "C"},
            errors="surrogateescape",
            check=False,
        )

    done = await asked()
    if done.code != _REFUSED:
        return done
    # git trusts nothing that the repository itself says of this; what the user says has to hold.
    trusted = await run(
        "git", "-C", "/", "config", "-z", "--get-all", "safe.directory", env=cleared, check=False
    )
    if not (settings := [f"safe.directory={one}" for one in trusted.stdout.split("\0")[:-1]]):
        return done
    return await asked(*settings)


async def _no_commit(root: Path, paths: tuple[str, ...]) -> BadInput:
    found = await _git(root, "rev-parse", "--verify", "HEAD^{commit}")
    if found.code == 0:
        return BadInput(
            f"{root} has no commit that changed {', '.join(paths)}",
            hint="a release names the commit it was built from: commit",
        )
    place = await _git(root, "rev-parse", "--git-dir")
    if place.code:
        return _refused(root, place)
    return BadInput(
        f"{root} is not a git checkout with a commit in it: nothing was committed yet",
        hint="a release names the commit it was built from: commit",
    )


def _refused(root: Path, done: Completed) -> BadInput:
    """git's own words: the first line says what is wrong, those that follow what to do about it."""
    first, *more = [line.strip() for line in done.stderr.splitlines() if line.strip()] or ["it said nothing"]
    return BadInput(
        f"{root} is not a git checkout with a commit in it: git says: {first.removeprefix('fatal: ')}",
        hint=" ".join(more) or "a release names the commit it was built from: clone the project, or commit",
    )
