"""What a schema cannot see: rules across the parts of an architecture, each with a stable code.

rule.py       what a rule is
network.py    address ranges, subnets, security groups, private endpoints
edge.py       LiveKit's media, DNS and Traffic Manager, certificates, the firewall
cluster.py    pools and what runs on them: taints, room, drains, quota, identities
data.py       PostgreSQL, Redis, blobs; what can be recovered
aks.py        what AKS and Kubernetes say they refuse: pools, versions, names
limits.py     what Azure's documentation says it refuses: names, sizes, intervals, what a subnet holds
promises.py   regions, the registry, law, exposure, what Azure retires
money.py      what a document says it costs, and the budget

`check` runs them all; `RULES` is the list, which `va env rules` shows.
"""

from __future__ import annotations

from datetime import date

from ci.architecture.chart import Fit, declared_workloads
from ci.architecture.check import aks, cluster, data, edge, limits, money, network, promises
from ci.architecture.check.rule import Estate, Finding, Rule, Severity
from ci.architecture.model import Declared

__all__ = ["RULES", "Finding", "Rule", "Severity", "check"]

RULES: tuple[Rule, ...] = (
    *network.RULES,
    *edge.RULES,
    *cluster.RULES,
    *data.RULES,
    *promises.RULES,
    *aks.RULES,
    *limits.RULES,
    *money.RULES,
)
"""Every rule, in the order they are looked at."""


def check(
    declared: Declared, chart: tuple[Fit, ...] = (), *, today: date, budgeted: bool = True
) -> list[Finding]:
    """All findings, errors first, then by place.

    `chart` is what the rendered chart asks for; the declared workloads are always looked at. `today` decides
    what is retired. `budgeted=False` leaves the cost estimate out.
    """
    estate = Estate(declared, (*declared_workloads(declared), *chart), today)
    rules = RULES if budgeted else [rule for rule in RULES if rule not in money.ESTIMATED]
    found = {
        (finding.code, str(finding.place), finding.reason): finding
        for rule in rules
        for finding in rule.findings(estate)
    }
    order = list(Severity)
    return sorted(
        found.values(),
        key=lambda one: (order.index(one.severity), str(one.place.file), one.place.line or 0, one.code),
    )
