"""A command as a step will run it, and the key that its result is found by."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

from ci.engine.boundary import privileged_allowed
from ci.engine.chain import Call
from ci.engine.containers import expanded
from ci.engine.engine import Engine
from ci.engine.masking import Masker
from ci.engine.refusals import refusal
from ci.engine.secrets import plaintext
from ci.engine.store import digest_of
from ci.engine.values import Container, MountPoint, Secret
from ci.errors import BadInput

__all__ = ["Command", "command_of", "masker_of", "secret_marks", "secrets_of"]


class Command:
    """A command as it will run: all that its result depends on, and nothing secret."""

    def __init__(
        self,
        container: Container,
        args: Sequence[str],
        *,
        stdin: str = "",
        privileged: bool = False,
        init: bool = True,
    ) -> None:
        if not args:
            raise BadInput("no command has been set: give args, or set default args")
        self.container = container
        self.args = tuple(args)
        self.stdin = stdin
        self.privileged = privileged
        self.init = init
        """Whether an init is its parent: process 1 is ended by no signal that it does not expect."""

    def key(self, secret_marks: Sequence[str]) -> str:
        """The key of the command's result."""
        ctr = self.container
        return digest_of(
            "exec 3",  # counts what a command's result means: another number does not find the older results
            ctr.layers,
            self.args,
            self.stdin,
            [self.privileged, self.init],
            sorted(ctr.env.items()),
            [ctr.config.get("WorkingDir"), ctr.config.get("User")],
            [_mount_key(mount) for mount in ctr.mounts],
            [name for name, _ in ctr.secret_env],
            list(secret_marks),
            [[alias, service.key] for alias, service in ctr.services],
        )  # fmt: skip

    @property
    def title(self) -> str:
        text = shlex.join(self.args)
        return text if len(text) <= 70 else text[:69] + "…"


def _mount_key(mount: MountPoint) -> list[Any]:
    cache = [mount.cache.key, mount.cache.sharing] if mount.cache else None
    place = [mount.place.layers, mount.place.path]
    return [mount.kind, mount.path, place, mount.owner, mount.mode, mount.size, mount.read_only, cache]


def command_of(
    parent: Container, call: Call, *, use_entrypoint: bool, given: Sequence[str], stdin: str = ""
) -> Command:
    """The command of a withExec or asService call: its arguments or the default ones, after the
    entrypoint."""
    for name in ("experimentalPrivilegedNesting",):
        if call.args[name]:
            raise refusal(name)
    if call.args["insecureRootCapabilities"] and not privileged_allowed():
        raise BadInput(
            "insecureRootCapabilities makes a step root of this machine, and is refused",
            hint="VA_ALLOW_INSECURE=1 allows it, to who trusts every line that the step runs",
        )
    args = [expanded(parent, arg, call.args["expand"]) for arg in given]
    args = args or list(parent.config.get("Cmd") or ())
    if use_entrypoint:
        args = list(parent.config.get("Entrypoint") or ()) + args
    return Command(
        parent,
        args,
        stdin=stdin,
        privileged=call.args["insecureRootCapabilities"],
        init=not call.args["noInit"],
    )


def secrets_of(parent: Container) -> list[Secret]:
    """The secrets that a container's commands are given."""
    mounted = [mount.secret for mount in parent.mounts if mount.secret]
    return [*(secret for _, secret in parent.secret_env), *mounted]


async def secret_marks(engine: Engine, parent: Container) -> list[str]:
    """What stands in a key for the values of the container's secrets, and of those of its services."""
    marks = []
    for secret in secrets_of(parent):
        if secret.cache_key:
            marks.append(f"key {secret.cache_key}")
        elif secret.mac:
            marks.append(secret.mac)
        else:
            marks.append(engine.secrets.mac(secret.uri, await plaintext(engine, secret)))
    for _, service in parent.services:
        marks += await secret_marks(engine, service.container)
    return marks


async def masker_of(engine: Engine, parent: Container) -> Masker:
    """Hides what the container's commands were given, and no other's secrets."""
    masker = Masker()
    for secret in secrets_of(parent):
        masker.add(await plaintext(engine, secret))
    return masker
