"""PostgreSQL with its write-ahead log archived, so that it can be taken back to any moment.

It refuses to run as root: it runs as Debian's user `postgres`. That user cannot reach a folder of root's, so
the server sees its own (`home` below) mounted at /var/lib/postgresql, in a mount namespace that ends with it;
one for shared memory ends with it too, however it ends.

    home/data      the cluster
    home/archive   finished segments of the write-ahead log, a folder for each cluster: it outlives `data`

It listens on a socket alone, and takes only the user who runs this: there is no password to keep.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
from dataclasses import replace
from pathlib import Path

from ci import tools
from ci.errors import SystemUnavailable, ToolMissing
from ci.platform.daemon import Daemon, as_part
from ci.platform.instance import Instance
from ci.platform.part import Part, Say
from ci.process import run

__all__ = ["DATABASE", "USER", "archive_of", "give", "postgres"]

DATABASE = "voice"
USER = "postgres"
"""Of the system and of the database."""

_HOME = "/var/lib/postgresql"
_ENTER = f"""set -e
mount --bind "$0" {_HOME}
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
cd {_HOME}
death=$1; shift
exec setpriv --reuid={USER} --regid={USER} --clear-groups --pdeathsig="$death" -- "$@"
"""

# A segment that is there already is fine when it is the same: the server may have died before it noted that.
# Written beside its place, then moved into it: nobody ever restores half a segment.
_ARCHIVE = "test ! -f {to}/%f && cp %p {to}/.%f && sync {to}/.%f && mv {to}/.%f {to}/%f || cmp -s %p {to}/%f"


def postgres(place: Instance, *, name: str, home: Path, socket: Path, port: int) -> Part:
    """A server with the empty database `DATABASE`, on a socket for whoever runs this and for no one else.

    Its `down` removes the cluster and leaves the archive.
    """
    data = home / "data"

    def daemon() -> Daemon:
        archive = f"{_HOME}/archive/{archive_of(home).name}"
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": str(socket),
            "port": port,
            "hba_file": f"{_HOME}/hba.conf",
            "ident_file": f"{_HOME}/ident.conf",
            "max_connections": 40,
            "shared_buffers": "32MB",
            "archive_mode": "on",
            "archive_command": _ARCHIVE.format(to=archive),
            "archive_timeout": "2s",  # what is lost with the server is younger than this
            "restore_command": f"cp {archive}/%f %p",
            "log_min_messages": "warning",
        }
        program = tools.path("postgres")
        return Daemon(
            name=name,
            argv=(
                *(str(program), "-D", f"{_HOME}/data"),
                *(word for key, value in settings.items() for word in ("-c", f"{key}={value}")),
            ),
            check=lambda: _ready(program, socket, port),
            enter=lambda: _enter(home, with_us=False),
        )

    process = as_part(place, daemon, name=name, tools=("postgres",))

    async def up(say: Say) -> bool:
        give(home)
        if not (data / "PG_VERSION").exists():
            say("making the cluster")
            await _initialise(home)
        give(socket)
        give(home / "archive")
        give(archive_of(home))
        owner = pwd.getpwuid(os.geteuid()).pw_name
        for file, text in (
            ("hba.conf", f"local all {USER} peer map=owner\nlocal replication {USER} peer map=owner\n"),
            ("ident.conf", f"owner {owner} {USER}\n"),
        ):
            (home / file).write_text(text)
        return await process.up(say)

    async def down() -> None:
        await process.down()
        await asyncio.to_thread(shutil.rmtree, data, ignore_errors=True)
        shutil.rmtree(socket, ignore_errors=True)

    return replace(process, up=up, down=down, on_request=True)


def archive_of(home: Path) -> Path:
    """Where the cluster that is in `home` archives to: its folder has the name of its system identifier.

    The identifier is the first field of the control file (src/include/catalog/pg_control.h).
    """
    control = home / "data" / "global" / "pg_control"
    identifier = int.from_bytes(control.read_bytes()[:8], "little") if control.is_file() else 0
    return home / "archive" / str(identifier)


def give(folder: Path) -> None:
    """Have a folder, with all that is in it, that belongs to the server's user."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    user = _user()
    for path in (folder, *folder.rglob("*")) if folder.stat().st_uid != user.pw_uid else (folder,):
        os.lchown(path, user.pw_uid, user.pw_gid)


def _user() -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(USER)
    except KeyError as error:
        raise ToolMissing(
            f"this machine has no user {USER!r}", hint="it comes with the package: va doctor --install"
        ) from error


def _enter(home: Path, *, with_us: bool) -> tuple[str, ...]:
    """The words before a command line to run it as the server's user; `with_us`: it is killed when we are."""
    return (
        *("unshare", "--mount", "--ipc", "--propagation", "private"),
        *("--", "sh", "-c", _ENTER, str(home), "KILL" if with_us else "keep"),
    )


async def _initialise(home: Path) -> None:
    """Make the cluster beside its place and move it there: an interruption leaves none, not half of one.

    What makes it ends with us, however we end: the next run must not meet it at work on the same folder.
    """
    program, draft = tools.path("postgres"), f"{_HOME}/data.new"
    shutil.rmtree(home / "data.new", ignore_errors=True)
    await run(
        *_enter(home, with_us=True),
        *(program.with_name("initdb"), "-D", draft, "-U", USER, "--auth=peer"),
        # Segments of 1 MiB: one is archived every few seconds.
        *("--wal-segsize=1", "--data-checksums", "--encoding=UTF8", "--locale=C.UTF-8"),
        failure=SystemUnavailable,
    )
    await run(
        *_enter(home, with_us=True),
        *(program, "--single", "-D", draft, "postgres"),
        stdin=f"CREATE DATABASE {DATABASE}\n",
        failure=SystemUnavailable,
    )
    (home / "data.new").rename(home / "data")


async def _ready(program: Path, socket: Path, port: int) -> str:
    done = await run(program.with_name("pg_isready"), "-h", str(socket), "-p", str(port), check=False)
    return "" if done.code == 0 else done.stdout.strip().rpartition(" - ")[2] or "no answer"
