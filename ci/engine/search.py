"""Answers of Directory.search and File.search: lines that match a pattern, as ripgrep tells them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from ci.engine.chain import Call
from ci.engine.engine import Engine, answer
from ci.engine.files import base_name
from ci.engine.values import Directory, File, Place, Record
from ci.errors import BadInput
from ci.process import run

__all__: list[str] = []

_SEARCHING = "import sys; sys.path.insert(0, sys.argv.pop(1)); from ci.engine.searching import main; main()"
_CHECKOUT = Path(__file__).resolve().parents[2]
_SECONDS = 60


@answer("Directory.search")
async def directory_search(engine: Engine, parent: Directory, call: Call) -> list[Record]:
    return await _found(engine, parent, None, call.args)


@answer("File.search")
async def file_search(engine: Engine, parent: File, call: Call) -> list[Record]:
    return await _found(engine, parent, base_name(parent), call.args)


@answer("SearchResult.submatches")
async def submatches(engine: Engine, parent: Record, call: Call) -> list[Record]:
    found: list[Record] = parent.fields["submatches"]
    return found


async def _found(engine: Engine, place: Place, name: str | None, args: dict[str, Any]) -> list[Record]:
    if args["limit"] is not None and args["limit"] < 0:
        raise BadInput(f"limit {args['limit']}: a search finds no fewer than 0")
    asked = {
        "layers": [str(engine.store.layers / layer) for layer in place.layers],
        "path": place.path,
        "name": name,
        "args": args,
        "seconds": _SECONDS,
    }
    too_long = BadInput(
        f"the search for {args['pattern'][:200]!r} took more than {_SECONDS} s of processor time",
        hint="a repetition within a repetition, as in (a+)+, tries every way there is",
    )
    try:
        done = await run(
            "setpriv", "--pdeathsig", "KILL", "--", sys.executable, "-I", "-c", _SEARCHING, _CHECKOUT,
            stdin=json.dumps(asked), timeout=10 * _SECONDS, failure=BadInput, check=False,
        )  # fmt: skip
    except BadInput:
        raise too_long from None
    if done.code < 0:
        raise too_long
    if done.code:
        raise RuntimeError(f"the search failed: {done.stderr[-2000:]}")
    results = [json.loads(line) for line in done.stdout.splitlines()]
    if results and "error" in results[-1]:
        raise BadInput(results[-1]["error"], hint=results[-1]["hint"])
    return [Record({**each, "submatches": [Record(one) for one in each["submatches"]]}) for each in results]
