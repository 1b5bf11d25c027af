"""`va drill`: rehearse what fails on the embedded platform; the work is in `pipelines.regional`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ci.commands.answers import answer
from ci.commands.machine import needs_platform
from ci.commands.options import Json
from ci.errors import StepFailed

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from typing import Any

    from ci.reporting import Reporter
    from pipelines.regional import RegionDrilled

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Rehearse failures on the embedded platform.")


@app.callback()
def _group() -> None:
    """Rehearse failures on the embedded platform."""


@app.command()
@needs_platform
def region(
    name: Annotated[str, typer.Argument(help="eastus, westeurope or southeastasia.")],
    rate: Annotated[float, typer.Option(min=1, max=500, help="Sessions a second, synthetic.")] = 30.0,
    json: Json = False,
) -> None:
    """Cut a region's network, see users find another one, join it again; all of it measured.

    Of `va up --clusters 3`, with a release in prod. Ends with 3 when the probes were too slow, or requests
    were lost as it came back. Example: va drill region westeurope
    """
    from pipelines.regional import lose_region, show_region

    def flow(reporter: Reporter) -> Coroutine[Any, Any, RegionDrilled]:
        return lose_region(name, rate=rate, reporter=reporter)

    if answer(flow, json=json, show=show_region).problems:
        raise typer.Exit(StepFailed.exit_code)
