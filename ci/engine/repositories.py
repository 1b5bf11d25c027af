"""Answers of GitRepository and GitRef: repositories of URLs, of paths of this machine, and of directories.

A branch is asked for once a session, and what is kept is kept by commit. A directory may be a step's: its
`.git` is never used as one, as its configuration would run programs here. Its objects and references alone
are copied, into a repository of ours, whose packs git indexes itself.
"""

from __future__ import annotations

import asyncio
import posixpath
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit, urlunsplit

from ci.engine import git
from ci.engine.chain import Call
from ci.engine.changes import Changeset, altered
from ci.engine.engine import Engine, NotSupported, answer
from ci.engine.files import copied_directory
from ci.engine.git import Access, Offer, Ref
from ci.engine.network import refuse_metadata
from ci.engine.secrets import plaintext
from ci.engine.store import digest_of, full_disk_is_told
from ci.engine.tree import Entry, Layer, Tree
from ci.engine.values import Directory, Secret, Service
from ci.errors import BadInput

__all__ = ["Commit", "Repository"]

_PORTS = {"http": 80, "https": 443, "ssh": 22, "git": 9418}
_BY_SSH = re.compile(r"[\w.-]+@[\w.-]+:.*")
_GITLINK = re.compile(r"gitdir: (.+?)\s*")
_MOST_REFERENCES = 64 << 20
_DEEPEST = 8
"""Submodules in submodules."""
_VERSION = re.compile(
    r"v(0|[1-9]\d*)(?:\.(0|[1-9]\d*)(?:\.(0|[1-9]\d*)(?:-([0-9A-Za-z.-]+))?(?:\+[0-9A-Za-z.-]+)?)?)?"
)


@dataclass(frozen=True, kw_only=True)
class Repository:
    """A repository: where it is, or the directory that it is; `key` is that of the call that named it."""

    key: str
    urls: tuple[str, ...] = ()
    """Tried one after the other; more than one where no protocol was said."""
    source: Directory | None = None
    discard: bool = False
    username: str = ""
    token: Secret | None = None
    header: Secret | None = None
    known_hosts: str = ""
    service: Service | None = None


@dataclass(frozen=True, kw_only=True)
class Commit:
    """A commit of a repository, and the name that led to it."""

    repository: Repository
    ref: Ref


@answer("Query.git")
async def repository(engine: Engine, parent: None, call: Call) -> Repository:
    args = call.args
    if args["sshAuthSocket"]:
        raise NotSupported("Query.git(sshAuthSocket)", "SSH_AUTH_SOCK of whoever runs the pipeline is used")
    return Repository(
        key=call.digest,
        urls=_urls(engine, args["url"]),
        discard=not args["keepGitDir"],
        username=args["httpAuthUsername"],
        token=args["httpAuthToken"] and await engine.value(args["httpAuthToken"]),
        header=args["httpAuthHeader"] and await engine.value(args["httpAuthHeader"]),
        known_hosts=args["sshKnownHosts"],
        service=args["experimentalServiceHost"] and await engine.value(args["experimentalServiceHost"]),
    )


def _parts(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port  # it may be none
    except ValueError as error:
        raise BadInput(f"{url[:200]!r} is no URL of a git repository") from error
    return parts


def _server(url: str) -> tuple[str, str, int]:
    """Who answers there: protocol, host and port; no host for a path of this machine."""
    if _BY_SSH.fullmatch(url):
        return ("ssh", url.partition("@")[2].partition(":")[0].lower(), _PORTS["ssh"])
    parts = _parts(url)
    return (parts.scheme, parts.hostname or "", parts.port or _PORTS.get(parts.scheme, 0))


def _urls(engine: Engine, text: str) -> tuple[str, ...]:
    """Where a repository of that name may be: a URL, user@host:path, a path of this machine, or neither, as
    in github.com/owner/name."""
    if scheme := re.match(r"([A-Za-z0-9]+)://", text):
        if scheme[1].lower() in _PORTS:
            parts = _parts(text)._replace(fragment="")
            if parts.scheme == "ssh" and "@" not in parts.netloc:
                parts = parts._replace(netloc=f"git@{parts.netloc}")
            return (urlunsplit(parts),)
        if scheme[1].lower() != "file":
            raise BadInput(
                f"{text}: git repositories are reached by https, http, ssh and git, not {scheme[1]}"
            )
        text = text.partition("://")[2]
    elif _BY_SSH.fullmatch(text):
        return (text.partition("#")[0],)
    try:
        path = engine.workdir / Path(text).expanduser()
    except RuntimeError as error:
        raise BadInput(f"{text}: this machine has no user of that name") from error
    if text.startswith((".", "/", "~")) or path.is_dir():
        if not path.is_dir():
            raise BadInput(f"{path} is not a directory on this machine")
        _refuse_what_leads_out(path.resolve())
        return (str(path.resolve()),)
    _parts(f"https://{text}")
    return (f"https://{text}", f"ssh://git@{text}")


def _refuse_what_leads_out(path: Path) -> None:
    """BadInput where git would read objects of another repository than the one in a folder, which a step may
    have written. A worktree leads to its own, which knows of it."""
    place = path / ".git"
    own = place if place.is_dir() else path
    if place.is_file():
        said = _GITLINK.fullmatch(place.read_text(errors="replace"))
        inner = (path / said[1]).resolve() if said else path
        own = inner.parent.parent
        try:
            back, common = ((inner / name).read_text().strip() for name in ("gitdir", "commondir"))
        except (OSError, UnicodeError):
            back = common = ""
        if (inner / back).resolve() != place or (inner / common).resolve() != own:
            raise BadInput(f"{place} leads to another repository", hint="name that one")
    for name in ("objects/info/alternates", "commondir"):
        if (own / name).exists():
            raise BadInput(
                f"{own / name} leads to another repository",
                hint="`git repack -a -d`, and that file removed, has all in one",
            )
    for each in (place, own / "objects", *(own / "objects").rglob("*")):
        if each.is_symlink():
            raise BadInput(f"{each} is a link, and leads to another repository")


@answer("Directory.asGit")
async def as_git(engine: Engine, parent: Directory, call: Call) -> Repository:
    return Repository(key=call.digest, source=parent)


# what it has


async def _access(engine: Engine, repo: Repository, url: str) -> Access:
    """How git is to reach it at that URL."""
    if repo.source:
        return Access(url=str(await _objects(engine, repo.source)), plain=True)
    parts = _parts(url)
    door = None
    if repo.service and parts.hostname:
        port = parts.port or _PORTS[parts.scheme]
        door = f"127.0.0.1:{await engine.services.reached(repo.service, port)}"
        user, found, _ = parts.netloc.rpartition("@")
        url = urlunsplit(parts._replace(netloc=f"{user}{found}{door}"))
    elif "://" in url or _BY_SSH.fullmatch(url):
        await refuse_metadata(_server(url)[1])
    known_hosts = None
    if repo.known_hosts:
        known_hosts = engine.store.scratch("hosts") / "known_hosts"
        known_hosts.write_text(repo.known_hosts)
    return Access(
        url=url,
        username=repo.username,
        token=await _plain(engine, repo.token),
        header=await _plain(engine, repo.header),
        known_hosts=known_hosts,
        door=door is not None,
    )


async def _plain(engine: Engine, secret: Secret | None) -> str:
    return (await plaintext(engine, secret)).decode().strip() if secret else ""


async def _reached(engine: Engine, repo: Repository) -> tuple[Access, Offer]:
    """How it is reached, and what it has: asked once a session."""

    async def ask() -> tuple[Access, Offer]:
        *others, last = repo.urls or ("",)
        for url in others:
            try:
                access = await _access(engine, repo, url)
                return access, await git.offer(access)
            except BadInput:
                continue
        access = await _access(engine, repo, last)
        return access, await git.offer(access)

    return await engine.once(("git", repo.key), ask)


async def _objects(engine: Engine, place: Directory) -> Path:
    """A bare repository of ours with the objects and references of the one in a directory."""
    key = digest_of("git objects", place.layers, place.path)

    async def make() -> dict[str, Any]:
        known = await asyncio.to_thread(engine.store.result, key)
        if known is None:
            folder = engine.store.scratch("git")
            await git.neutral("init", "-q", "--template=", "--bare", "--initial-branch=main", folder=folder)
            with full_disk_is_told(engine.store.root):
                packs = await asyncio.to_thread(_copy_objects, engine.tree(place.layers), place, folder)
            for pack in packs:
                await git.neutral("index-pack", pack, folder=folder)
            known = engine.store.keep(key, {"layers": [engine.store.add_layer(folder)]})
        return known

    row = await engine.once(key, make)
    return engine.store.layers / str(row["layers"][0])


def _copy_objects(tree: Tree, place: Directory, folder: Path) -> list[Path]:
    """Copy what a repository is made of, and nothing that leads elsewhere; returns its packs."""
    start = _git_folder(tree, place)
    left = _MOST_REFERENCES
    (folder / "HEAD").unlink()
    layer, packs = Layer(Tree([]), folder), []
    for entry in tree.walk(start):
        name = entry.path[len(start.path) :].lstrip("/")
        top = name.split("/")[0]
        if not entry.is_file or name.startswith("objects/info/"):
            continue
        if name in ("HEAD", "packed-refs", "shallow", "info/exclude") or top == "refs":
            left -= entry.stat.st_size
            if left < 0:
                raise BadInput(
                    f"/{entry.path}: the references of a repository are {_MOST_REFERENCES >> 20} MiB at most"
                )
            layer.copy(entry, name, owner=(0, 0), mode=0o644)
        elif top == "objects" and (name.endswith(".pack") or re.fullmatch(r"[0-9a-f]{38,62}", entry.name)):
            layer.copy(entry, name, owner=(0, 0), mode=0o444, link=True)
            packs += [folder / name] if name.endswith(".pack") else []
    return packs


def _git_folder(tree: Tree, place: Directory) -> Entry:
    """The folder of the repository in a directory: `.git`, what that says, or the directory itself."""
    start = tree.need(place.path)
    found = tree.child(start, ".git")
    if found and found.is_file:
        said = _GITLINK.fullmatch(tree.read(found.path, 4096).decode(errors="replace"))
        inner = said and tree.find(posixpath.join("/", place.path, said[1]))
        if not inner or tree.child(inner, "commondir"):
            raise BadInput(f"/{found.path} leads to a repository that is not in the directory (a worktree?)")
        found = inner
    for each in (found, start):
        if each and each.is_dir and tree.child(each, "HEAD") and tree.child(each, "objects"):
            return each
    raise BadInput(
        f"/{place.path} is no git repository: it has no .git", hint="exclude patterns may leave it out"
    )


@answer("GitRepository.url")
async def url(engine: Engine, parent: Repository, call: Call) -> str | None:
    if not parent.urls:
        return None
    return parent.urls[0] if len(parent.urls) == 1 else (await _reached(engine, parent))[0].url


@answer("GitRepository.branches")
async def branches(engine: Engine, parent: Repository, call: Call) -> list[str]:
    return (await _reached(engine, parent))[1].named("refs/heads/", call.args["patterns"])


@answer("GitRepository.tags")
async def tags(engine: Engine, parent: Repository, call: Call) -> list[str]:
    return (await _reached(engine, parent))[1].named("refs/tags/", call.args["patterns"])


async def _commit(engine: Engine, repo: Repository, name: str) -> Commit:
    if git.is_commit(name):  # nobody need be asked
        return Commit(repository=repo, ref=Ref(name="", commit=name))
    return Commit(repository=repo, ref=(await _reached(engine, repo))[1].find(name))


@answer("GitRepository.head")
async def head(engine: Engine, parent: Repository, call: Call) -> Commit:
    return await _commit(engine, parent, "HEAD")


@answer("GitRepository.ref")
async def ref(engine: Engine, parent: Repository, call: Call) -> Commit:
    return await _commit(engine, parent, call.args["name"])


@answer("GitRepository.branch")
async def branch(engine: Engine, parent: Repository, call: Call) -> Commit:
    return await _commit(engine, parent, "refs/heads/" + call.args["name"].removeprefix("refs/heads/"))


@answer("GitRepository.tag")
async def tag(engine: Engine, parent: Repository, call: Call) -> Commit:
    return await _commit(engine, parent, "refs/tags/" + call.args["name"].removeprefix("refs/tags/"))


@answer("GitRepository.commit")
async def commit(engine: Engine, parent: Repository, call: Call) -> Commit:
    if not git.is_commit(call.args["id"]):
        raise BadInput(
            f"invalid commit SHA: {call.args['id']!r}",
            hint="a commit is named in full; ref() takes other names",
        )
    return await _commit(engine, parent, call.args["id"])


@answer("GitRepository.latestVersion")
async def latest_version(engine: Engine, parent: Repository, call: Call) -> Commit:
    found = (await _reached(engine, parent))[1].named("refs/tags/", ["refs/tags/v*"])
    versions = sorted((rank, name) for name in found if (rank := _rank(name)))
    if not versions:
        raise BadInput("no valid semver tags found")
    return await _commit(engine, parent, f"refs/tags/{versions[-1][1]}")


def _rank(name: str) -> tuple[Any, ...] | None:
    """The place of a version among others (semver 2.0, section 11); None for what is none."""
    match = _VERSION.fullmatch(name)
    if not match:
        return None
    early = [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in (match[4] or "").split(".")]
    return (*(int(match[number] or 0) for number in (1, 2, 3)), not match[4], early)


# a commit


@answer("GitRef.commit")
async def ref_commit(engine: Engine, parent: Commit, call: Call) -> str:
    return parent.ref.commit


@answer("GitRef.ref")
async def ref_name(engine: Engine, parent: Commit, call: Call) -> str:
    return parent.ref.name or parent.ref.commit


@answer("GitRef.commonAncestor")
async def common_ancestor(engine: Engine, parent: Commit, call: Call) -> Commit:
    other: Commit = await engine.value(call.args["other"])
    folder = engine.store.scratch("git") / "repository"
    for each in (parent, other):
        access = (await _reached(engine, each.repository))[0]
        await git.fetch(access, folder, [each.ref.commit], files=False)
    done = await git.neutral("merge-base", parent.ref.commit, other.ref.commit, folder=folder, check=False)
    if not git.is_commit(done.stdout.strip()):
        raise BadInput(f"{parent.ref.commit} and {other.ref.commit} have no common ancestor")
    return replace(parent, ref=Ref(name="", commit=done.stdout.strip()))


@dataclass(frozen=True, kw_only=True)
class _Shape:
    """What a tree is to have besides its files: its repository, with how much of the history."""

    keep: bool = False
    depth: int = 1
    tags: bool = False


@answer("GitRef.tree")
async def tree(engine: Engine, parent: Commit, call: Call) -> Directory:
    args = call.args
    keep = not (parent.repository.discard or args["discardGitDir"])
    shape = _Shape(keep=keep, depth=args["depth"], tags=args["includeTags"]) if keep else _Shape()
    return await _tree(engine, parent.repository, parent.ref, shape)


async def _tree(engine: Engine, repo: Repository, ref: Ref, shape: _Shape, nested: int = 0) -> Directory:
    """A commit's files, known by the commit; with its submodules, each of them in the same way."""
    of = [repo.source.layers, repo.source.path] if repo.source else list(repo.urls)
    tags = (await _reached(engine, repo))[1].refs if shape.tags else ()
    tags = tuple((name, commit) for name, commit in tags if name.startswith("refs/tags/"))
    history = [ref.name, shape.depth, tags] if shape.keep else None
    key = digest_of("git tree", of, ref.commit, history)

    async def make() -> dict[str, Any]:
        known = await asyncio.to_thread(engine.store.result, key)
        if known is None:
            if len(repo.urls) == 1:
                access = await _access(engine, repo, repo.urls[0])
            else:
                access = (await _reached(engine, repo))[0]
            layers = await _checked_out(engine, repo, access, ref, shape, nested)
            known = engine.store.keep(key, {"layers": list(layers)})
        return known

    return Directory(tuple((await engine.once(key, make))["layers"]))


async def _checked_out(
    engine: Engine, repo: Repository, access: Access, ref: Ref, shape: _Shape, nested: int
) -> tuple[str, ...]:
    url = repo.urls[0] if len(repo.urls) == 1 else access.url
    origin = git.without_user(url) if repo.urls else ""
    folder = engine.store.scratch("git")
    with (
        engine.reporter.step(f"git {origin or 'checkout'} {ref.commit[:12]}"),
        full_disk_is_told(engine.store.root),
    ):
        await git.check_out(access, ref, folder, depth=shape.depth, tags=shape.tags, origin=origin)
        inner = await git.submodules(folder / ".git", ref.commit)
        if not shape.keep:
            await asyncio.to_thread(engine.store.discard, folder / ".git")
        layers: tuple[str, ...] = (engine.store.add_layer(folder),)
    if inner and nested >= _DEEPEST:
        raise BadInput(f"submodules within submodules, more than {_DEEPEST} deep")
    for path, said, commit in inner:
        where = _beside(url if repo.urls else "", said)
        part = replace(repo, source=None, urls=(where,), key=f"{repo.key} {where}")
        if _server(where) != _server(url):  # a token is for who it was given for
            part = replace(part, token=None, header=None, username="", service=None)
        if part.service is None:
            await refuse_metadata(_server(where)[1], led_by=_server(url)[1] or "the repository")
        files = await _tree(engine, part, Ref(name="", commit=commit), _Shape(), nested + 1)
        layers = await copied_directory(engine, layers, path, files, {}, None)
    return layers


def _beside(url: str, said: str) -> str:
    """Where a submodule is: a URL, or a path from its repository's. Not a path of this machine, which whoever
    wrote the repository may not choose."""
    if said.startswith(("./", "../")) and "://" in url:
        parts = _parts(url)
        said = urlunsplit(parts._replace(path=posixpath.normpath(posixpath.join(parts.path, said))))
    known = re.match(r"([A-Za-z0-9]+)://", said)
    if not (known and known[1].lower() in _PORTS) and not _BY_SSH.fullmatch(said):
        raise BadInput(f"the submodule {said!r} is not at a URL", hint="https, http, ssh and git are")
    return said


@answer("GitRepository.uncommitted")
async def uncommitted(engine: Engine, parent: Repository, call: Call) -> Changeset:
    """What a directory has that its HEAD has not, but for ignored files; a repository elsewhere is clean."""
    if parent.source is None:
        if parent.urls and parent.urls[0].startswith("/"):
            raise NotSupported(
                "GitRepository.uncommitted of a path", "host().directory(path).as_git().uncommitted()"
            )
        found = await _commit(engine, parent, "HEAD")
        clean = await _tree(engine, parent, found.ref, _Shape(keep=True))
        return Changeset(before=clean, after=clean)
    source = parent.source
    repository = await _objects(engine, source)
    if not engine.tree(source.layers).find(posixpath.join(source.path, ".git")):
        return Changeset(before=source, after=source)

    async def clean_up(folder: Path) -> None:
        words = ("--work-tree", folder)
        index = engine.store.scratch("index") / "index"
        for command, check in (
            (("read-tree", "HEAD"), True),
            (("update-index", "-q", "--refresh"), False),  # what is as it was stays the very file
            (("checkout-index", "-q", "-a", "-f"), True),
            (("clean", "-q", "-f", "-d"), True),
        ):
            await git.neutral(*words, *command, folder=repository, cwd=folder, index=index, check=check)

    return Changeset(
        before=await altered(engine, source, ("git clean",), clean_up, without=".git"), after=source
    )
