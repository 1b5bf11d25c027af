"""`tools/<module>/`: the files that pin what is made of them, and where that is kept."""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from pathlib import Path

from ci import places
from ci.errors import BadInput
from ci.locks import locked
from ci.reporting import Step
from ci.tools.table import of_go

__all__ = [
    "BUILD_ENV",
    "BUILD_FLAGS",
    "build_digest",
    "build_key",
    "lock",
    "module_folder",
    "module_source",
    "this_platform",
    "workbench",
]

_PINS = (("go.mod", "go.sum"), ("package.json", "package-lock.json"), ("requirements.txt",))
BUILD_FLAGS = ("-mod=readonly", "-trimpath", "-buildvcs=false")
BUILD_ENV = {"CGO_ENABLED": "0", "GOWORK": "off"}
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
"""The kernel's names to Go's."""


def build_digest(module: str) -> str:
    """The SHA-256 (hexadecimal) of what `tools/<module>` builds from: all files there, and the flags."""
    folder = module_source(module)
    digest = hashlib.sha256()
    for file in sorted(file for file in folder.rglob("*") if file.is_file()):
        digest.update(f"{file.relative_to(folder)}\0{file.stat().st_size}\0".encode())
        digest.update(file.read_bytes())
    stamps = sorted({tool.stamp for tool in of_go(module) if tool.stamp})
    digest.update(json.dumps([BUILD_FLAGS, BUILD_ENV, stamps], sort_keys=True).encode())
    return digest.hexdigest()


def build_key(module: str) -> str:
    """The beginning of `build_digest`: a name for what `tools/<module>` builds."""
    return build_digest(module)[:16]


def this_platform() -> str:
    """What programs are built for here, as Go and OCI call it: `linux/amd64`."""
    machine = platform.machine()
    return f"{platform.system().lower()}/{_ARCHITECTURES.get(machine, machine)}"


def module_folder(module: str) -> Path:
    """Where the programs built from `tools/<module>` as it is now are kept."""
    return places.cache() / "tools" / module / build_key(module)


def module_source(module: str) -> Path:
    """`tools/<module>`; BadInput when its pins are not there."""
    folder = places.checkout() / "tools" / module
    if not any(all((folder / name).is_file() for name in pins) for pins in _PINS):
        wanted = " nor ".join(" and ".join(pins) for pins in _PINS)
        raise BadInput(f"{folder} has no {wanted}", hint=f"git checkout -- tools/{module}")
    return folder


def lock(name: str, step: Step) -> AbstractAsyncContextManager[None]:
    """One at a time, whoever asks: `cache()/tools/.<name>.lock`."""
    return locked(places.cache() / "tools" / f".{name}.lock", lambda: step.say("waiting for another va"))


@contextmanager
def workbench(module: str, work: str) -> Iterator[Path]:
    """A folder on the disk of the finished tools, until the block ends; what a killed one left is removed.

    Whoever calls it holds the lock of that work.
    """
    beside = places.cache() / "tools" / module
    beside.mkdir(parents=True, exist_ok=True)
    for left in beside.glob(f".{work}-*"):
        shutil.rmtree(left, ignore_errors=True)
    # A thread that was told to stop may still write there.
    with tempfile.TemporaryDirectory(dir=beside, prefix=f".{work}-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)
