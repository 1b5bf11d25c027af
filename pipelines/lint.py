"""Check what no compiler sees: the workflows, and the chart as each environment renders it.

Environments are those of every estate, and those of the deployment architecture: there the rendered workloads
are also held to the architecture's own rules (pools, taints, quotas, drains).
"""

from __future__ import annotations

import asyncio

from ci import places, tools
from ci.delivery.chart import lint as lint_chart
from ci.delivery.chart import render
from ci.delivery.manifests import validate
from ci.delivery.site import chart_values
from ci.environments import estates, read_environments
from ci.errors import StepFailed
from ci.process import run
from ci.reporting import Reporter
from pipelines.chart import (
    CHART_FOLDER,
    TRACKS,
    hold_to_checkov,
    hold_to_rules,
    production_renderings,
    stand_in_release,
)

__all__ = ["lint"]


async def lint(reporter: Reporter) -> None:
    """actionlint on the workflows; helm, kubeconform and our rules on the chart; raises what it finds."""
    await tools.ensure(["actionlint", "helm"], reporter)
    root = places.checkout()
    with reporter.step("workflows") as step:
        files = sorted((root / ".github" / "workflows").glob("*.yml"))
        await run(tools.path("actionlint"), "-no-color", *files, failure=StepFailed)
        step.say(f"{len(files)} files")
    chart, helm = root / CHART_FOLDER, tools.path("helm")
    with reporter.step("chart") as step:
        rendered = {}
        for estate in estates():
            for environment in read_environments(estate):
                for target in environment.targets.values():
                    for track, name in TRACKS.items():
                        values = chart_values(environment, target, stand_in_release(), track)
                        await lint_chart(chart, values, helm=helm)
                        said = f"{estate} {target.name} {track}"
                        rendered[said] = await render(chart, values, name=name, helm=helm)
        in_production = await production_renderings(helm)
        await asyncio.to_thread(hold_to_rules, in_production)
        rendered |= {f"architecture {one}": text for one, text in in_production.items()}
        count = await validate(rendered, reporter)
        step.say(f"{count} objects of {len(rendered)} renderings")
    await tools.ensure(["checkov"], reporter)
    with reporter.step("checkov") as step:
        production = {one: text for one, text in in_production.items() if one.startswith("prod/")}
        waived = await hold_to_checkov(production, tools.path("checkov"))
        step.say(f"clean, {waived} findings are waived")
