"""A container's start, in a process of its own: namespaces, mounts, and then runc in this process's place.

`run` starts it as `python -I -S -c …` and writes the arguments of `contain` through a pipe. What a step needs
from the kernel belongs to this process: its mounts, its pid namespace, whose first process is killed when the
parent dies, so that however a session ends, kill -9 included, no mount, process or container is left.

No shell, and no name of an image in an option of a mount: layers are opened below the store's root, and
overlayfs gets the numbers of their descriptors. Secrets are on no disk and in no argument list, but in a
tmpfs of this namespace.

Imports only what starts fast: a step waits for it.
"""

from __future__ import annotations

import ctypes
import marshal
import os
import stat
import sys

from ci.below import open_below

__all__ = ["FAILED", "MOST_LAYERS", "STAGE", "can_show_other_owners", "contain", "main"]

STAGE = "/run/va-engine"
"""An empty folder of the machine; in the namespace of a step the tmpfs that holds its bundle."""

_LIBC = ctypes.CDLL(None, use_errno=True)
_SIGINT, _SIGKILL, _SIGTERM, _SIG_IGN = 2, 9, 15, 1
_PR_SET_PDEATHSIG, _PR_SET_SECUREBITS = 1, 28
_NO_SETUID_FIXUP = 1 << 2
_CLONE_NEWNS, _CLONE_NEWPID, _CLONE_NEWNET = 0x00020000, 0x20000000, 0x40000000
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC = 1, 2, 4, 8
_MS_REC, _MS_PRIVATE = 0x4000, 0x40000
# The same numbers on every architecture.
_OPEN_TREE, _MOVE_MOUNT, _MOUNT_SETATTR = 428, 429, 442
_OPEN_TREE_CLONE = 1
_MOVE_MOUNT_F_EMPTY_PATH = 4
_AT_FDCWD, _AT_EMPTY_PATH = -100, 0x1000
_MOUNT_ATTR_RDONLY, _MOUNT_ATTR_IDMAP = 0x1, 0x100000
MOST_LAYERS = 500
"""What overlayfs takes below an upper folder (OVL_MAX_STACK); their numbers fit the options of a mount."""
FAILED = 125
"""How it ends when the container could not be set up."""


class _Attributes(ctypes.Structure):
    """struct mount_attr of linux/mount.h."""

    _fields_ = tuple((name, ctypes.c_uint64) for name in ("set", "clear", "propagation", "userns"))


def main() -> None:
    """`sys.argv`: the descriptor to read the arguments of `contain` from, and the process that must live."""
    try:
        _die_with(int(sys.argv[2]))
        with open(int(sys.argv[1]), "rb") as file:
            given = marshal.load(file)  # noqa: S302  # nosec B302  # by our own session, through its pipe
        contain(**given)
    except (OSError, EOFError, ValueError) as error:
        what = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else str(error)
        print(f"a container could not be set up: {what}", file=sys.stderr)
    os._exit(FAILED)


def contain(
    *,
    argv: list[str],
    store: str,
    files: list[tuple[str, bytes, int, tuple[int, int]]],
    overlays: list[tuple[str, list[str], str | None, str | None]],
    binds: list[tuple[str, str]],
    network: int,
    userns: int,
    root: int,
    owner: tuple[int, int],
) -> None:
    """Become `argv` in namespaces of its own, with a bundle below STAGE.

    `files`: name, content, mode and owner. `overlays`: name, layers from the lowest, upper and work folder;
    and `binds`: name and what; all paths below the store. `network` and `userns` are descriptors of
    namespaces, -1 for none. `root` is the step's root, and `owner` gets the pipes of the standard streams.
    All ids are those of the machine.
    """
    if network >= 0:
        _checked(_LIBC.setns(network, _CLONE_NEWNET), "network namespace")
    _checked(_LIBC.unshare(_CLONE_NEWNS | _CLONE_NEWPID), "namespaces")
    alive, held = os.pipe()
    if child := os.fork():
        os.close(alive)
        _end_like(child)
    os.close(held)
    _die_with(0)
    _mount("none", "/", None, _MS_REC | _MS_PRIVATE)
    _mount("proc", "/proc", "proc", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC)
    os.umask(0o022)
    _mount("va-engine", STAGE, "tmpfs", _MS_NOSUID | _MS_NODEV, "mode=0755")
    for name, data, mode, (uid, gid) in files:
        with open(os.open(f"{STAGE}/{name}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            os.fchown(file.fileno(), uid, gid)
            os.fchmod(file.fileno(), mode)
            file.write(data)
    # A user namespace may not mount one of a network that is not its own; it only ever shows this network.
    os.mkdir(f"{STAGE}/sys")
    _mount("sysfs", f"{STAGE}/sys", "sysfs", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC)
    # The one way to what is on disk: with the owners as the step's user namespace has them, where it has one.
    os.mkdir(f"{STAGE}/store", 0o700)
    below = os.open(store, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    _attach(below, f"{STAGE}/store", userns=userns)
    os.close(below)
    below = os.open(f"{STAGE}/store", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    for name, *_ in overlays:
        os.mkdir(f"{STAGE}/{name}")
    _write_as(root)
    for name, lower, upper, work in overlays:
        _overlay(below, lower, upper, work, f"{STAGE}/{name}")
    _write_as(0)
    for name, path in binds:
        source = open_below(below, path, os.O_PATH)
        if stat.S_ISDIR(os.fstat(source).st_mode):
            os.mkdir(f"{STAGE}/{name}")
        else:
            os.close(os.open(f"{STAGE}/{name}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        _attach(source, f"{STAGE}/{name}")
        os.close(source)
    os.close(below)
    for descriptor in (0, 1, 2):
        # /dev/stdout and its like open the pipe by its path: it has to belong to the step's own user.
        if stat.S_ISFIFO(os.fstat(descriptor).st_mode):
            os.fchown(descriptor, *owner)
    for descriptor in (network, userns):
        if descriptor >= 0:
            os.close(descriptor)
    _die_with(0)  # once more: the kernel forgets it whenever a process changes its user
    os.set_blocking(alive, False)
    try:
        if os.read(alive, 1) == b"":
            return  # the parent ended before that
    except BlockingIOError:
        os.close(alive)
    os.execvp(argv[0], argv)  # noqa: S606  # nosec B606  # a shell would be the fault


def _write_as(user: int) -> None:
    """Make files as that user, with all capabilities kept. overlayfs makes its own as who mounted it; where
    owners are shown otherwise, root of the machine is nobody and could make none."""
    _checked(_LIBC.prctl(_PR_SET_SECUREBITS, _NO_SETUID_FIXUP if user else 0, 0, 0, 0), "prctl")
    _LIBC.setfsgid(user)
    _LIBC.setfsuid(user)


def _die_with(parent: int) -> None:
    """Be killed when the parent ends, and end at once if it has. Parent 0: it cannot be seen from here."""
    _checked(_LIBC.prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0), "prctl")
    if parent and os.getppid() != parent:
        os._exit(FAILED)


def _end_like(child: int) -> None:
    """Wait for the child and end as it did. What asks us to end asks it too: it is in our process group."""
    for number in (_SIGINT, _SIGTERM):
        _LIBC.signal(number, ctypes.c_void_p(_SIG_IGN))
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    os._exit(code if code >= 0 else 128 - code)


def _overlay(store: int, lower: list[str], upper: str | None, work: str | None, target: str) -> None:
    """An overlay of folders of the store, the lowest first; without `upper` it is read-only.

    Of more than overlayfs takes, the lower ones are an overlay of their own, below. It takes one upon one.
    """
    held: list[int] = []
    if len(lower) > MOST_LAYERS:
        rest = len(lower) - MOST_LAYERS + 1
        os.mkdir(f"{target}-below")
        _overlay(store, lower[:rest], None, None, f"{target}-below")
        held.append(os.open(f"{target}-below", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
        lower = lower[rest:]
    held += [open_below(store, path, os.O_PATH | os.O_DIRECTORY) for path in lower]
    try:
        if upper is None and len(held) == 1:
            _attach(held[0], target, read_only=True)
            return
        options = "lowerdir=" + ":".join(str(one) for one in reversed(held))
        flags = _MS_NODEV
        if upper is None or work is None:
            flags |= _MS_RDONLY
        else:
            held += [open_below(store, path, os.O_PATH | os.O_DIRECTORY) for path in (upper, work)]
            options += f",upperdir={held[-2]},workdir={held[-1]},redirect_dir=off,metacopy=off,index=off"
        os.chdir("/proc/self/fd")
        _mount("overlay", target, "overlay", flags, options)
    finally:
        os.chdir("/")
        for one in held:
            os.close(one)


def _attach(source: int, target: str, *, userns: int = -1, read_only: bool = False) -> None:
    """Mount an opened folder or file elsewhere; `userns` shows its owners as they are in that user
    namespace."""
    tree = _detached(source, userns, read_only)
    _checked(
        _LIBC.syscall(_MOVE_MOUNT, tree, b"", _AT_FDCWD, target.encode(), _MOVE_MOUNT_F_EMPTY_PATH), target
    )
    os.close(tree)


def _detached(source: int, userns: int, read_only: bool) -> int:
    """A mount of an opened folder or file that is nowhere yet."""
    tree = _checked(
        _LIBC.syscall(_OPEN_TREE, source, b"", _AT_EMPTY_PATH | _OPEN_TREE_CLONE | os.O_CLOEXEC), "a mount"
    )
    wanted = (_MOUNT_ATTR_RDONLY if read_only else 0) | (_MOUNT_ATTR_IDMAP if userns >= 0 else 0)
    if wanted:
        attributes = _Attributes(wanted, 0, 0, max(userns, 0))
        size = ctypes.sizeof(attributes)
        done = _LIBC.syscall(_MOUNT_SETATTR, tree, b"", _AT_EMPTY_PATH, ctypes.byref(attributes), size)
        if done < 0:
            os.close(tree)
        _checked(done, "a mount's owners")
    return tree


def can_show_other_owners(folder: os.PathLike[str], userns: int) -> bool:
    """Whether what is in that folder can be mounted with its owners as in that user namespace."""
    source = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.close(_detached(source, userns, read_only=False))
    except OSError:
        return False
    finally:
        os.close(source)
    return True


def _mount(source: str, target: str, kind: str | None, flags: int, options: str = "") -> None:
    done = _LIBC.mount(
        source.encode(),
        target.encode(),
        kind.encode() if kind else None,
        ctypes.c_ulong(flags),
        options.encode() or None,
    )
    _checked(done, f"mount of {target}")


def _checked(result: int, what: str) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), what)
    return result
