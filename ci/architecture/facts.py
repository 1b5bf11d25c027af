"""What Azure offers and what it retires: plain facts, each with where it was read and when.

They age. `retirements.yaml` and this file are the only places to change when Azure does.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from functools import cache
from pathlib import Path

__all__ = [
    "AZURE_SERVICE_CIDR",
    "POSTGRES_GB",
    "REGIONS",
    "RESERVED_ADDRESSES",
    "VM_SIZES",
    "AzureRegion",
    "Retirement",
    "VmSizeFacts",
    "retirements",
]

RESERVED_ADDRESSES = 5
"""Addresses of each subnet that Azure keeps for itself (virtual network FAQ)."""

AZURE_SERVICE_CIDR = "10.0.0.0/16"
"""What AKS takes as service CIDR where none is given (az aks create reference)."""


@dataclass(frozen=True)
class AzureRegion:
    """One public region. `geography` is what data residency is promised by.

    `pair` is the region that Azure copies geo-redundant storage to, empty where it pairs it with none.
    """

    short: str
    display: str
    geography: str
    zones: bool
    pair: str


def _regions() -> dict[str, AzureRegion]:
    # name, short (the Cloud Adoption Framework's geo codes), display, geography, availability zones, pair.
    # Source: "List of Azure regions", learn.microsoft.com, as of August 2026; not read from the API; the
    # pairs as remembered. A pair need not be mutual, nor in the same geography: Brazil South's is in the US.
    lines = """
        eastus              eus   East US               us             yes  westus
        eastus2             eus2  East US 2             us             yes  centralus
        centralus           cus   Central US            us             yes  eastus2
        northcentralus      ncus  North Central US      us             no   southcentralus
        southcentralus      scus  South Central US      us             yes  northcentralus
        westcentralus       wcus  West Central US       us             no   westus2
        westus              wus   West US               us             no   eastus
        westus2             wus2  West US 2             us             yes  westcentralus
        westus3             wus3  West US 3             us             yes  eastus
        canadacentral       cac   Canada Central        canada         yes  canadaeast
        canadaeast          cae   Canada East           canada         no   canadacentral
        mexicocentral       mxc   Mexico Central        mexico         yes  -
        brazilsouth         brs   Brazil South          brazil         yes  southcentralus
        brazilsoutheast     brse  Brazil Southeast      brazil         no   brazilsouth
        chilecentral        clc   Chile Central         chile          yes  -
        northeurope         neu   North Europe          europe         yes  westeurope
        westeurope          weu   West Europe           europe         yes  northeurope
        francecentral       frc   France Central        france         yes  francesouth
        francesouth         frs   France South          france         no   francecentral
        germanywestcentral  gwc   Germany West Central  germany        yes  germanynorth
        germanynorth        gn    Germany North         germany        no   germanywestcentral
        italynorth          itn   Italy North           italy          yes  -
        norwayeast          nwe   Norway East           norway         yes  norwaywest
        norwaywest          nww   Norway West           norway         no   norwayeast
        polandcentral       plc   Poland Central        poland         yes  -
        spaincentral        spc   Spain Central         spain          yes  -
        swedencentral       sdc   Sweden Central        sweden         yes  swedensouth
        swedensouth         sds   Sweden South          sweden         no   swedencentral
        switzerlandnorth    szn   Switzerland North     switzerland    yes  switzerlandwest
        switzerlandwest     szw   Switzerland West      switzerland    no   switzerlandnorth
        austriaeast         aue   Austria East          austria        yes  -
        uksouth             uks   UK South              uk             yes  ukwest
        ukwest              ukw   UK West               uk             no   uksouth
        uaenorth            uan   UAE North             uae            yes  uaecentral
        uaecentral          uac   UAE Central           uae            no   uaenorth
        qatarcentral        qac   Qatar Central         qatar          yes  -
        israelcentral       ilc   Israel Central        israel         yes  -
        southafricanorth    san   South Africa North    south-africa   yes  southafricawest
        southafricawest     saw   South Africa West     south-africa   no   southafricanorth
        eastasia            ea    East Asia             asia-pacific   yes  southeastasia
        southeastasia       sea   Southeast Asia        asia-pacific   yes  eastasia
        japaneast           jpe   Japan East            japan          yes  japanwest
        japanwest           jpw   Japan West            japan          yes  japaneast
        koreacentral        krc   Korea Central         korea          yes  koreasouth
        koreasouth          krs   Korea South           korea          no   koreacentral
        centralindia        inc   Central India         india          yes  southindia
        southindia          ins   South India           india          no   centralindia
        westindia           inw   West India            india          no   southindia
        indonesiacentral    idc   Indonesia Central     indonesia      yes  -
        malaysiawest        myw   Malaysia West         malaysia       yes  -
        newzealandnorth     nzn   New Zealand North     new-zealand    yes  -
        australiaeast       ae    Australia East        australia      yes  australiasoutheast
        australiasoutheast  ase   Australia Southeast   australia      no   australiaeast
        australiacentral    acl   Australia Central     australia      no   -
    """
    found = {}
    for line in lines.strip().splitlines():
        name, short, *display, geography, zones, pair = line.split()
        found[name] = AzureRegion(short, " ".join(display), geography, zones == "yes", pair.strip("-"))
    return found


REGIONS = _regions()


@dataclass(frozen=True)
class VmSizeFacts:
    """What a node of this size has, and what AKS keeps of it for itself."""

    vcpus: int
    memory_gib: int
    family: str

    @property
    def allocatable_millicores(self) -> int:
        """CPU left for pods: AKS reserves 60 m of 1 core, 100 of 2, 140 of 4, 180 of 8, 260 of 16, 420 of 32.

        Source: "Node resource reservations", learn.microsoft.com/azure/aks, read 2026-08.
        """
        reserved = {1: 60, 2: 100, 4: 140, 8: 180, 16: 260, 32: 420}
        return self.vcpus * 1000 - next(m for cores, m in reserved.items() if self.vcpus <= cores)

    def allocatable_mib(self, max_pods: int) -> int:
        """Memory left for pods: less 100 MiB for eviction and min(20 MiB a pod + 50 MiB, 25 %)."""
        total = self.memory_gib * 1024
        return total - 100 - min(20 * max_pods + 50, total // 4)


def _vm_sizes() -> dict[str, VmSizeFacts]:
    # Source: VM size series pages (Dsv3, Dsv5, Ddsv5, Dasv5, Dsv6, Fsv2), learn.microsoft.com, read 2026-08.
    series = {
        "Standard_D{n}s_v3": ("DSv3", 4, (2, 4, 8, 16, 32)),
        "Standard_D{n}s_v5": ("DSv5", 4, (2, 4, 8, 16, 32)),
        "Standard_D{n}ds_v5": ("DDSv5", 4, (2, 4, 8, 16, 32)),
        "Standard_D{n}as_v5": ("DASv5", 4, (2, 4, 8, 16, 32)),
        "Standard_D{n}s_v6": ("Dsv6", 4, (2, 4, 8, 16, 32)),
        "Standard_D{n}ds_v6": ("Ddsv6", 4, (2, 4, 8, 16, 32)),
        "Standard_E{n}s_v5": ("ESv5", 8, (2, 4, 8, 16, 32)),
        "Standard_F{n}s_v2": ("FSv2", 2, (2, 4, 8, 16, 32)),
    }
    return {
        name.format(n=n): VmSizeFacts(n, n * gib, family)
        for name, (family, gib, sizes) in series.items()
        for n in sizes
    }


VM_SIZES = _vm_sizes()


@dataclass(frozen=True, kw_only=True)
class Retirement:
    """A service or version that ends. `last` is its last day; `source` says so, `read` is when."""

    service: str
    last: date
    instead: str
    source: str
    read: date


@cache
def retirements() -> dict[str, Retirement]:
    """By service, for example `kubernetes 1.28`; from retirements.yaml beside this file."""
    from ci.yamlfile import load

    lines = load(Path(__file__).with_name("retirements.yaml")).data["retirements"]
    return {line["service"]: Retirement(**line) for line in lines}


POSTGRES_GB = (32, 64, 128, 256, 512, 1024, 2048, 4095, 4096, 8192, 16384, 32767)
"""The storage of a flexible server. Source: postgresql/flexible-server/concepts-storage, Premium SSD."""
