"""Answers of Container about its image: where it comes from, and what its config says."""

from __future__ import annotations

import asyncio
import posixpath
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ci.engine import oci
from ci.engine.chain import Call
from ci.engine.engine import Engine, NotSupported, answer
from ci.engine.store import digest_of, full_disk_is_told
from ci.engine.users import group_id, ids
from ci.engine.values import (
    Container,
    File,
    Port,
    Record,
)
from ci.errors import BadInput
from ci.registry.platforms import Platform, own_platform, this_machine

__all__ = [
    "absolute",
    "expanded",
    "grown_by",
    "owner_of",
    "path_of",
    "platform_of",
    "port_record",
    "ports_of",
    "with_image",
]


@answer("Query.container")
async def container(engine: Engine, parent: None, call: Call) -> Container:
    ours = platform_of(call.args["platform"])
    return Container(platform=str(ours), image={**ours.as_json(), "config": {}})


def platform_of(said: str | None) -> Platform:
    """The platform that a pipeline names, which is to be one of this machine's own."""
    ours = own_platform(said) if said else this_machine()
    if ours is None:
        raise NotSupported(f"platform {said} (this machine is {this_machine()})")
    return ours


@answer("Query.defaultPlatform", "Container.platform")
async def default_platform(engine: Engine, parent: Container | None, call: Call) -> str:
    return parent.platform if parent else str(this_machine())


@answer("Container.import")
async def container_import(engine: Engine, parent: Container, call: Call) -> Container:
    source: File = await engine.value(call.args["source"])
    key = digest_of("import 3", source.layers, source.path, call.args["tag"])

    def read() -> dict[str, Any]:
        known = engine.store.result(key)
        if known is None:
            entry = engine.tree(source.layers).need(source.path)
            if not entry.is_file:
                raise BadInput(f"/{source.path} is not a file")
            with full_disk_is_told(engine.store.root), entry.open() as archive:
                image = oci.read_archive(engine.store, archive, call.args["tag"], name=entry.name)
            known = engine.store.keep(key, _row(image))
        return known

    return with_image(parent, await engine.once(key, lambda: asyncio.to_thread(read)))


def _row(image: oci.Image) -> dict[str, Any]:
    return {
        "layers": list(image.layers),
        "config": dict(image.config),
        "annotations": dict(image.annotations),
    }


def with_image(parent: Container, row: Mapping[str, Any], ref: str = "") -> Container:
    """A container that starts from an image; what surrounds its commands stays."""
    return replace(
        parent,
        layers=tuple(row["layers"]),
        image=row["config"],
        annotations=row["annotations"],
        comments=(),
        ref=ref,
        last=None,
    )


def with_config(parent: Container, **changes: Any) -> Container:
    """The container with parts of its image's config changed; None takes a part away."""
    config = {key: value for key, value in (parent.config | changes).items() if value is not None}
    return replace(parent, image={**parent.image, "config": config})


def expanded(parent: Container, text: str, expand: bool) -> str:
    """`$NAME` and `${NAME}` by the container's environment; secrets may not be used so."""
    if not expand:
        return text
    hidden = {name for name, _ in parent.secret_env}
    env = parent.env

    def value(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        if name in hidden:
            raise BadInput(f"expand cannot be used with secret env variable {name!r}")
        return env.get(name, "")

    return re.sub(r"\$(?:\{(\w+)\}|(\w+))", value, text)


def path_of(parent: Container, call: Call, name: str = "path") -> str:
    """An absolute path in the container, from its working folder, without the leading slash."""
    given = expanded(parent, call.args[name], call.args.get("expand", False))
    return absolute(parent, given).lstrip("/")


def absolute(parent: Container, path: str) -> str:
    return posixpath.normpath(posixpath.join("/", parent.config.get("WorkingDir") or "", path))


def owner_of(engine: Engine, parent: Container, owner: str) -> tuple[int, int] | None:
    if not owner:
        return None
    user, _, group = owner.partition(":")
    uid, gid, _ = ids(engine.tree(parent.layers), user)
    return uid, (group_id(engine.tree(parent.layers), group) if group else gid)


# the image's config


@answer("Container.withEnvVariable")
async def with_env(engine: Engine, parent: Container, call: Call) -> Container:
    name = call.args["name"]
    env = parent.env | {name: expanded(parent, call.args["value"], call.args["expand"])}
    kept = replace(parent, secret_env=tuple(item for item in parent.secret_env if item[0] != name))
    return with_config(kept, Env=[f"{key}={value}" for key, value in env.items()])


@answer("Container.withoutEnvVariable")
async def without_env(engine: Engine, parent: Container, call: Call) -> Container:
    env = [f"{key}={value}" for key, value in parent.env.items() if key != call.args["name"]]
    return with_config(parent, Env=env or None)


@answer("Container.envVariable")
async def env_variable(engine: Engine, parent: Container, call: Call) -> str | None:
    return parent.env.get(call.args["name"])


@answer("Container.envVariables")
async def env_variables(engine: Engine, parent: Container, call: Call) -> list[Record]:
    return [Record({"name": name, "value": value}) for name, value in parent.env.items()]


@answer("Container.withLabel")
async def with_label(engine: Engine, parent: Container, call: Call) -> Container:
    labels = dict(parent.config.get("Labels") or {}) | {call.args["name"]: call.args["value"]}
    return with_config(parent, Labels=labels)


@answer("Container.withoutLabel")
async def without_label(engine: Engine, parent: Container, call: Call) -> Container:
    labels = {
        name: text for name, text in (parent.config.get("Labels") or {}).items() if name != call.args["name"]
    }
    return with_config(parent, Labels=labels or None)


@answer("Container.label")
async def label(engine: Engine, parent: Container, call: Call) -> str | None:
    return (parent.config.get("Labels") or {}).get(call.args["name"])


@answer("Container.labels")
async def labels(engine: Engine, parent: Container, call: Call) -> list[Record]:
    pairs = sorted((parent.config.get("Labels") or {}).items())
    return [Record({"name": name, "value": value}) for name, value in pairs]


@answer("Container.withAnnotation")
async def with_annotation(engine: Engine, parent: Container, call: Call) -> Container:
    return replace(parent, annotations={**parent.annotations, call.args["name"]: call.args["value"]})


@answer("Container.withoutAnnotation")
async def without_annotation(engine: Engine, parent: Container, call: Call) -> Container:
    kept = {name: text for name, text in parent.annotations.items() if name != call.args["name"]}
    return replace(parent, annotations=kept)


@answer("Container.withWorkdir")
async def with_workdir(engine: Engine, parent: Container, call: Call) -> Container:
    return with_config(parent, WorkingDir="/" + path_of(parent, call))


@answer("Container.withoutWorkdir")
async def without_workdir(engine: Engine, parent: Container, call: Call) -> Container:
    return with_config(parent, WorkingDir=None)


@answer("Container.workdir")
async def workdir(engine: Engine, parent: Container, call: Call) -> str:
    return parent.config.get("WorkingDir") or ""


@answer("Container.withUser")
async def with_user(engine: Engine, parent: Container, call: Call) -> Container:
    return with_config(parent, User=call.args["name"])


@answer("Container.withoutUser")
async def without_user(engine: Engine, parent: Container, call: Call) -> Container:
    return with_config(parent, User=None)


@answer("Container.user")
async def user(engine: Engine, parent: Container, call: Call) -> str:
    return parent.config.get("User") or ""


@answer("Container.withEntrypoint", "Container.withoutEntrypoint")
async def with_entrypoint(engine: Engine, parent: Container, call: Call) -> Container:
    changes: dict[str, Any] = {"Entrypoint": call.args.get("args")}
    if not call.args["keepDefaultArgs"]:
        changes["Cmd"] = None
    return with_config(parent, **changes)


@answer("Container.entrypoint")
async def entrypoint(engine: Engine, parent: Container, call: Call) -> list[str]:
    return parent.config.get("Entrypoint") or []


@answer("Container.withDefaultArgs", "Container.withoutDefaultArgs")
async def with_default_args(engine: Engine, parent: Container, call: Call) -> Container:
    return with_config(parent, Cmd=call.args.get("args"))


@answer("Container.defaultArgs")
async def default_args(engine: Engine, parent: Container, call: Call) -> list[str]:
    return parent.config.get("Cmd") or []


@answer("Container.withExposedPort")
async def with_exposed_port(engine: Engine, parent: Container, call: Call) -> Container:
    port = Port(
        port=call.args["port"],
        protocol=call.args["protocol"],
        description=call.args["description"],
        skip_check=call.args["experimentalSkipHealthcheck"],
    )
    others = tuple(item for item in parent.ports if (item.port, item.protocol) != (port.port, port.protocol))
    exposed = dict(parent.config.get("ExposedPorts") or {}) | {_oci_port(port): {}}
    return with_config(replace(parent, ports=(*others, port)), ExposedPorts=exposed)


@answer("Container.withoutExposedPort")
async def without_exposed_port(engine: Engine, parent: Container, call: Call) -> Container:
    gone = Port(port=call.args["port"], protocol=call.args["protocol"])
    others = tuple(item for item in parent.ports if (item.port, item.protocol) != (gone.port, gone.protocol))
    exposed = dict(parent.config.get("ExposedPorts") or {})
    exposed.pop(_oci_port(gone), None)
    return with_config(replace(parent, ports=others), ExposedPorts=exposed or None)


def _oci_port(port: Port) -> str:
    return f"{port.port}/{port.protocol.lower()}"


def ports_of(parent: Container) -> list[Port]:
    """What the container exposes: said here, or by its image."""
    known = {_oci_port(port): port for port in parent.ports}
    for text in parent.config.get("ExposedPorts") or {}:
        number, _, protocol = text.partition("/")
        if text not in known and number.isdigit():
            known[text] = Port(port=int(number), protocol=(protocol or "tcp").upper())
    return list(known.values())


@answer("Container.exposedPorts")
async def exposed_ports(engine: Engine, parent: Container, call: Call) -> list[Record]:
    return [port_record(port) for port in ports_of(parent)]


def port_record(port: Port) -> Record:
    """The Port object."""
    return Record(
        {
            "port": port.port,
            "protocol": port.protocol,
            "description": port.description,
            "experimentalSkipHealthcheck": port.skip_check,
        }
    )


@answer("Container.withDefaultTerminalCmd")
async def with_default_terminal_cmd(engine: Engine, parent: Container, call: Call) -> Container:
    """It says what a terminal would run; there is none."""
    return parent


@answer("Container.withError", "Directory.withError")
async def with_error(engine: Engine, parent: Container, call: Call) -> Container:
    if call.args["err"]:
        raise BadInput(call.args["err"])
    return parent


@answer("Container.imageRef")
async def image_ref(engine: Engine, parent: Container, call: Call) -> str:
    if not parent.ref:
        raise BadInput("Image reference can only be retrieved immediately after the 'Container.From' call")
    return parent.ref


def grown_by(parent: Container, layers: tuple[str, ...], comment: str) -> Container:
    """The container on more layers; the history tells which call made each."""
    new = len(layers) - len(parent.layers)
    return replace(parent, layers=layers, comments=(*parent.comments, *([comment] * new)), ref="")
