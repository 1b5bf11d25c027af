"""What the embedded session does not answer, and what comes nearest to it."""

from __future__ import annotations

import re

from ci.engine.engine import NotSupported

__all__ = ["refusal", "unknown"]

_TERMINAL = "withExec with the command that you would type; an error tells what a step printed"
_SOCKET = "a TCP port: Host.service lends one of the loopback; git finds the SSH agent itself"
_MODULES = "the module's functions as Python of the pipeline"
_NEAREST = {
    "Container.dockerHealthcheck": "withExposedPort: a service is there once its ports answer",
    "Container.exportImage": "Container.export, and `docker load` of the tar",
    "Container.terminal": _TERMINAL,
    "Container.withDockerHealthcheck": "withExposedPort: a service is there once its ports answer",
    "Container.withMountedVolume": "withMountedDirectory, or withMountedCache",
    "Container.withUnixSocket": _SOCKET,
    "Container.withVolatileVariable": "withSecretVariable of secret(uri, cacheKey)",
    "Directory.asModule": _MODULES,
    "Directory.asModuleSource": _MODULES,
    "Directory.terminal": _TERMINAL,
    "Engine.localCache": "`va cache usage` and `va cache prune`",
    "Host.containerImage": "Container.import of what `docker save` writes",
    "Host.unixSocket": _SOCKET,
    "Query.address": "Container.from, Host.directory, Query.git or Query.secret of what it names",
    "Query.currentModule": _MODULES,
    "Query.module": _MODULES,
    "Query.moduleSource": _MODULES,
    "Query.sshfsVolume": "Host.directory of a folder where it is mounted",
    "Service.terminal": _TERMINAL,
    "experimentalPrivilegedNesting": "a session of its own in another program of the pipeline",
}
_FIELD = re.compile(r"Cannot query field '(\w+)' on type '(\w+)'\.(?: Did you mean (.+)\?)?", re.DOTALL)
_ARGUMENT = re.compile(r"Unknown argument '(\w+)' on field '([\w.]+)'\.(?: Did you mean (.+)\?)?", re.DOTALL)


def refusal(name: str) -> NotSupported:
    """Why a field or an argument of that name is not answered."""
    return NotSupported(name, _NEAREST.get(name, ""))


def unknown(message: str) -> NotSupported | None:
    """What graphql-core says of a field or an argument that the schema does not have, as a refusal."""
    if found := _FIELD.match(message):
        name, near = f"{found[2]}.{found[1]}", found[3] or ""
    elif found := _ARGUMENT.match(message):
        name, near = f"{found[2]}({found[1]})", found[3] or ""
    else:
        return None
    return NotSupported(name, _NEAREST.get(name) or near.replace("'", ""))
