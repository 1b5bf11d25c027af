"""`va gate`: which gates an environment has, whether they can see, what one said, what others would have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ci.commands.answers import answer
from ci.commands.options import SETTINGS, Estate, Json
from ci.errors import StepFailed

if TYPE_CHECKING:
    from ci.delivery.promotion.replay import Replayed
    from ci.layout import Page
    from ci.reporting import Reporter
    from pipelines.gates import Checked, Explained, Listed

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True, help="Ask gates: which there are, what they said, what others would have said."
)

_Place = Annotated[str, typer.Argument(help="The environment.")]
_Promotion = Annotated[str, typer.Argument(help="Its name, or the first letters of it (va history).")]
_Share = typer.Option(min=1e-9, max=0.999999)


@app.command("list", context_settings=SETTINGS)
def list_(environment: _Place, estate: Estate = "local", json: Json = False) -> None:
    """Show the gates of an environment: what each goes by, and when it fails and passes.

    Example: va gate list prod
    """
    from ci.environments import read_environment
    from ci.layout import Column, Table, page, words
    from pipelines.gates import gates_of

    async def flow(_: Reporter) -> tuple[Listed, ...]:
        return gates_of(read_environment(estate, environment))

    def shown(found: tuple[Listed, ...]) -> Page:
        table = Table(
            "gate",
            Column(name="kind", rank=3),
            Column(name="source", rank=4),
            Column(name="fails", rank=1, below=True, prose=True),
            Column(name="passes", rank=2, below=True, prose=True),
            Column(name="fails at E", rank=5, right=True),
        )
        for one in found:
            at = f"{one.fails_at:.0f}" if one.fails_at else "-"
            name = f"{one.name} (dry run)" if one.dry_run else one.name
            table.add(name, one.kind, one.source, one.fails, one.passes, at)
        asked = [
            words((f"{one.name}: {key}: {query}", "dim"))
            for one in found
            for key, query in one.queries.items()
        ]
        return page(table, *asked)

    answer(flow, json=json, show=shown)


@app.command("check", context_settings=SETTINGS)
def check(environment: _Place, estate: Estate = "local", json: Json = False) -> None:
    """Ask each target's Prometheus whether it has what the gates go by; 3 when something is missing.

    Example: va gate check staging
    """
    from ci.environments import read_environment
    from pipelines.gates import check_gates

    async def flow(_: Reporter) -> tuple[Checked, ...]:
        return await check_gates(read_environment(estate, environment))

    _told_of("a gate cannot see", answer(flow, json=json, show=_checked), json=json)


@app.command("lint", context_settings=SETTINGS)
def lint(environment: _Place, estate: Estate = "local", json: Json = False) -> None:
    """Try the queries of the gates on each target's Prometheus: their shape, and that somebody exports what
    they name; 3 when something is wrong. A gate that is written wrongly is 2, and names file and line.

    Example: va gate lint prod
    """
    from ci.environments import read_environment
    from pipelines.gates import lint_gates

    async def flow(_: Reporter) -> tuple[Checked, ...]:
        return await lint_gates(read_environment(estate, environment))

    _told_of("a gate is not as it should be", answer(flow, json=json, show=_checked), json=json)


def _checked(found: tuple[Checked, ...]) -> Page:
    from ci.layout import Column, Table, page

    table = Table(
        "target",
        "gate",
        Column(name="metric", rank=2, below=True),
        Column(name="series", rank=1, right=True),
        Column(name="problem", rank=3, below=True, prose=True),
    )
    for one in found:
        table.add(one.target, one.gate, one.metric, str(one.series), (one.problem, "red"))
    return page(table) if found else page("no gate asks Prometheus anything of its own")


def _told_of(what: str, found: tuple[Checked, ...], *, json: bool) -> None:
    from ci.commands.answers import fail
    from pipelines.gates import problems

    if wrong := problems(found):
        hint = next((one.hint for one in found if one.hint), "va status says which part is down")
        fail(StepFailed(f"{what}: {wrong}", hint=hint), json=json)


@app.command("explain", context_settings=SETTINGS)
def explain_(
    promotion: _Promotion,
    target: Annotated[str | None, typer.Option(help="This one alone: prod/eastus.")] = None,
    estate: Estate = "local",
    json: Json = False,
) -> None:
    """Say what each gate of a promotion counted and concluded, in a sentence each and in numbers.

    Example: va gate explain 2026-11-29T20 --target staging/eastus
    """
    from ci.delivery.results import headline
    from ci.layout import page, words
    from pipelines.gates import explain

    async def flow(_: Reporter) -> tuple[Explained, ...]:
        return await explain(estate, promotion, target)

    def shown(found: tuple[Explained, ...]) -> Page:
        lines, where = [], ""
        for one in found:
            step = f"{one.target} at {one.weight} %: {one.result}"
            if step != where:
                lines.append(words((step, "bold")))
                where = step
            lines += [words(f"  {one.sentence}."), words((f"    {headline(one.finding)}", "dim"))]
        return page(*lines)

    answer(flow, json=json, show=shown)


@app.command("replay", context_settings=SETTINGS)
def replay_(
    promotion: _Promotion,
    target: Annotated[str, typer.Argument(help="Where it was: prod/eastus.")],
    alpha: Annotated[float | None, _Share] = None,
    beta: Annotated[float | None, _Share] = None,
    floor: Annotated[float | None, _Share] = None,
    estate: Estate = "local",
    json: Json = False,
) -> None:
    """Ask the gates of now, or changed ones, about a promotion that was: look by look, until they decide.

    Of what this machine has kept of it; saturation is not.

    Example: va gate replay 2026-11-29T20 staging/eastus --alpha 0.01
    """
    from ci.delivery.results import headline
    from ci.layout import Column, Table, page, words
    from pipelines.gates import replay

    async def flow(_: Reporter) -> tuple[Replayed, ...]:
        return await replay(estate, promotion, target, alpha=alpha, beta=beta, floor=floor)

    def shown(found: tuple[Replayed, ...]) -> Page:
        table = Table(
            Column(name="weight", right=True), "it said", Column(name="after", rank=2, right=True),
            "it would say", Column(name="then", rank=1, right=True),
        )  # fmt: skip
        for one in found:
            was, now = f"{one.was_seconds:.0f} s", f"{one.seconds:.0f} s"
            table.add(f"{one.weight} %", one.was.value, was, one.verdict.value, now)
        told = [words((f"{one.weight} %: {headline(each)}", "dim")) for one in found for each in one.findings]
        return page(table, "", *told)

    answer(flow, json=json, show=shown)
