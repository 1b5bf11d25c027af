"""git repositories of paths, of a server that wants a password, and of directories, through the SDK."""

from __future__ import annotations

import asyncio
import base64
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import dagger
import pytest

from ci.engine.git import Access, offer
from ci.engine.repositories import _server
from ci.errors import BadInput

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the embedded engine needs root")

_WHO = {"GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@example.org",
        "GIT_AUTHOR_DATE": "2020-01-01T00:00:00Z",
        "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@example.org",
        "GIT_COMMITTER_DATE": "2020-01-01T00:00:00Z", "GIT_CONFIG_GLOBAL": "/dev/null"}  # fmt: skip


def _git(folder: Path, *words: str) -> str:
    env = os.environ | _WHO
    return subprocess.run(
        ["git", *words], cwd=folder, env=env, check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with two branches, tags of both kinds, a program, a link and an ignored file."""
    folder = tmp_path_factory.mktemp("made") / "project"
    folder.mkdir()
    _git(folder, "init", "-q", "-b", "main")
    (folder / "file").write_text("one\n")
    (folder / "run").write_text("#!/bin/sh\n")
    (folder / "run").chmod(0o755)
    (folder / "link").symlink_to("file")
    (folder / ".gitignore").write_text("*.log\n")
    _git(folder, "add", ".")
    _git(folder, "commit", "-q", "-m", "one")
    _git(folder, "tag", "v1.2.0")
    _git(folder, "tag", "-a", "-m", "noted", "v1.10.0")
    _git(folder, "tag", "v1.10.0-rc.1")
    _git(folder, "checkout", "-q", "-b", "topic/x")
    (folder / "file").write_text("two\n")
    _git(folder, "commit", "-q", "-a", "-m", "two")
    _git(folder, "checkout", "-q", "main")
    return folder


@pytest.fixture
def project(made: Path, tmp_path: Path) -> Path:
    """A copy of it, for one test."""
    return shutil.copytree(made, tmp_path / "project", symlinks=True)


def test_branches_tags_and_commits_of_a_path(run: Any, project: Path) -> None:
    first, second = _git(project, "rev-parse", "main"), _git(project, "rev-parse", "topic/x")

    async def pipeline(client: dagger.Client) -> Any:
        repo = client.git(str(project))
        topic = repo.branch("topic/x")
        return (
            [
                await repo.branches(),
                await repo.branches(patterns=["top*"]),
                await repo.tags(patterns=["v1.2*"]),
            ],
            [await repo.head().commit(), await repo.head().ref(), await topic.commit()],
            [await repo.tag("v1.10.0").commit(), await repo.latest_version().ref()],
            [await repo.ref("topic/x").ref(), await repo.commit(first).ref()],
            await topic.common_ancestor(repo.head()).commit(),
            sorted(await topic.tree().entries()),
            sorted(await topic.tree(discard_git_dir=True).entries()),
            await repo.commit(second).tree().file("file").contents(),
        )

    names, heads, tags, refs, ancestor, entries, bare, contents = run(pipeline)
    assert names == [["main", "topic/x"], ["topic/x"], ["v1.2.0"]]
    assert heads == [first, "refs/heads/main", second]
    assert tags == [first, "refs/tags/v1.10.0"] and refs == ["refs/heads/topic/x", first]
    assert ancestor == first and contents == "two\n"
    assert entries == [".git/", ".gitignore", "file", "link", "run"] and bare == entries[1:]


def test_a_tree_is_a_repository_with_its_branch(run: Any, project: Path, tmp_path: Path) -> None:
    async def pipeline(client: dagger.Client) -> None:
        await client.git(str(project)).branch("topic/x").tree(depth=0).export("shown")
        await client.git(str(project)).head().tree().export("head")

    run(pipeline)
    shown = tmp_path / "work" / "shown"
    assert _git(shown, "log", "--format=%s") == "two\none"
    assert (_git(shown, "branch", "--show-current"), _git(shown, "status", "--porcelain")) == ("topic/x", "")
    assert (shown / "run").stat().st_mode & 0o777 == 0o755 and (shown / "link").readlink() == Path("file")


def test_nobody_s_configuration_changes_what_is_checked_out(
    run: Any, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hooks = tmp_path / "hooks"
    hooks.mkdir()
    for name in ("post-checkout", "reference-transaction", "post-index-change"):
        (hooks / name).write_text(f"#!/bin/sh\ntouch {tmp_path}/ran-$(basename $0)\n")
        (hooks / name).chmod(0o755)
    config = tmp_path / "gitconfig"
    config.write_text(
        f"[core]\nhooksPath = {hooks}\nautocrlf = true\nfsmonitor = touch {tmp_path}/ran-monitor\n"
        f"attributesFile = {tmp_path}/attributes\nsymlinks = false\n"
        f'[filter "x"]\nsmudge = touch {tmp_path}/ran-filter; cat\n[fetch]\nprune = true\n'
    )
    (tmp_path / "attributes").write_text("* filter=x\n")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(config))
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "nowhere"))

    async def pipeline(client: dagger.Client) -> tuple[str, bool]:
        tree = client.git(str(project)).head().tree()
        return await tree.file("file").contents(), await tree.exists(
            "link", expected_type=dagger.ExistsType.SYMLINK_TYPE
        )

    assert run(pipeline) == ("one\n", True)
    assert list(tmp_path.glob("ran-*")) == []


def test_a_directory_s_repository_runs_nothing_of_it(run: Any, project: Path, tmp_path: Path) -> None:
    """What a step left in .git: programs in its configuration, hooks, objects elsewhere on this machine."""
    head = _git(project, "rev-parse", "HEAD")
    secret = tmp_path / "secret"
    secret.mkdir()
    _git(secret, "init", "-q")
    (secret / "key").write_text("hidden\n")
    _git(secret, "add", ".")
    blob = _git(secret, "hash-object", "key")
    (project / ".git/objects/info/alternates").write_text(f"{secret}/.git/objects\n")
    tree = subprocess.run(
        ["git", "mktree", "--missing"], input=f"100644 blob {blob}\tkey\n", cwd=project, text=True,
        capture_output=True, check=True,
    ).stdout.strip()  # fmt: skip
    stolen = _git(project, "commit-tree", tree, "-m", "x")
    _git(project, "update-ref", "refs/heads/stolen", stolen)
    _git(project, "repack", "-q", "-d", "-l")
    with (project / ".git/config").open("a") as config:
        config.write(
            f"[core]\nfsmonitor = touch {tmp_path}/ran-monitor\n[uploadpack]\n"
            f"packObjectsHook = touch {tmp_path}/ran-pack; exec\n[include]\npath = {tmp_path}/none\n"
        )
    (project / ".git/hooks/reference-transaction").write_text(f"#!/bin/sh\ntouch {tmp_path}/ran-hook\n")
    (project / ".git/hooks/reference-transaction").chmod(0o755)
    (project / "file").write_text("edited\n")
    (project / "untracked").write_text("x")
    (project / "ignored.log").write_text("x")
    (project / "run").unlink()

    async def pipeline(client: dagger.Client) -> Any:
        repo = client.host().directory(str(project)).as_git()
        changes = repo.uncommitted()
        told = (
            await repo.head().commit(), await repo.url(), sorted(await repo.branches()),
            await repo.head().tree().file("file").contents(),
            [await changes.added_paths(), await changes.modified_paths(), await changes.removed_paths()],
        )  # fmt: skip
        with pytest.raises(dagger.QueryError):
            await repo.branch("stolen").tree().entries()
        return told

    commit, url, branches, file, changes = run(pipeline)
    assert (commit, url, branches, file) == (head, None, ["main", "stolen", "topic/x"], "one\n")
    assert changes == [["untracked"], ["file"], ["run"]]
    assert list(tmp_path.glob("ran-*")) == []


class _Server(BaseHTTPRequestHandler):
    """git's own server for repositories of a folder; it wants to know who asks."""

    root: Path
    seen: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        type(self).seen.append(f"{self.command} {self.path}")
        if self.headers.get("Authorization") != "Basic " + base64.b64encode(b"me:token-of-mine").decode():
            self.send_response(401)
            self.send_header("WWW-Authenticate", "Basic realm=git")
            self.end_headers()
            return
        path, _, query = self.path.partition("?")
        done = subprocess.run(
            ["git", "http-backend"],
            input=self.rfile.read(int(self.headers.get("Content-Length") or 0)),
            env={**os.environ, "GIT_PROJECT_ROOT": str(self.root), "GIT_HTTP_EXPORT_ALL": "1",
                 "PATH_INFO": path,
                 "QUERY_STRING": query, "REQUEST_METHOD": self.command, "REMOTE_USER": "me",
                 "CONTENT_TYPE": self.headers.get("Content-Type", ""),
                 "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
                 "GIT_PROTOCOL": self.headers.get("Git-Protocol", "")},
            capture_output=True, check=False,
        )  # fmt: skip
        head, _, body = done.stdout.partition(b"\r\n\r\n")
        lines = [line.split(": ", 1) for line in head.decode().splitlines()]
        self.send_response(int(dict(lines).get("Status", "200").split()[0]))
        for name, value in lines:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET  # noqa: N815

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server(project: Path) -> Iterator[tuple[str, list[str]]]:
    class Own(_Server):
        root = project.parent
        seen: ClassVar[list[str]] = []

    served = ThreadingHTTPServer(("127.0.0.1", 0), Own)
    thread = threading.Thread(target=served.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{served.server_port}/project/.git", Own.seen
    served.shutdown()
    served.server_close()
    thread.join()


def test_a_server_is_asked_as_the_user_s_own_git_asks_and_a_commit_once(
    run: Any, project: Path, server: tuple[str, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, seen = server
    commit = _git(project, "rev-parse", "topic/x")
    config = tmp_path / "gitconfig"
    config.write_text('[credential]\nhelper = "!f() { echo username=me; echo password=token-of-mine; }; f"\n')

    async def by_helper(client: dagger.Client) -> str:
        return await client.git(url).branch("topic/x").tree(discard_git_dir=True).file("file").contents()

    async def by_commit(client: dagger.Client) -> str:
        return await client.git(url).commit(commit).tree(discard_git_dir=True).file("file").contents()

    async def by_token(client: dagger.Client) -> str:
        token = client.set_secret("token", "token-of-mine")
        repo = client.git(url, http_auth_username="me", http_auth_token=token)
        return await repo.head().tree().file(".git/config").contents()

    with pytest.raises(BadInput, match=r"git: http://127\.0\.0\.1") as told:
        run(by_helper)
    assert "http_auth_token" in told.value.hint
    config_of = run(by_token)
    assert (
        f"url = {url}" in config_of and "token-of-mine" not in config_of and "uthorization" not in config_of
    )
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(config))
    assert run(by_helper) == "two\n"
    seen.clear()
    assert run(by_commit) == "two\n" and seen == []
    assert run(by_helper) == "two\n"
    assert {line.partition("?")[0] for line in seen} <= {
        "GET /project/.git/info/refs", "POST /project/.git/git-upload-pack"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("ext::sh -c touch% /tmp/x", "git"),
        ("ftp://example.org/x", "not ftp"),
        ("./nowhere", "not a directory on this machine"),
        ("http://169.254.169.254/latest", "who it is"),
        ("--upload-pack=touch x", "git"),
        ("https://[bad/x", "no URL of a git"),
        ("https://example.org:99999/x", "no URL of a git"),
        ("~nosuch/x", "no user of that name"),
    ],
)
def test_where_no_repository_is(run: Any, url: str, told: str) -> None:
    async def pipeline(client: dagger.Client) -> str:
        return await client.git(url).head().commit()

    with pytest.raises(Exception, match=told):
        run(pipeline)


def test_a_submodule_comes_from_a_url_and_never_from_a_path(run: Any, project: Path, tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    _git(inner, "init", "-q", "-b", "main")
    (inner / "f").write_text("inner\n")
    _git(inner, "add", ".")
    _git(inner, "commit", "-q", "-m", "x")
    _git(project, "-c", "protocol.file.allow=always", "submodule", "add", "-q", str(inner), "sub")
    _git(project, "commit", "-q", "-m", "sub")

    async def pipeline(client: dagger.Client) -> str:
        return await client.git(str(project)).head().tree().file("sub/f").contents()

    with pytest.raises(BadInput, match=r"submodule .* is not at a URL"):
        run(pipeline)


def _serve(handler: type[BaseHTTPRequestHandler]) -> ThreadingHTTPServer:
    served = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=served.serve_forever, daemon=True).start()
    return served


def test_git_is_led_nowhere_and_says_where_it_was_led(
    run: Any, project: Path, server: tuple[str, list[str]]
) -> None:
    to, seen = server

    class Leads(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(301)
            self.send_header("Location", to + self.path.removeprefix("/x"))
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    leads = _serve(Leads)

    async def pipeline(client: dagger.Client) -> str:
        token = client.set_secret("token", "token-of-mine")
        url = f"http://127.0.0.1:{leads.server_port}/x"
        return await client.git(url, http_auth_username="me", http_auth_token=token).head().commit()

    try:
        with pytest.raises(BadInput) as told:
            run(pipeline)
    finally:
        leads.shutdown()
        leads.server_close()
    assert f"leads to {to}:" in str(told.value) and seen == []


def test_a_submodule_is_not_asked_for_of_this_machine(run: Any, project: Path, tmp_path: Path) -> None:
    asked: list[str] = []

    class Seen(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *_: Any) -> None:
            pass

    served = _serve(Seen)
    head = _git(project, "rev-parse", "HEAD")
    _git(project, "update-index", "--add", "--cacheinfo", f"160000,{head},sub")

    async def pipeline(client: dagger.Client) -> list[str]:
        return await client.host().directory(str(project)).as_git().head().tree().entries()

    try:
        for host in ("127.0.0.1", "0.0.0.0", "[::1]", "localhost", "0"):
            (project / ".gitmodules").write_text(
                f'[submodule "s"]\npath = sub\nurl = http://{host}:{served.server_port}/x\n'
            )
            _git(project, "add", ".gitmodules")
            _git(project, "commit", "-q", "-m", host)
            with pytest.raises(BadInput, match="which is this machine"):
                run(pipeline)
    finally:
        served.shutdown()
        served.server_close()
    assert asked == []


def test_whose_a_token_is() -> None:
    same = _server("https://h/x")
    assert same == _server("https://h:443/y") == _server("https://me@H/z")
    assert same not in {_server("http://h/x"), _server("https://h:444/x"), _server("git@h:x"), _server("/h")}


def test_a_checkout_has_the_same_bytes_each_time(run: Any, project: Path, tmp_path: Path) -> None:
    async def digest(client: dagger.Client) -> str:
        return await client.git(str(project)).head().tree().digest()

    first = run(digest)
    shutil.rmtree(tmp_path / "cache")
    assert run(digest) == first


def test_tags_of_a_tree_are_those_that_there_are(run: Any, project: Path) -> None:
    commit = _git(project, "rev-parse", "HEAD")

    async def refs(client: dagger.Client) -> str:
        tree = client.git(str(project)).commit(commit).tree(include_tags=True)
        return " ".join(await tree.glob(".git/refs/tags/*"))

    assert "new" not in run(refs)
    _git(project, "tag", "new")
    assert "new" in run(refs)


@pytest.mark.parametrize("kind", ["alternates", "commondir", "file", "link"])
def test_a_path_leads_to_no_other_repository(run: Any, project: Path, tmp_path: Path, kind: str) -> None:
    other, inner = tmp_path / "other", project / ".git"
    shutil.copytree(project, other)
    if kind == "alternates":
        (inner / "objects/info/alternates").write_text(f"{other}/.git/objects\n")
    elif kind == "commondir":
        (inner / "commondir").write_text(f"{other}/.git\n")
    elif kind == "file":
        shutil.rmtree(inner)
        inner.write_text(f"gitdir: {other}/.git\n")
    else:
        shutil.rmtree(inner / "objects")
        (inner / "objects").symlink_to(other / ".git/objects")

    async def pipeline(client: dagger.Client) -> str:
        return await client.git(str(project)).head().commit()

    with pytest.raises(BadInput, match="leads to another repository"):
        run(pipeline)


def test_a_worktree_is_a_path_like_another(run: Any, project: Path, tmp_path: Path) -> None:
    _git(project, "worktree", "add", "-q", str(tmp_path / "beside"), "topic/x")

    async def pipeline(client: dagger.Client) -> str:
        return await client.git(str(tmp_path / "beside")).head().commit()

    assert run(pipeline) == _git(project, "rev-parse", "topic/x")


def test_references_without_end_are_not_copied(run: Any, project: Path) -> None:
    with (project / ".git/packed-refs").open("wb") as file:
        file.truncate(1 << 30)

    async def pipeline(client: dagger.Client) -> str:
        return await client.host().directory(str(project)).as_git().head().commit()

    with pytest.raises(BadInput, match="references of a repository are"):
        run(pipeline)


def test_who_asks_is_in_no_file_and_no_error(
    run: Any, server: tuple[str, list[str]], project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = server[0].replace("://", "://me:token-of-mine@")

    async def config(client: dagger.Client) -> str:
        return await client.git(url).head().tree().file(".git/config").contents()

    async def wrong(client: dagger.Client) -> str:
        return await client.git(server[0].replace("://", "://token-of-another@")).head().commit()

    said = run(config)
    assert f"url = {server[0]}" in said and "token" not in said
    with pytest.raises(BadInput) as told:
        run(wrong)
    assert "token-of-another" not in str(told.value) + str(told.value.hint)


def test_a_service_s_door_is_reached_by_no_proxy(
    server: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    access = Access(url=server[0], username="me", token="token-of-mine", door=True)
    assert dict(asyncio.run(offer(access)).refs)["refs/heads/main"]


def test_git_ends_with_a_session_that_is_killed(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/x"
        code = f"import asyncio; from ci.engine.git import *; asyncio.run(offer(Access(url={url!r})))"
        session = subprocess.Popen([sys.executable, "-c", code])
        asked, _ = silent.accept()
        with asked:
            session.kill()
            session.wait()
            asked.settimeout(20)
            while asked.recv(4096):  # what asks has ended when its connection does
                pass
