"""Who calls whom, how much and how well: counters of one moment, and rates between two."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

Side = Literal["outbound", "inbound"]
Buckets = tuple[tuple[float, float], ...]  # (upper bound in ms, requests up to it), rising, the last bound infinite

# In the place of a source: callers that the destination's proxy does not tell apart, and who calls a gateway.
OTHER, OUTSIDE = "other", "outside"
_NO_REQUESTS: Mapping[str, int] = {}
_COUNTERS = ("failed", "connections", "bytes_sent", "bytes_received")


class EdgeKey(NamedTuple):
    """Which calls a row tells of; `route` and `subset` are "" for all calls of the edge together."""

    source: str
    destination: str
    route: str = ""
    subset: str = ""


@dataclass(frozen=True, slots=True)
class Edge:
    """What one side, on one host, has counted of one edge since its Envoy began; `active` is of this moment.

    `requests` is by class of the answer ("2xx" to "5xx"), `failed` those that got none. Bytes are as the caller sees them.
    """

    side: Side
    source: str
    destination: str
    protocol: str = ""
    route: str = ""
    subset: str = ""
    requests: Mapping[str, int] = field(default_factory=lambda: _NO_REQUESTS)
    failed: int = 0
    active: int = 0
    connections: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0
    latency: Buckets = ()
    host: str = ""

    @property
    def key(self) -> EdgeKey:
        """Which calls it tells of."""
        return EdgeKey(self.source, self.destination, self.route, self.subset)


@dataclass(frozen=True, slots=True)
class EdgeRate:
    """One edge between two moments. Latencies are in ms, None without requests; `error_ratio` is 0 to 1.

    Of TCP it is the share of connections that could not be made.
    """

    source: str
    destination: str
    protocol: str
    route: str
    subset: str
    rps: float
    error_ratio: float
    p50_ms: float | None
    p99_ms: float | None
    active: int
    connections_per_s: float
    bytes_per_s: float


def edge_of(row: Mapping[str, Any], host: str = "") -> Edge:
    """An edge of the answer of a host's agent to GET /v1/traffic. Raises KeyError, TypeError and ValueError for anything else."""
    side = row["side"]
    if side not in ("outbound", "inbound"):
        raise ValueError(f"a side called {side}")
    return Edge(
        side=side,
        source=str(row["source"]),
        destination=str(row["destination"]),
        protocol=str(row.get("protocol") or ""),
        route=str(row.get("route") or ""),
        subset=str(row.get("subset") or ""),
        requests={str(name): int(count) for name, count in (row.get("requests") or {}).items()},
        failed=int(row.get("failed") or 0),
        active=int(row.get("active") or 0),
        connections=int(row.get("connections") or 0),
        bytes_sent=int(row.get("bytes_sent") or 0),
        bytes_received=int(row.get("bytes_received") or 0),
        latency=tuple((float(bound), float(count)) for bound, count in row.get("latency_ms") or ()),
        host=host,
    )


def rates(before: Iterable[Edge], after: Iterable[Edge], seconds: float) -> tuple[EdgeRate, ...]:
    """What happened in the `seconds` between two readings, by edge, sorted.

    What both sides of an edge tell counts once: the caller's word goes, since it knows of calls that never arrived. A
    counter that fell began anew with its Envoy. Of a host that the first reading lacks nothing can be told yet.
    """
    earlier = {(each.host, each.side, each.key): each for each in before}
    hosts = {host for host, _, _ in earlier}
    by_edge: dict[EdgeKey, list[Edge]] = {}
    for each in after:
        began = earlier.get((each.host, each.side, each.key)) or (_nothing(each) if each.host in hosts else each)
        by_edge.setdefault(each.key, []).append(growth(began, each))
    return tuple(_rate(key, _told(rows), max(seconds, 1e-9)) for key, rows in sorted(by_edge.items()))


def growth(before: Edge, after: Edge) -> Edge:
    """What was counted between two readings of the same row; all of the second one when a counter fell."""
    if any(after.requests.get(name, 0) < count for name, count in before.requests.items()):
        return after
    if any(getattr(after, name) < getattr(before, name) for name in _COUNTERS):
        return after
    earlier = dict(before.latency)
    return replace(
        after,
        requests={name: count - before.requests.get(name, 0) for name, count in after.requests.items()},
        latency=tuple((bound, max(0.0, count - earlier.get(bound, 0))) for bound, count in after.latency),
        **{name: getattr(after, name) - getattr(before, name) for name in _COUNTERS},
    )


def quantile(buckets: Buckets, share: float) -> float | None:
    """The value that a `share` (0 to 1) of what is in cumulative buckets stays under, by linear interpolation.

    As Prometheus' histogram_quantile: from 0 in the first bucket, and the last finite bound for what lies beyond it.
    """
    total = buckets[-1][1] if buckets else 0
    if total <= 0:
        return None
    rank, low, below = share * total, 0.0, 0.0
    for bound, count in buckets:
        if count >= rank and count > 0:
            return low if math.isinf(bound) else low + (bound - low) * (rank - below) / (count - below)
        low, below = bound, count
    return low


def _nothing(edge: Edge) -> Edge:
    """The row before anything was counted."""
    return Edge(edge.side, edge.source, edge.destination)


def _told(rows: list[Edge]) -> list[Edge]:
    """The rows that count: the callers' where there are any."""
    return [each for each in rows if each.side == "outbound"] or rows


def _rate(key: EdgeKey, rows: list[Edge], seconds: float) -> EdgeRate:
    answers: Counter[str] = Counter()
    for each in rows:
        answers.update(each.requests)
    failed, connections = sum(each.failed for each in rows), sum(each.connections for each in rows)
    requests = answers.total() + failed if answers else 0
    calls = requests if answers else connections + failed  # where only bytes are seen, a connection is a call
    buckets = _together(rows)
    return EdgeRate(
        source=key.source,
        destination=key.destination,
        protocol=next((each.protocol for each in rows if each.protocol), ""),
        route=key.route,
        subset=key.subset,
        rps=requests / seconds,
        error_ratio=(answers["5xx"] + failed) / calls if calls else 0.0,
        p50_ms=quantile(buckets, 0.5),
        p99_ms=quantile(buckets, 0.99),
        active=sum(each.active for each in rows),
        connections_per_s=connections / seconds,
        bytes_per_s=sum(each.bytes_sent + each.bytes_received for each in rows) / seconds,
    )


def _together(rows: list[Edge]) -> Buckets:
    """The buckets of several rows in one; all Envoys of the mesh have the same bounds."""
    total: dict[float, float] = {}
    for each in rows:
        for bound, count in each.latency:
            total[bound] = total.get(bound, 0.0) + count
    return tuple(sorted(total.items()))
