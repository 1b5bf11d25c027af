"""Azurite: Azure Blob Storage on this machine. A storage account of a region, an instance each."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ci import tools
from ci.platform.daemon import Daemon, as_part, connects
from ci.platform.instance import Instance
from ci.platform.part import Part

__all__ = ["azurite"]


def azurite(
    place: Instance, *, name: str, folder: Path, port: int, account: str, key: Callable[[], str]
) -> Part:
    """It listens on the host's 127.0.0.1 and keeps its blobs in `folder`."""

    def daemon() -> Daemon:
        folder.mkdir(parents=True, exist_ok=True)
        return Daemon(
            name=name,
            argv=(
                *(str(tools.path("node")), str(tools.path("azurite"))),
                *("--blobHost", "127.0.0.1", "--blobPort", str(port), "--location", str(folder)),
                # It knows the versions of the API up to its own; what a newer SDK asks of it here is older.
                *("--skipApiVersionCheck", "--disableTelemetry", "--silent"),
            ),
            env={"AZURITE_ACCOUNTS": f"{account}:{key()}"},
            check=connects("127.0.0.1", port),
            ports=(port,),
        )

    process = as_part(place, daemon, name=name, tools=("node", "azurite"))

    async def down() -> None:
        await process.down()
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    return replace(process, down=down, on_request=True)
