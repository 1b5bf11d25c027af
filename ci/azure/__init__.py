"""Azure Resource Manager: the one room that speaks to it.

arm.py          resources, ids and templates, from the typed models of azure-mgmt-*
network.py edge.py cluster.py access.py data.py operations.py alerting.py    what is rendered, an area each
render.py       an architecture -> its modules: one template an area and region, in order
schema.py       Azure's definition of each type, and what does not fit it
limits.py       what Azure takes of one resource: names, sizes, intervals
across.py       what it refuses, or leaves dead, of several together
offline.py      what can be said of templates without Azure: our rules, the definitions, checkov
registry.py secrets.py    what is asked of the registry and of the vaults that are there
grafana.py      our dashboards in Managed Grafana
outputs.py estate.py    what deployments output; an estate's files made of it
told.py         a plan, or a drift, as Markdown
given.py free.py    the values of template parameters; whether names are to be had
connection.py   the clients, and what their errors become
deploy.py deleted.py    plan, apply, drift; destroy, and what comes back
standin.py      a stand-in for Azure Resource Manager on this machine
template.py refusals.py    the language that it reads, and what it refuses
"""

from __future__ import annotations

import importlib.util
import sys
from typing import Any

_MODELS_ONLY = (
    "authorization", "consumption", "containerregistry", "containerservice",
    "dashboard", "dns", "keyvault", "loganalytics", "msi", "network", "postgresqlflexibleservers",
    "privatedns", "prometheusrulegroups", "redisenterprise", "storage", "trafficmanager",
)  # fmt: skip


def _load_clients_late(package: str) -> None:
    """Importing a package's models loads its clients too, which takes as long again; rendering needs none.

    The package itself is executed only when it is asked for a class: `from azure.mgmt.dns import X` works.
    """
    spec = importlib.util.find_spec(package)
    if package in sys.modules or spec is None or spec.loader is None:
        return
    loader, module = spec.loader, importlib.util.module_from_spec(spec)

    def load(attribute: str) -> Any:
        if attribute[:1].islower() or attribute.startswith("_"):
            raise AttributeError(attribute)  # a submodule: the import system finds it by itself
        del module.__dict__["__getattr__"]
        loader.exec_module(module)
        return getattr(module, attribute)

    module.__dict__["__getattr__"] = load
    sys.modules[package] = module


for _package in _MODELS_ONLY:
    _load_clients_late(f"azure.mgmt.{_package}")
