"""The topology as SVG, drawn from what is declared: nothing in the picture is not in the files.

A column a region, the rows aligned, so that what regions share can be drawn across them as lines: peering,
the database's replication, the registry's. A card is one resource; its text is wrapped, never cut.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape  # nosec B406  # it writes XML, and reads none

from ci.architecture.facts import REGIONS
from ci.architecture.kubernetes import NodePool
from ci.architecture.model import Architecture
from ci.architecture.names import name

__all__ = ["draw"]

_COLUMN = 520
_GAP = 44
_PAD = 12
_LINE = 15
_CHARACTER, _BOLD = 5.9, 6.7
"""How wide a character of a card's text and of its title is, in pixels: a card is as high as they need."""
_BUS = 34
"""The room between two rows that lines across regions run in."""

_FILL = {"edge": "#dbeafe", "media": "#ffedd5", "pool": "#dcfce7", "link": "#f1f5f9", "data": "#fef9c3",
         "guard": "#fce7f3", "once": "#ede9fe"}  # fmt: skip
_HTTPS, _MEDIA, _INSIDE, _COPY = "#1d4ed8", "#c2410c", "#475569", "#7c3aed"
_KINDS = {_HTTPS: "HTTPS", _MEDIA: "WebRTC", _INSIDE: "inside the network", _COPY: "between regions"}


@dataclass(frozen=True)
class _Card:
    """One resource: its name and what a reviewer asks of it."""

    fill: str
    title: str
    lines: tuple[str, ...]

    def heading(self, width: int) -> list[str]:
        """Its title, wrapped to a width in pixels."""
        return textwrap.wrap(self.title, int((width - 2 * 8) / _BOLD))

    def text(self, width: int) -> list[str]:
        """Its lines, wrapped to a width in pixels."""
        most = int((width - 2 * 8) / _CHARACTER)
        return [part for line in self.lines for part in textwrap.wrap(line, most, subsequent_indent="  ")]

    def height(self, width: int) -> int:
        """How high it is when it is that wide."""
        return 11 + _LINE * (len(self.heading(width)) + len(self.text(width)))


@dataclass(frozen=True)
class _Region:
    """What one column shows: four rows of cards, those of the second inside the cluster's frame."""

    edge: tuple[_Card, ...]
    cluster: _Card
    pools: tuple[_Card, ...]
    endpoints: _Card
    data: tuple[_Card | None, ...]
    guard: tuple[_Card | None, ...]


@dataclass(frozen=True)
class _Spot:
    """Where something was drawn."""

    x: int
    y: int
    width: int
    height: int

    @property
    def middle(self) -> int:
        return self.x + self.width // 2

    @property
    def bottom(self) -> int:
        return self.y + self.height


def draw(architecture: Architecture) -> str:
    """The whole picture as one SVG document; the same files give the same bytes."""
    regions = [_region(architecture, region) for region in architecture.order]
    width = max(_GAP + (_COLUMN + _GAP) * len(regions), 760)
    entry = _entry(architecture)
    front = _Spot(_GAP, 66, width - 2 * _GAP, entry.height(width - 2 * _GAP))
    body, bottom = _columns(architecture, regions, front.bottom)
    foot = list(_foot(architecture, bottom + 28, width))
    height = bottom + 28 + _LINE * len(foot) + 40
    title = f"{architecture.product} {architecture.environment}"
    low, high = architecture.kubernetes.nodes
    count = len(regions)
    said = (
        f"{count} region{'s' * (count > 1)}, {low * count}-{high * count} nodes, "
        f"RTO {_span(architecture, 'rto')}, RPO {_span(architecture, 'rpo')}"
    )
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-family="Helvetica, Arial, sans-serif" font-size="11.5">',
        f"<title>{escape(title)}</title>",
        '<rect width="100%" height="100%" fill="white"/>',
        _text(_GAP, 34, title, size=20, bold=True),
        _text(_GAP, 52, said, colour="#475569"),
    )
    parts = [*head, *_card(entry, front), *body, *foot, *_legend(bottom + 36 + _LINE * len(foot), count)]
    return "\n".join([*parts, "</svg>"]) + "\n"


def _span(architecture: Architecture, which: str) -> str:
    seconds = int(getattr(architecture.recovery, which).total_seconds())
    return f"{seconds // 3600} h" if seconds % 3600 == 0 else f"{seconds // 60} min"


# --- what is in it -----------------------------------------------------------------------------


def _region(architecture: Architecture, region: str) -> _Region:
    return _Region(
        edge=_edge(architecture, region),
        cluster=_cluster(architecture, region),
        pools=tuple(_pool(architecture, key, pool) for key, pool in architecture.kubernetes.pools.items()),
        endpoints=_Card(
            "link",
            f"private endpoints {_cidr(architecture, region, 'endpoints')}",
            (", ".join(architecture.network.private_endpoints),),
        ),
        data=_data(architecture, region),
        guard=_guard(architecture, region),
    )


def _cidr(architecture: Architecture, region: str, purpose: str) -> str:
    subnets = architecture.regions[region].subnets.values()
    return next((str(subnet.cidr) for subnet in subnets if subnet.purpose == purpose), "")


def _edge(architecture: Architecture, region: str) -> tuple[_Card, ...]:
    gateway, livekit = architecture.gateway, architecture.livekit
    limit = f", {gateway.waf.rate_limit}/min a client" if gateway.waf.rate_limit else ""
    routes = ", ".join(f"{route.path} → {route.backend}" for route in gateway.routes.values())
    way_in = _Card(
        "edge",
        name(architecture, "gateway", region),
        (
            f"{gateway.sku}, {gateway.min_units}-{gateway.max_units} instances, "
            f"{_cidr(architecture, region, 'gateway')}",
            f"{gateway.waf.rule_set.upper()} {gateway.waf.mode}{limit}",
            f"TLS {gateway.tls_min}+, {routes}",
        ),
    )
    balanced = f"TCP {livekit.signal_port} signalling, {livekit.turn_tls_port} TURN over TLS"
    media = f"UDP {livekit.udp_from}-{livekit.udp_to}"
    straight = f"{media} go past it, straight to the nodes"
    behind = f"{media} behind it: no call would work"
    balancer = _Card(
        "media",
        name(architecture, "public ip", region, part="livekit"),
        (f"AKS' own load balancer, {livekit.load_balancer_sku}, has this address", balanced,
         straight if livekit.media == "host-network" else behind),
    )  # fmt: skip
    return way_in, balancer


def _cluster(architecture: Architecture, region: str) -> _Card:
    kubernetes, network = architecture.kubernetes, architecture.network
    inside = [f"nodes {_cidr(architecture, region, 'aks')}"]
    inside += [f"pods {network.pod_cidr}"] if network.pod_cidr else []
    inside += [f"services {network.service_cidr}"] if network.service_cidr else []
    api = "private API" if kubernetes.private_api else "public API"
    return _Card(
        "pool",
        f"{name(architecture, 'cluster', region)}  Kubernetes {kubernetes.version}",
        (
            f"{kubernetes.network_plugin}, {kubernetes.network_policy}, {kubernetes.ingress}, {api}",
            ", ".join(inside),
        ),
    )


def _pool(architecture: Architecture, key: str, pool: NodePool) -> _Card:
    runs = ["what AKS itself runs"] if pool.mode == "system" else []
    runs += [
        f"{other}: {workload.scaling.min}-{workload.scaling.max} pods by {workload.scaling.by}"
        for other, workload in architecture.kubernetes.workloads.items()
        if workload.pool == key
    ]
    public = ["a public address a node"] if pool.public_ip_per_node else []
    taints = [f"taint {taint}" for taint in pool.taints]
    return _Card(
        "media" if pool.public_ip_per_node else "pool",
        f"{key}  {pool.min}-{pool.max} × {pool.vm_size.removeprefix('Standard_')}",
        (*runs, *taints, *public),
    )


def _data(architecture: Architecture, region: str) -> tuple[_Card | None, ...]:
    postgres, redis, storage = architecture.postgres, architecture.redis, architecture.storage
    size = postgres.sku.removeprefix("Standard_")
    database: _Card | None = None
    if region == architecture.primary:
        here = sum(replica.region == region for replica in postgres.replicas.values())
        lines = (
            f"PostgreSQL {postgres.version}, {size}",
            f"HA {postgres.high_availability}",
            f"{postgres.backup_retention.days} days back"
            + (", geo" if postgres.geo_redundant_backup else ""),
            *([f"{here} replicas beside it"] if here else []),
        )
        database = _Card("data", name(architecture, "postgres", region), lines)
    elif any(replica.region == region for replica in postgres.replicas.values()):
        database = _Card("data", name(architecture, "postgres", region), ("read replica", size))
    cache = _Card(
        "data",
        name(architecture, "redis", region),
        (redis.sku, f"{redis.memory} GB, TLS {redis.tls_min}", f"persistence {redis.persistence}"),
    )
    blobs = _Card(
        "data",
        name(architecture, "storage", region),
        (f"{storage.replication}, {storage.lifecycle.delete_after.days} days", ", ".join(storage.containers)),
    )
    return database, cache, blobs


def _guard(architecture: Architecture, region: str) -> tuple[_Card | None, ...]:
    vault, monitoring, registry = architecture.key_vault, architecture.monitoring, architecture.registry
    watched = [
        word
        for word, there in {
            "containers": monitoring.container_insights,
            "Prometheus": monitoring.managed_prometheus,
        }.items()
        if there
    ]
    protected = ", purge protection" if vault.purge_protection else ""
    images: _Card | None = None
    if region == architecture.primary:
        images = _Card(
            "once", name(architecture, "registry"), (f"{registry.sku}, {len(registry.images)} images",)
        )
    elif region in registry.replicate_to:
        images = _Card("once", name(architecture, "registry"), ("a replication",))
    return (
        _Card(
            "guard", name(architecture, "key vault", region), (f"{len(vault.secrets)} secrets{protected}",)
        ),
        images,
        _Card(
            "guard",
            name(architecture, "log analytics", region),
            (
                f"logs {monitoring.log_retention.days} d, audit {monitoring.audit_retention.days} d",
                ", ".join(watched),
            ),
        ),
    )


# --- where it goes -----------------------------------------------------------------------------


def _columns(architecture: Architecture, regions: Sequence[_Region], above: int) -> tuple[list[str], int]:
    """All regions' columns with the lines between them and from what is above, and where they end."""
    inner, half, third = _COLUMN - 4 * _PAD, (_COLUMN - 5 * _PAD) // 2, (_COLUMN - 4 * _PAD) // 3
    pool = (half * 2 + _PAD - 3 * _PAD) // 2
    edge = max(card.height(half) for region in regions for card in region.edge)
    pools = regions[0].pools  # they are the same everywhere
    rows = [max(card.height(pool) for card in pools[n : n + 2]) for n in range(0, len(pools), 2)]
    header = max(region.cluster.height(inner) for region in regions)
    cluster = header + sum(rows) + _PAD * (len(rows) + 1) - 6
    links = max(region.endpoints.height(inner) for region in regions)
    data = max(card.height(third) for region in regions for card in region.data if card)
    guard = max(card.height(third) for region in regions for card in region.guard if card)

    parts: list[str] = []
    labels: list[str] = []
    spots: list[dict[str, _Spot]] = []
    top = above + 50
    network_top = top + 26
    edge_top = network_top + 36
    cluster_top = edge_top + edge + 30
    links_top = cluster_top + cluster + 22
    network_bottom = links_top + links + _PAD
    data_top = network_bottom + _BUS
    guard_top = data_top + data + _BUS
    bottom = guard_top + guard + _BUS

    for number, (where, region) in enumerate(zip(architecture.order, regions, strict=True)):
        x = _GAP + number * (_COLUMN + _GAP)
        role = (
            "primary" if where == architecture.primary else f"priority {architecture.regions[where].priority}"
        )
        group = name(architecture, "resource group", where)
        around = _Spot(x, top, _COLUMN, bottom - top)
        network = _Spot(x + _PAD, network_top, _COLUMN - 2 * _PAD, network_bottom - network_top)
        parts += [_rect(spot, "none", "#94a3b8", dashed=True) for spot in (around, network)]
        labels += [
            _label(around, f"{REGIONS[where].display}, {role}   {group}", size=13),
            _label(network, f"{name(architecture, 'vnet', where)} {architecture.regions[where].vnet}"),
        ]
        left = x + 2 * _PAD
        found = {
            "gateway": _Spot(left, edge_top, half, edge),
            "balancer": _Spot(left + half + _PAD, edge_top, half, edge),
            "cluster": _Spot(left, cluster_top, inner, cluster),
            "links": _Spot(left, links_top, inner, links),
        }
        for key, card in zip(("gateway", "balancer"), region.edge, strict=True):
            parts += _card(card, found[key])
        parts.append(_rect(found["cluster"], "white", "#16a34a"))
        parts += _words(region.cluster, found["cluster"])
        y = cluster_top + header
        for row, tall in enumerate(rows):
            for side, card in enumerate(region.pools[2 * row : 2 * row + 2]):
                spot = _Spot(left + _PAD + side * (pool + _PAD), y, pool, tall)
                parts += _card(card, spot)
                if card.fill == "media":
                    found["media"] = spot
            y += tall + _PAD
        parts += _card(region.endpoints, found["links"])
        for keys, cards, at, tall in (
            (("database", "cache", "blobs"), region.data, data_top, data),
            (("vault", "registry", "logs"), region.guard, guard_top, guard),
        ):
            for place, (key, one) in enumerate(zip(keys, cards, strict=True)):
                if one is not None:
                    found[key] = _Spot(x + _PAD + place * (third + _PAD), at, third, tall)
                    parts += _card(one, found[key])
        parts += _arrows(found, above, data_top)
        spots.append(found)
    parts += _shared(architecture, spots, network_bottom, data_top + data, guard_top + guard)
    return [*parts, *labels], bottom


def _arrows(spots: dict[str, _Spot], above: int, data_top: int) -> Iterator[str]:
    """What leads where inside one region, and into it."""
    gateway, balancer, cluster, links = (spots[key] for key in ("gateway", "balancer", "cluster", "links"))
    yield _arrow([(gateway.middle, above), (gateway.middle, gateway.y)], _HTTPS)
    yield _arrow([(balancer.middle, above), (balancer.middle, balancer.y)], _MEDIA)
    yield _arrow([(gateway.middle, gateway.bottom), (gateway.middle, cluster.y)], _HTTPS)
    yield _arrow([(balancer.middle, balancer.bottom), (balancer.middle, cluster.y)], _MEDIA)
    if media := spots.get("media"):
        side = balancer.x + balancer.width + _PAD // 2 + 2
        middle = media.y + media.height // 2
        yield _arrow([(side, above), (side, middle), (media.x + media.width, middle)], _MEDIA, wide=True)
    yield _arrow([(cluster.middle, cluster.bottom), (cluster.middle, links.y)], _INSIDE)
    for key in ("database", "cache", "blobs"):
        if spot := spots.get(key):
            yield _arrow([(spot.middle, links.bottom), (spot.middle, data_top)], _INSIDE)


def _shared(
    architecture: Architecture, spots: Sequence[dict[str, _Spot]], network: int, data: int, guard: int
) -> Iterator[str]:
    """The lines across regions: peering, replication of the database and of the registry."""
    if len(spots) < 2:
        return
    if architecture.network.peer_regions:
        ends = [(spot["links"].x + spot["links"].width - 30, network) for spot in spots]
        yield from _bus(ends, network + 20, "every pair of networks is peered", both=True)
    databases = [(spot["database"].middle, data) for spot in spots if "database" in spot]
    yield from _bus(databases, data + 20, "asynchronous replication")
    registries = [(spot["registry"].middle, guard) for spot in spots if "registry" in spot]
    yield from _bus(registries, guard + 20, "geo-replication of images")


def _bus(ends: Sequence[tuple[int, int]], level: int, label: str, *, both: bool = False) -> Iterator[str]:
    """From the first end down, along, and up into each other end."""
    if len(ends) < 2:
        return
    first, *others = ends
    for other in others:
        path = [first, (first[0], level), (other[0], level), other]
        yield _arrow(path, _COPY)
        if both:
            yield _arrow([(first[0], level), first], _COPY)
    yield _text(first[0] + 8, level - 5, label, colour=_COPY, size=10, halo=True)


def _entry(architecture: Architecture) -> _Card:
    """What callers meet first."""
    manager, dns = architecture.traffic_manager, architecture.dns
    names = ", ".join(f"{label}.{dns.zone}" for label in sorted(dns.records))
    chosen = "one region: nothing to choose from"
    if manager is not None:
        chosen = (
            f"{name(architecture, 'traffic manager')}: {manager.routing} routing, {manager.probe_path} "
            f"every {int(manager.probe_interval.total_seconds())} s, answers kept "
            f"{int(manager.ttl.total_seconds())} s"
        )
    leads = f"{names} → {' and '.join(sorted({record.to for record in dns.records.values()}))}"
    return _Card("once", f"callers  →  DNS zone {dns.zone}", (leads, chosen))


def _foot(architecture: Architecture, y: int, width: int) -> Iterator[str]:
    """What exists once."""
    once = [
        f"Grafana {name(architecture, 'grafana')}" if architecture.monitoring.grafana else "",
        f"alerts {name(architecture, 'action group')}",
        f"budget {architecture.budget.monthly:,.0f} USD a month",
        f"roles {', '.join(architecture.access.roles)}",
    ]
    words = "Once: " + "  ·  ".join(filter(None, once))
    for number, line in enumerate(textwrap.wrap(words, int((width - 2 * _GAP) / _CHARACTER))):
        yield _text(_GAP, y + number * _LINE, line)


def _legend(y: int, regions: int) -> Iterator[str]:
    """What the colours of lines mean."""
    x = _GAP
    for colour, said in _KINDS.items():
        if colour == _COPY and regions < 2:
            continue
        yield _arrow([(x, y), (x + 34, y)], colour)
        yield _text(x + 42, y + 4, said)
        x += 66 + int(len(said) * _CHARACTER)
    yield _text(
        _GAP, y + 22, "Drawn by `va infra graph` from environments/architecture.", colour="#64748b", size=10
    )


# --- how it is drawn ---------------------------------------------------------------------------


def _card(card: _Card, spot: _Spot) -> list[str]:
    return [_rect(spot, _FILL[card.fill], "#64748b"), *_words(card, spot)]


def _words(card: _Card, spot: _Spot) -> Iterator[str]:
    heading = card.heading(spot.width)
    for number, line in enumerate([*heading, *card.text(spot.width)]):
        yield _text(spot.x + 8, spot.y + 17 + number * _LINE, line, bold=number < len(heading))


def _rect(spot: _Spot, fill: str, stroke: str, *, dashed: bool = False) -> str:
    dash = ' stroke-dasharray="5 4"' if dashed else ""
    return (
        f'<rect x="{spot.x}" y="{spot.y}" width="{spot.width}" height="{spot.height}" rx="6" fill="{fill}" '
        f'stroke="{stroke}"{dash}/>'
    )


def _label(spot: _Spot, text: str, *, size: float = 11.5) -> str:
    """The name of a frame, in its upper left corner; lines that pass below it leave it readable."""
    return _text(spot.x + 10, spot.y + 18, text, bold=size > 12, size=size, halo=True)


def _text(
    x: int,
    y: int,
    text: str,
    *,
    bold: bool = False,
    size: float = 11.5,
    colour: str = "#0f172a",
    halo: bool = False,
) -> str:
    weight = ' font-weight="bold"' if bold else ""
    around = ' paint-order="stroke" stroke="white" stroke-width="5"' if halo else ""
    return (
        f'<text x="{x}" y="{y}" font-size="{size:g}" fill="{colour}" xml:space="preserve"{weight}{around}>'
        f"{escape(text)}</text>"
    )


def _arrow(points: Sequence[tuple[int, int]], colour: str, *, wide: bool = False) -> str:
    """A line through the points, its head at the last one."""
    (x0, y0), (x, y) = points[-2], points[-1]
    dx, dy = (x > x0) - (x < x0), (y > y0) - (y < y0)
    path = " ".join(f"L{a} {b}" for a, b in points[1:-1])
    left, right = (x - 7 * dx - 4 * dy, y - 7 * dy - 4 * dx), (x - 7 * dx + 4 * dy, y - 7 * dy + 4 * dx)
    head = f"M{x} {y} L{left[0]} {left[1]} L{right[0]} {right[1]} Z"
    return (
        f'<path d="M{points[0][0]} {points[0][1]} {path} L{x - 6 * dx} {y - 6 * dy}" fill="none" '
        f'stroke="{colour}" stroke-width="{2.5 if wide else 1.4}"/><path d="{head}" fill="{colour}"/>'
    )
