"""`python -m benches.shipping REGISTRY REPORTS published|built [IMAGE...]`: one run, told as JSON on stdout.

It does what `va ship` does, to a registry that is not the embedded platform's; `built` stops after the build.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
from pathlib import Path
from typing import Any

from ci import tools
from ci.engine import session
from ci.registry import Registry
from ci.reporting import console_reporter
from ci.supply.signing import KeyPair, key_signer, make_key_pair
from pipelines.build import build
from pipelines.images import IMAGES
from pipelines.registries import EstateRegistries
from pipelines.ship import ship


async def main(address: str, reports: Path, to: str, names: list[str]) -> dict[str, Any]:
    reporter = console_reporter()
    images = [image for image in IMAGES if not names or image.name in names]
    async with session(reporter) as (client, engine), Registry(address) as registry:
        if to == "built":
            built = await build(client, reporter=reporter, images=images)
            return {"built": {one.name: one.unchanged for one in built}, "tested": {}, "bytes_sent": 0}
        pair = KeyPair(folder=reports.parent / "signing")
        await make_key_pair(pair, cosign=tools.path("cosign"))
        shipped = await ship(
            client,
            engine=engine,
            registries=EstateRegistries(home=registry),
            signer=key_signer(pair),
            reporter=reporter,
            reports=reports,
            images=images,
        )
    return {
        "built": {one.name: one.unchanged for one in shipped.built},
        "tested": {one.name: one.cached for one in shipped.tested},
        "bytes_sent": sum(one.bytes_sent for one in shipped.published),
    }


if __name__ == "__main__":
    said = asyncio.run(main(sys.argv[1], Path(sys.argv[2]), sys.argv[3], sys.argv[4:]))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    json.dump({**said, "peak_mib": peak}, sys.stdout)
