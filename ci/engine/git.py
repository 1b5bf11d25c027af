"""git, as the session runs it: what a server offers, its objects, and a commit's files.

Two kinds of runs. What asks a server runs as its user's own git does, so that whatever reaches a repository
in a shell reaches it here: credential helpers, SSH and its agent, proxies, `url.<base>.insteadOf`. All else
runs without any configuration, so that a commit's files are the same for everybody. Neither runs hooks, and
of a repository that a step may have made nothing is read but objects and references (`repositories.py`).
"""

from __future__ import annotations

import base64
import os
import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import httpx

from ci.concurrency import within
from ci.errors import BadInput, SystemUnavailable
from ci.process import Completed, run

__all__ = [
    "Access",
    "Offer",
    "Ref",
    "check_out",
    "fetch",
    "is_commit",
    "neutral",
    "offer",
    "submodules",
    "without_user",
]

_COMMIT = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")
_TEMPORARY = "refs/dagger.tmp"
_PLACES = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_NAMESPACE",
           "GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_COMMON_DIR", "GIT_CEILING_DIRECTORIES",
           "GIT_PREFIX", "GIT_TRACE", "GIT_TRACE2", "GIT_QUARANTINE_PATH")  # fmt: skip
"""Variables that lead git to another repository, or to other output."""
_QUIET = ("-c", "core.hooksPath=/dev/null", "-c", "gc.auto=0", "-c", "maintenance.auto=false", "-c",
          "fetch.writeCommitGraph=false", "-c", "core.fsmonitor=false", "-c", "core.logAllRefUpdates=false",
          "-c", "advice.detachedHead=false", "-c", "submodule.recurse=false",
          "-c", "http.followRedirects=false",
          "-c", "http.lowSpeedLimit=1000", "-c", "http.lowSpeedTime=60")  # fmt: skip
_LED_ON = re.compile(r"returned error: 30[12378]")
_UNREACHED = re.compile(
    r"could not resolve|connection (refused|timed out|reset)|failed to connect|couldn't connect|timed out"
    r"|network is unreachable|no route to host|operation too slow|early eof",
    re.IGNORECASE,
)
_UNKNOWN = re.compile(
    r"authentication failed|could not read (username|password)|permission denied|terminal prompts disabled"
    r"|returned error: 40[13]|host key verification failed",
    re.IGNORECASE,
)


@dataclass(frozen=True, kw_only=True)
class Access:
    """Where git finds a repository, and as who: a URL or a path of this machine, and what its user's own ways
    are not to be asked for."""

    url: str
    username: str = ""
    token: str = field(default="", repr=False)
    header: str = field(default="", repr=False)
    known_hosts: Path | None = None
    door: bool = False
    """Whether it is a service's, behind a port of the loopback: no proxy reaches that."""
    plain: bool = False
    """Whether it is ours: then no configuration of the user's is read."""


@dataclass(frozen=True, kw_only=True)
class Ref:
    """A name of a repository and the commit that it leads to; a commit by itself has no name."""

    name: str
    commit: str


@dataclass(frozen=True, kw_only=True)
class Offer:
    """What a repository says that it has, as `git ls-remote --symref` tells it."""

    refs: tuple[tuple[str, str], ...]
    """Names and commits, in the server's order; `^{}` after an annotated tag's name leads to its commit."""
    leads: Mapping[str, str]
    """Names that stand for others: HEAD for a branch."""

    def find(self, name: str) -> Ref:
        """As `git checkout` takes names: a commit, a full name, a branch, a tag. BadInput for none."""
        if is_commit(name):
            return Ref(name="", commit=name)
        known = dict(self.refs)
        bare = name.removeprefix("refs/")
        head, tag = f"refs/heads/{bare.removeprefix('heads/')}", f"refs/tags/{bare.removeprefix('tags/')}"
        for full in (name, f"refs/{bare}", head, tag):
            if full in known:
                commit = known.get(f"{full}^{{}}", known[full])
                return Ref(name=self.leads.get(full, full), commit=commit)
        raise BadInput(f"repository does not contain ref {name!r}")

    def named(self, kind: str, patterns: Iterable[str] | None) -> list[str]:
        """Names below `refs/heads/` or `refs/tags/` without that, that match a pattern, if there are some. A
        pattern fits at the end, and its `*` any letters, as in `git ls-remote`."""
        wanted = ["*/" + pattern.replace("[^", "[!") for pattern in patterns or ()] or ["*"]
        return [
            name.removeprefix(kind)
            for name, _ in self.refs
            if name.startswith(kind)
            and not name.endswith("^{}")
            and any(fnmatchcase(f"/{name}", pattern) for pattern in wanted)
        ]


def is_commit(text: str) -> bool:
    """Whether that is the whole hexadecimal name of a commit."""
    return _COMMIT.fullmatch(text) is not None


async def offer(access: Access) -> Offer:
    """What the repository has. BadInput where there is none, SystemUnavailable where nobody answers."""
    done = await _ask(access, "ls-remote", "--symref", "--", access.url)
    refs: list[tuple[str, str]] = []
    leads: dict[str, str] = {}
    for line in done.stdout.splitlines():
        what, found, name = line.partition("\t")
        if found and what.startswith("ref: "):
            leads[name] = what.removeprefix("ref: ")
        elif found and is_commit(what):
            refs.append((name, what))
    return Offer(refs=tuple(refs), leads=leads)


async def fetch(
    access: Access,
    folder: Path,
    commits: Iterable[str],
    *,
    depth: int = 0,
    tags: bool = False,
    files: bool = True,
) -> None:
    """Bring commits into the repository that `folder` is, which is made where it is none. Without `files`
    only the commits themselves, where the server can do that."""
    wanted = list(commits)
    if not (folder / "HEAD").exists():
        await neutral("init", "-q", "--template=", "--initial-branch=main", "--bare", folder=folder)
    options = ["-q", "-u", "--no-write-fetch-head", "--no-recurse-submodules", "--update-shallow"]
    options += ["--tags"] if tags else []
    options += [] if files else ["--filter=tree:0", "--no-tags"]
    shallow = [f"--depth={depth}"] if depth > 0 else []
    names = [f"{commit}:{_TEMPORARY}/{commit}" for commit in wanted]
    tries = [[*shallow, "--", access.url, *names], ["--", access.url, *names]] if shallow else []
    tries = tries or [["--", access.url, *names]]
    # A server need not give what has no name: then all that has one is fetched.
    tries.append(["--", access.url, f"+refs/*:{_TEMPORARY}/all/*"])
    for number, words in enumerate(tries, 1):
        try:
            await _ask(access, "--git-dir", str(folder), "fetch", *options, *words)
        except BadInput:
            if number == len(tries):
                raise
            continue
        break
    for commit in wanted:
        kind = await neutral("cat-file", "-t", commit, folder=folder, check=False)
        if kind.stdout.strip() != "commit":
            raise BadInput(f"{without_user(access.url)} has no commit {commit}")
    left = (await neutral("for-each-ref", "--format=delete %(refname)", _TEMPORARY, folder=folder)).stdout
    await neutral("update-ref", "--stdin", folder=folder, stdin=left)


async def check_out(access: Access, ref: Ref, folder: Path, *, depth: int, tags: bool, origin: str) -> None:
    """A commit's files into a folder that is empty, with the repository they are of as `.git`; HEAD is the
    branch, where there is one. Submodules are empty folders."""
    inner = folder / ".git"
    await fetch(access, inner, [ref.commit], depth=depth, tags=tags)
    await neutral("config", "core.bare", "false", folder=inner)
    if ref.name:
        await neutral("update-ref", ref.name, ref.commit, folder=inner)
    if ref.name.startswith("refs/heads/"):
        await neutral("symbolic-ref", "HEAD", ref.name, folder=inner)
    else:
        await neutral("update-ref", "--no-deref", "HEAD", ref.commit, folder=inner)
    await neutral("--work-tree", folder, "read-tree", "-u", "--reset", ref.commit, folder=inner, cwd=folder)
    # The index now has the inodes and times of these files: read anew, it is every clone's.
    await neutral("read-tree", ref.commit, folder=inner)
    if origin:
        await neutral("config", "remote.origin.url", origin, folder=inner)
        await neutral("config", "remote.origin.fetch", "+refs/heads/*:refs/remotes/origin/*", folder=inner)


async def submodules(folder: Path, commit: str) -> list[tuple[str, str, str]]:
    """Path, URL as written, and commit of each submodule of a commit in a repository."""
    listed = await neutral("ls-tree", "-r", "-z", commit, folder=folder)
    links = {
        path: head.split()[2]
        for head, _, path in (row.partition("\t") for row in listed.stdout.split("\0"))
        if head.startswith("160000 ")
    }
    if not links:
        return []
    told = await neutral(
        "config", "-z", "--list", "--blob", f"{commit}:.gitmodules", folder=folder, check=False
    )
    rows: dict[str, dict[str, str]] = {}
    for line in told.stdout.split("\0"):
        key, _, value = line.partition("\n")
        section, _, name = key.removeprefix("submodule.").rpartition(".")
        if key.startswith("submodule."):
            rows.setdefault(section, {})[name] = value
    urls = {row.get("path", ""): row.get("url", "") for row in rows.values()}
    return [(path, urls[path], sha) for path, sha in links.items() if urls.get(path)]


async def neutral(
    *words: str | Path,
    folder: Path | None = None,
    cwd: Path | None = None,
    index: Path | None = None,
    stdin: str = "",
    check: bool = True,
) -> Completed:
    """Run git on a repository of ours, with no configuration of anybody's; without one on none. It never
    looks for one: where it runs may be a step's folder, with a `.git` whose filters are programs."""
    env: dict[str, str | None] = {name: None for name in os.environ if name.startswith("GIT_")}
    env |= {
        "HOME": "/nonexistent",
        "XDG_CONFIG_HOME": "/nonexistent",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_ATTR_NOSYSTEM": "1",
        "GIT_DIR": str(folder or "/nonexistent"),
        "GIT_NO_LAZY_FETCH": "1",
        "GIT_INDEX_FILE": str(index) if index else None,
        "LC_ALL": "C",
    }
    done = await _run(*words, cwd=cwd or Path("/"), env=env, stdin=stdin)
    if check and done.code:
        raise BadInput(f"git: {_why(done)}")
    return done


async def _run(*words: str | Path, cwd: Path, env: dict[str, str | None], secrets: Iterable[str] = (),
               stdin: str | None = None) -> Completed:  # fmt: skip
    try:
        async with within(_SECONDS):
            return await run(
                *_BOUNDED, *_QUIET, *words, cwd=cwd, env=env, stdin=stdin, check=False, secrets=secrets,
                errors="surrogateescape",
            )  # fmt: skip
    except TimeoutError as error:
        raise SystemUnavailable(f"git did not end within {_SECONDS // 60} minutes and was ended") from error


_SECONDS = 3600
_BOUNDED = ("setpriv", "--pdeathsig", "KILL", "unshare", "--pid", "--fork", "--kill-child",
            "sh", "-c", f'umask 022; ulimit -v {16 << 20}; git "$@"; exit $?', "git")  # fmt: skip
"""What is checked out has the modes of a commit, whoever runs us. However a session ends, all that git
started ends with it; what it reads of a file without end fills 16 GiB at most."""


async def _ask(access: Access, *words: str) -> Completed:
    """Run git that asks a server, with its user's ways and no terminal."""
    if access.plain:
        return _told(access, await neutral(*words, check=False))
    env: dict[str, str | None] = dict.fromkeys(_PLACES)
    env |= {"GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"} | _header(access)
    if access.known_hosts:
        ssh = os.environ.get("GIT_SSH_COMMAND") or "ssh"
        env["GIT_SSH_COMMAND"] = f"{ssh} -o UserKnownHostsFile={shlex.quote(str(access.known_hosts))}"
    parts = urlsplit(access.url)
    done = await _run(
        *(("-c", "http.proxy=") if access.door else ()), *words, cwd=Path("/"), env=env,
        secrets=(access.token, access.header, parts.password or "", f"{parts.username}@"),
    )  # fmt: skip
    if done.code and _LED_ON.search(done.stderr):
        where = without_user(access.url)
        raise BadInput(
            f"git: {where} leads to {await _leads_to(access)}: git is not led on, which may be anywhere",
            hint="say the address where the repository is",
        )
    return _told(access, done)


async def _leads_to(access: Access) -> str:
    """Where a server says that a repository is, to one who says not who asks; nobody goes there."""
    tail = "/info/refs"
    try:
        async with httpx.AsyncClient(timeout=10, trust_env=not access.door) as client:
            url = httpx.URL(
                without_user(access.url).rstrip("/") + tail, params={"service": "git-upload-pack"}
            )
            async with client.stream("GET", url) as answer:
                found = url.join(answer.headers["Location"]).copy_with(query=None, userinfo=b"")
    except (httpx.HTTPError, httpx.InvalidURL, KeyError):
        return "another address"
    return str(found).removesuffix(tail)


def _header(access: Access) -> dict[str, str | None]:
    """A token or a header for the server of the URL alone, where no other process sees it."""
    parts = urlsplit(access.url)
    if parts.scheme not in ("http", "https") or not (access.token or access.header):
        return {}
    value = access.header
    if not value:
        user = access.username or ("x-token-auth" if parts.hostname == "bitbucket.org" else "x-access-token")
        value = "Basic " + base64.b64encode(f"{user}:{access.token}".encode()).decode()
    number = int(os.environ.get("GIT_CONFIG_COUNT") or 0)
    host = parts.netloc.rpartition("@")[2]
    return {
        "GIT_CONFIG_COUNT": str(number + 1),
        f"GIT_CONFIG_KEY_{number}": f"http.{parts.scheme}://{host}/.extraHeader",
        f"GIT_CONFIG_VALUE_{number}": f"Authorization: {value}",
    }


def _told(access: Access, done: Completed) -> Completed:
    if done.code == 0:
        return done
    why = _why(done)
    where = without_user(access.url)
    if _UNREACHED.search(done.stderr):
        raise SystemUnavailable(f"git does not reach {where}: {why}")
    hint = ""
    if _UNKNOWN.search(done.stderr):
        hint = f"`git ls-remote {where}` has to work for the user of the pipeline, or give http_auth_token"
    elif "dubious ownership" in done.stderr:
        hint = f"git config --global --add safe.directory {where}"
    raise BadInput(f"git: {where}: {why}", hint=hint)


def _why(done: Completed) -> str:
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    own = [line for line in lines if line.startswith(("fatal:", "ERROR:", "error:"))]
    return (own or lines[-1:] or [f"exit code {done.code}"])[0]


def without_user(url: str) -> str:
    """The URL without a password, and by http without a name, which may be a token: to be shown or written
    into a file."""
    parts = urlsplit(url)
    user, _, host = parts.netloc.rpartition("@")
    kept = "" if parts.scheme in ("http", "https") else user.partition(":")[0]
    return urlunsplit(parts._replace(netloc=f"{kept}@{host}" if kept else host)) if user else url
