"""What an architecture costs a month: low with every pool at its minimum, high with each at its maximum.

An estimate: list prices (prices.yaml), a month of 730 hours, and the assumptions that stand in the same file.
The same function prices a what-if, so that the two differ in nothing but what was asked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from ci.architecture.data import BlobStorage
from ci.architecture.model import Architecture, Declared
from ci.architecture.operations import Claims
from ci.errors import BadInput, Place
from ci.yamlfile import Document, checked, did_you_mean, load

__all__ = ["CostLine", "Estimate", "PriceUsed", "Stated", "estimate", "prices_file", "stated", "what_if"]

HOURS = 730
"""Azure's own month in hours."""


@dataclass(frozen=True, kw_only=True)
class PriceUsed:
    """One price of an estimate: USD a unit in a region, who said so, and when it was read there."""

    item: str
    region: str
    usd: float
    unit: str
    source: str
    read: str


@dataclass(frozen=True, kw_only=True)
class CostLine:
    """One component in one region, USD a month; `basis` says what was counted, `prices` by what."""

    component: str
    region: str
    low: float
    high: float
    basis: str
    prices: tuple[PriceUsed, ...]


@dataclass(frozen=True)
class Estimate:
    """All lines. `low` and `high` are their sums."""

    lines: tuple[CostLine, ...]

    @property
    def low(self) -> float:
        """Every pool at its minimum."""
        return sum(line.low for line in self.lines)

    @property
    def high(self) -> float:
        """Every pool at its maximum, all month."""
        return sum(line.high for line in self.lines)

    def prices(self) -> tuple[PriceUsed, ...]:
        """Every price in it, once."""
        return tuple(dict.fromkeys(price for line in self.lines for price in line.prices))

    def by_component(self) -> dict[str, tuple[float, float]]:
        """The regions' lines added up."""
        sums: dict[str, tuple[float, float]] = {}
        for line in self.lines:
            low, high = sums.get(line.component, (0.0, 0.0))
            sums[line.component] = (low + line.low, high + line.high)
        return sums


@dataclass(frozen=True, kw_only=True)
class Stated:
    """A cost table that a document states, with its own total and the right one."""

    rows: Mapping[str, tuple[float, float]]
    total: tuple[float, float]
    sums: tuple[float, float]


def prices_file() -> Path:
    """The price table."""
    return Path(__file__).with_name("prices.yaml")


class _Prices:
    """The table, and what was asked of it since somebody took note."""

    def __init__(self, data: Mapping[str, Any]) -> None:
        self._lines = {line["id"]: line for line in data["prices"]}
        self._asked: list[PriceUsed] = []
        self._factors = {"eastus": 1.0, **data["factors"]}
        self._other = data["other_regions"]
        self._assumed = data["assumptions"]

    def __call__(self, item: str, region: str) -> float:
        if item not in self._lines:
            raise BadInput(
                f"there is no price for {item!r}",
                place=Place(file=prices_file()),
                hint=did_you_mean(item, self._lines),
            )
        line = self._lines[item]
        usd, source = line["usd"], str(line["source"])
        if region in usd:
            found = float(usd[region])
        else:
            factor = self._factors.get(region, self._other)
            found, source = float(usd["eastus"] * factor), f"{source}; East US x {factor:g}"
        self._asked.append(
            PriceUsed(
                item=item, region=region, usd=found, unit=line["unit"], source=source, read=str(line["read"])
            )
        )
        return found

    def taken(self) -> tuple[PriceUsed, ...]:
        """The prices that were asked since the last time, each once."""
        asked, self._asked = self._asked, []
        return tuple(dict.fromkeys(asked))

    def assumed(self, what: str) -> tuple[float, float]:
        return float(self._assumed[what]["low"]), float(self._assumed[what]["high"])


@cache
def _table() -> Mapping[str, Any]:
    return load(prices_file()).data


def estimate(architecture: Architecture, region: str | None = None) -> Estimate:
    """The month's cost of all regions, or of one. BadInput for an unknown region or price."""
    if region is not None and region not in architecture.regions:
        raise BadInput(
            f"{architecture.environment} has no region {region!r}",
            hint=did_you_mean(region, architecture.regions),
        )
    price = _Prices(_table())
    lines = (line for each in architecture.order for line in _region(architecture, each, price))
    return Estimate(tuple(line for line in lines if region in (None, line.region)))


def _region(architecture: Architecture, region: str, price: _Prices) -> Iterator[CostLine]:
    def line(component: str, low: float, high: float, basis: str) -> CostLine:
        return CostLine(
            component=component, region=region, low=low, high=high, basis=basis, prices=price.taken()
        )

    primary = region == architecture.primary
    kubernetes = architecture.kubernetes
    for name, pool in kubernetes.pools.items():
        disks = -(-pool.os_disk // 128) * price("disk P10", region)
        address = price("public ip", region) * HOURS if pool.public_ip_per_node else 0.0
        node = price(f"vm {pool.vm_size}", region) * HOURS + disks + address
        yield line(
            "kubernetes",
            pool.min * node,
            pool.max * node,
            f"{name}: {pool.min}-{pool.max} x {pool.vm_size} and disk",
        )
    control = price(f"aks {kubernetes.tier}", region) * HOURS
    yield line("kubernetes", control, control, f"control plane, {kubernetes.tier}")

    postgres = architecture.postgres
    servers = (2 if postgres.high_availability != "none" else 1) if primary else 0
    replicas = sum(replica.region == region for replica in postgres.replicas.values())
    if servers or replicas:
        one = price(f"postgres {postgres.sku}", region) * HOURS
        one += postgres.storage * price("postgres storage", region)
        backup = (
            postgres.storage * price("postgres backup", region) * (2 if postgres.geo_redundant_backup else 1)
        )
        low, high = price.assumed("database_backup_share")
        yield line(
            "postgres",
            (servers + replicas) * one + low * backup * primary,
            (servers + replicas) * one + high * backup * primary,
            f"{servers + replicas} x {postgres.sku}, {postgres.storage} GB each",
        )

    redis = architecture.redis
    if redis.service == "azure-managed-redis" or primary:
        managed = redis.service == "azure-managed-redis"
        nodes = (2 if redis.high_availability else 1) if managed else redis.shards
        usd = nodes * price(f"redis {redis.sku}", region) * HOURS
        yield line("redis", usd, usd, f"{nodes} x {redis.sku}")

    yield _blobs(architecture.storage, region, price)
    units = price("gateway capacity unit", region) * HOURS * 10
    fixed = price("gateway WAF_v2", region) * HOURS
    gateway = architecture.gateway
    yield line(
        "gateway",
        fixed + gateway.min_units * units,
        fixed + gateway.max_units * units,
        f"WAF v2, {gateway.min_units}-{gateway.max_units} instances",
    )

    egress = price.assumed("egress_gb")
    balancer = (price("load balancer", region) + price("public ip", region)) * HOURS
    yield line(
        "load-balancer",
        balancer + 0.1 * egress[0] * price("load balancer data", region),
        balancer + 0.1 * egress[1] * price("load balancer data", region),
        "Standard; a tenth of the traffic passes it",
    )
    nat = (price("nat gateway", region) + price("public ip", region)) * HOURS
    yield line("nat-gateway", nat, nat, "outbound of the private nodes")
    low, high = (gb * price("internet egress", region) for gb in egress)
    if not primary:
        between = price.assumed("inter_region_gb")
        low += between[0] * price("inter-region transfer", region)
        high += between[1] * price("inter-region transfer", region)
    yield line("bandwidth", low, high, f"{egress[0]:,.0f}-{egress[1]:,.0f} GB out")

    registries = (1 if primary else 0) + (region in architecture.registry.replicate_to and not primary)
    if registries:
        usd = price(f"registry {architecture.registry.sku}", region)
        yield line("registry", usd, usd, "the registry" if primary else "a replication")
    vault = price.assumed("vault_operations_10k")
    yield line(
        "key-vault",
        vault[0] * price("key vault operations", region),
        vault[1] * price("key vault operations", region),
        "operations",
    )
    count = len(architecture.network.private_endpoints)
    usd = count * price("private endpoint", region) * HOURS
    yield line("private-endpoints", usd, usd, f"{count} endpoints")
    yield from _monitoring(architecture, region, price)
    # The registry's and the API server's private zones are a region's own.
    zones = ("registry" in architecture.network.private_endpoints) + kubernetes.private_api
    if primary:
        zones += 1 + len({*architecture.network.private_endpoints} - {"registry"})
    if zones:
        queries = price.assumed("dns_queries_million") if primary else (0.0, 0.0)
        usd = zones * price("dns zone", region)
        yield line(
            "dns",
            usd + queries[0] * price("dns queries", region),
            usd + queries[1] * price("dns queries", region),
            f"{zones} zones",
        )
    if architecture.traffic_manager is not None:
        # A profile for the API and one for LiveKit, an endpoint a region in each.
        queries = price.assumed("dns_queries_million") if primary else (0.0, 0.0)
        usd = 2 * price("traffic manager endpoint", "eastus")
        each = price("traffic manager queries", "eastus")
        yield line("traffic-manager", usd + queries[0] * each, usd + queries[1] * each, "2 endpoints")


def _blobs(storage: BlobStorage, region: str, price: _Prices) -> CostLine:
    def usd(cool: float) -> float:
        hot, cold = (price(f"blob {tier} {storage.replication}", region) for tier in ("Hot", "Cool"))
        return storage.expected * ((1 - cool) * hot + cool * cold)

    low, high = price.assumed("blob_cool_share")
    return CostLine(
        component="storage",
        region=region,
        low=usd(low),
        high=usd(high),
        basis=f"{storage.expected:,} GB {storage.replication}, {low:.0%} cool at the low end",
        prices=price.taken(),
    )


def _monitoring(architecture: Architecture, region: str, price: _Prices) -> Iterator[CostLine]:
    monitoring = architecture.monitoring
    shares = price.assumed("log_share_of_cap")
    months = max(0, monitoring.audit_retention.days - 31) / 30
    samples = price.assumed("prometheus_samples_million") if monitoring.managed_prometheus else (0.0, 0.0)
    fixed = price("grafana", region) * HOURS if monitoring.grafana and region == architecture.primary else 0.0
    usd = [
        share
        * monitoring.daily_log_cap
        * 30
        * (price("log ingestion", region) + months * price("log retention", region))
        + million * price("prometheus samples", region)
        + fixed
        for share, million in zip(shares, samples, strict=True)
    ]
    yield CostLine(
        component="monitoring",
        region=region,
        low=usd[0],
        high=usd[1],
        basis=f"logs to {monitoring.daily_log_cap} GB a day, metrics" + (", Grafana" if fixed else ""),
        prices=price.taken(),
    )


def stated(claims: Claims) -> Stated:
    """A document's own table beside what its lines really sum to."""
    rows = {name: (claim.low, claim.high) for name, claim in claims.costs.items()}
    sums = (sum(low for low, _ in rows.values()), sum(high for _, high in rows.values()))
    total = (claims.total.low, claims.total.high) if claims.total else sums
    return Stated(rows=rows, total=total, sums=sums)


def what_if(declared: Declared, changes: Sequence[str]) -> Declared:
    """The architecture with `key=value` changes, checked like a file.

    A key may be any unambiguous end of a path: `agents.max=40` is kubernetes.pools.agents.max. BadInput
    for an unknown or ambiguous key, or a wrong value.
    """
    data = _copy(declared.document.data)
    known = list(_paths(declared.architecture.model_dump(), ()))
    places = dict(declared.document.places)
    for change in changes:
        key, sign, text = change.partition("=")
        wanted = tuple(key.strip().split("."))
        if not sign or not all(wanted):
            raise BadInput(f"{change!r} is no change", hint="write key=value: --what-if agents.max=40")
        ends = [path for path in known if path[-len(wanted) :] == wanted]
        ends = [path for path in ends if path == wanted] or ends
        if not ends:
            # The end of a path is what people misspell: compare with as much of each path as was typed.
            near = {".".join(path[-len(wanted) :]) for path in known if len(path) >= len(wanted)}
            hint = did_you_mean(key.strip(), near)
            raise BadInput(
                f"--what-if: there is no key {key.strip()!r}",
                hint=hint if hint.startswith("did") else "`va env show`",
            )
        if len(ends) > 1:
            raise BadInput(
                f"--what-if: {key.strip()!r} may be {', '.join('.'.join(path) for path in sorted(ends)[:6])}",
                hint="write more of the path",
            )
        path = ends[0]
        target = data
        for part in path[:-1]:
            target = target.setdefault(part, {})
        try:
            target[path[-1]] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise BadInput(f"--what-if: {text!r} is no value") from error
        places = {at: place for at, place in places.items() if at[: len(path)] != path}
        places[path] = Place(file=Path(f"--what-if {change}"))
    document = Document(file=declared.document.file, data=data, places=places)
    return Declared(checked(Architecture, document), document)


def _copy(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: _copy(value) for key, value in data.items()}
    return [_copy(item) for item in data] if isinstance(data, list) else data


def _paths(data: Mapping[str, Any], above: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    for key, value in data.items():
        if isinstance(value, dict):
            yield (*above, key)
            yield from _paths(value, (*above, key))
        else:
            yield (*above, key)
