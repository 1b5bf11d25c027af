"""Paths below a root that somebody else filled: a layer, an export, what tests left behind.

One way to open them. The kernel resolves the path (openat2(2), Linux 5.6) so that nothing leads out of the
root: not a symlink, not `..`, not a link of /proc, also while another process changes the folders. Where the
kernel or a seccomp filter around us has no openat2, each component is opened by itself without following
links.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat

TYPE_CHECKING = False  # no import that a step's start can do without: it waits for this module
if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["make_folder", "open_below", "open_file", "open_parent", "read_file", "remove", "walk"]

_OPENAT2 = 437
"""Its number on every architecture that has it."""
_NO_MAGICLINKS, _NO_SYMLINKS, _BENEATH = 0x02, 0x04, 0x08
_LIBC = ctypes.CDLL(None, use_errno=True)
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class _How(ctypes.Structure):
    """struct open_how of linux/openat2.h."""

    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def open_below(root: str | os.PathLike[str] | int, path: str, flags: int, mode: int = 0o600) -> int:
    """Open `path` below `root` (a folder, or a descriptor of one) and return the descriptor, closed on exec.

    No component may be a symlink, the last one neither: ELOOP; one that leads out of the root: EXDEV.
    """
    if isinstance(root, int):
        return _open_below(root, path, flags, mode)
    folder = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return _open_below(folder, path, flags, mode)
    finally:
        os.close(folder)


def _open_below(folder: int, path: str, flags: int, mode: int) -> int:
    flags |= os.O_CLOEXEC | os.O_NOFOLLOW
    how = _How(flags, mode if flags & os.O_CREAT else 0, _NO_MAGICLINKS | _NO_SYMLINKS | _BENEATH)
    name = os.fsencode(path or ".")
    if b"\0" in name:
        raise OSError(errno.EINVAL, "a path with a NUL", path)
    while True:
        found = _LIBC.syscall(_OPENAT2, folder, name, ctypes.byref(how), ctypes.sizeof(how))
        if found >= 0:
            return int(found)
        code = ctypes.get_errno()
        if code in (errno.EAGAIN, errno.EINTR):  # somebody renamed a folder meanwhile
            continue
        if code in (errno.ENOSYS, errno.EPERM):
            return _by_components(folder, path, flags, mode)
        raise OSError(code, os.strerror(code), path)


def _by_components(folder: int, path: str, flags: int, mode: int) -> int:
    """The same without openat2."""
    *parents, last = [part for part in path.split("/") if part not in ("", ".")] or ["."]
    if ".." in (*parents, last) or path.startswith("/"):
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), path)
    here = os.dup(folder)
    try:
        for part in parents:
            inner = os.open(part, _FOLDER, dir_fd=here)
            os.close(here)
            here = inner
        found = os.open(last, flags, mode, dir_fd=here)
    except OSError as error:
        # A link in the middle is "not a directory" to O_DIRECTORY with O_NOFOLLOW.
        raise OSError(error.errno, error.strerror, path) from error
    finally:
        os.close(here)
    if stat.S_ISLNK(os.fstat(found).st_mode):  # O_PATH opens the link itself
        os.close(found)
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
    return found


def open_file(root: str | os.PathLike[str] | int, path: str) -> int:
    """Open a regular file to read it. EINVAL for anything else: a pipe would wait, a device would do
    things."""
    found = open_below(root, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    if not stat.S_ISREG(os.fstat(found).st_mode):
        os.close(found)
        raise OSError(errno.EINVAL, "not a regular file", path)
    return found


def read_file(root: str | os.PathLike[str] | int, path: str, limit: int) -> bytes:
    """The bytes of a regular file. EFBIG when it has more than `limit`."""
    with open(open_file(root, path), "rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise OSError(errno.EFBIG, f"more than {limit} bytes", path)
    return data


def open_parent(root: int, path: str) -> tuple[int, str]:
    """The folder that a path lies in, opened, and the path's last name; the folder is made where it is
    missing."""
    head, name = _parted(path)
    return make_folder(root, head), name


def _parted(path: str) -> tuple[str, str]:
    head, _, name = path.rstrip("/").rpartition("/")
    if name in ("", ".", ".."):
        raise OSError(errno.EINVAL, "no name of a file", path)
    return head, name


def make_folder(root: int, path: str) -> int:
    """Open a folder below a root. What is missing is made; what is in the way, a link too, makes room."""
    missing: list[str] = []
    while True:  # a loop: folders nest deeper than Python calls functions
        try:
            here = open_below(root, path, _FOLDER)
            break
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                raise
        path, name = _parted(path)
        missing.append(name)
    for name in reversed(missing):
        above = here
        try:
            here = _made(above, name)
        finally:
            os.close(above)
    return here


def _made(above: int, name: str) -> int:
    try:
        if not stat.S_ISDIR(os.stat(name, dir_fd=above, follow_symlinks=False).st_mode):
            os.unlink(name, dir_fd=above)
    except FileNotFoundError:
        pass
    try:  # noqa: SIM105  contextlib imports much
        os.mkdir(name, 0o755, dir_fd=above)
    except FileExistsError:
        pass
    return open_below(above, name, _FOLDER)


def walk(root: str | os.PathLike[str]) -> Iterator[tuple[int, list[str], list[str]]]:
    """Every folder below a root, itself first: its descriptor, good until the next one, the names of its
    folders and of all else. As os.fwalk(), but of any depth."""
    todo = [""]
    while todo:
        path = todo.pop()
        here = open_below(root, path, _FOLDER)
        try:
            with os.scandir(here) as found:
                entries = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in found]
            folders = [name for name, is_folder in entries if is_folder]
            yield here, folders, [name for name, is_folder in entries if not is_folder]
        finally:
            os.close(here)
        todo += [f"{path}/{name}".lstrip("/") for name in folders]


def remove(folder: int, name: str) -> None:
    """Remove what has that name in a folder, with all that is in it. Nothing happens where nothing is."""
    try:
        os.unlink(name, dir_fd=folder)
    except FileNotFoundError:
        return
    except (IsADirectoryError, PermissionError):
        import shutil  # only here: a step waits for what starts it, which imports this module
        import subprocess

        try:
            shutil.rmtree(name, dir_fd=folder)  # follows no link: it works with descriptors
        except (OSError, RecursionError):  # deeper than Python goes; nor does rm follow any
            subprocess.run(["rm", "-rf", "--", f"/proc/{os.getpid()}/fd/{folder}/{name}"], check=True)
