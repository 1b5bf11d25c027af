"""A synthetic estate of any number of regions, and how long it takes from its files to its templates.

`python -m benches.estate N` prints the seconds (of CPU) and the number of resources as JSON.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import yaml

from ci.architecture import model
from ci.architecture.check import Severity, check
from ci.architecture.cost import estimate
from ci.architecture.facts import REGIONS
from ci.azure.render import render, write

__all__ = ["estate", "through"]

TODAY = date(2026, 11, 23)


def estate(folder: Path, count: int) -> Path:
    """An environment `estate` of `count` regions over our own base, in a folder of its own."""
    names = ["eastus", *(name for name in REGIONS if name != "eastus")][:count]
    regions = {
        name: {
            "priority": number + 1,
            "vnet": f"10.{number + 100}.0.0/16",
            "zones": ["1", "2", "3"] if REGIONS[name].zones else [],
            "subnets": {
                "aks": {"cidr": f"10.{number + 100}.0.0/22", "purpose": "aks"},
                "media": {"cidr": f"10.{number + 100}.8.0/24", "purpose": "media"},
                "gateway": {"cidr": f"10.{number + 100}.4.0/24", "purpose": "gateway"},
                "endpoints": {"cidr": f"10.{number + 100}.5.0/24", "purpose": "endpoints"},
            },
        }
        for number, name in enumerate(names)
    }
    over = {
        "extends": "base.yaml",
        "environment": "estate",
        "regions": regions,
        "residency": {"geographies": sorted({REGIONS[name].geography for name in names})},
        "postgres": {"replicas": {"second": {"region": names[1]}}},
        "registry": {"replicate_to": names[1:]},
        "budget": {"monthly": "9000000 USD", "alert_at": ["100%"], "contacts": ["a@example.com"]},
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "base.yaml").write_text((model.folder() / "base.yaml").read_text())
    (folder / "estate.yaml").write_text(yaml.safe_dump(over, sort_keys=False))
    return folder


def through(folder: Path) -> tuple[float, int]:
    """Read, check, price, render and write the estate: seconds of CPU, and how many resources it has."""
    start = time.process_time()
    declared = model.read("estate", folder)
    # Of fifty regions some have no pair for geo-redundant storage, as LAW-PAIR rightly says.
    found = [
        one.reason
        for one in check(declared, today=TODAY)
        if one.severity is not Severity.INFO and one.code != "LAW-PAIR"
    ]
    if found or estimate(declared.architecture).low <= 0:
        raise AssertionError(f"the synthetic estate is not clean: {found}")
    modules = render(declared.architecture)
    write(modules, folder / "out")
    return time.process_time() - start, sum(len(module.resources) for module in modules)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="va-bench-") as name:
        through(estate(Path(name) / "warm", 2))
        print(json.dumps(through(estate(Path(name) / "estate", int(sys.argv[1])))))
