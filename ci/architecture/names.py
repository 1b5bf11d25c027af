"""What everything is called: one function, so that no name is ever put together anywhere else.

The primary region's things have the architecture's own names (`aks-voiceassistant-prod`); those of other
regions end with the region's short name (`aks-voiceassistant-prod-weu`). Where Azure allows fewer characters,
the product's name loses its end.
"""

from __future__ import annotations

import re

from ci.architecture.facts import REGIONS
from ci.architecture.model import Architecture

__all__ = ["KINDS", "name"]

# kind -> pattern, the most characters that Azure allows. `{r}` is empty in the primary region.
# Limits: "Naming rules and restrictions for Azure resources", learn.microsoft.com, read 2026-08.
KINDS: dict[str, tuple[str, int]] = {
    "resource group": ("rg-{product}-{env}-{region}", 90),
    "node group": ("rg-{product}-{env}-{region}-nodes", 80),
    "cluster": ("aks-{product}-{env}{-r}", 63),
    "postgres": ("psql-{product}-{env}{-part}{-r}", 63),
    "redis": ("redis-{product}-{env}{-r}", 60),
    "storage": ("st{product}{env}{r}", 24),
    "vnet": ("vnet-{product}-{env}{-r}", 64),
    "nsg": ("nsg-{part}-{product}-{env}{-r}", 80),
    "gateway": ("appgw-{product}-{env}{-r}", 80),
    "waf": ("waf{product}{env}{r}", 128),
    "public ip": ("pip-{part}-{product}-{env}{-r}", 80),
    "nat gateway": ("ng-{product}-{env}{-r}", 80),
    "traffic manager": ("tm-{product}-{env}{-part}", 63),
    "log analytics": ("log-{product}-{env}{-r}", 63),
    "prometheus": ("amw-{product}-{env}{-r}", 44),
    "data collection": ("dcr-{part}-{product}-{env}{-r}", 64),
    "grafana": ("grafana-{product}-{env}", 23),
    "key vault": ("kv-{product}-{env}{-r}", 24),
    "registry": ("acr{product}{env}", 50),
    "identity": ("id-{part}-{product}-{env}{-r}", 128),
    "action group": ("ag-{product}-{env}", 260),
    "metric alert": ("ma-{part}-{product}-{env}", 260),
    "rule group": ("prg-{part}-{product}-{env}{-r}", 260),
    "budget": ("budget-{product}-{env}", 63),
    "private endpoint": ("pe-{part}-{product}-{env}{-r}", 64),
}


def name(architecture: Architecture, kind: str, region: str | None = None, *, part: str = "") -> str:
    """The name of a `kind` of thing in a region (if none, the primary one); `part` tells several apart.

    A KeyError for a kind that has no pattern: that is a mistake in the program, not in a file.
    """
    pattern, limit = KINDS[kind]
    region = region or architecture.primary
    short = "" if region == architecture.primary else REGIONS[region].short

    def put_together(product: str) -> str:
        text = pattern.format_map(
            {
                "product": product,
                "env": architecture.environment,
                "region": region,
                "part": part,
                "r": short,
                "-r": f"-{short}" if short else "",
                "-part": f"-{part}" if part else "",
            }
        )
        return text if "-" in pattern else re.sub("[^a-z0-9]", "", text)

    product = architecture.product
    while len(put_together(product)) > limit and len(product) > 3:
        product = product[:-1].rstrip("-")
    return put_together(product)
