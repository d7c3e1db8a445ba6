"""How far the limits of `connection_pool` are used up, as Envoy counts it. Where no service asks for any, Envoy is not asked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from meshagent.agent.operations import Operations
from meshagent.envoy.process import EnvoyProcess
from meshagent.errors import EnvoyFailed
from meshagent.model.names import HTTP_PROTOCOLS
from meshagent.model.view import Outbound, ProxyView
from meshagent.translate.clusters import plain_name, upstream_name

NEAR = 0.2  # of a limit that is left: from there on it is warned of
# By limit: what Envoy calls the rest of it, and the counters of how often there was none: the first that it has. Up to
# 1.37 it counted both limits of requests as pending ones.
_COUNTED = {
    "max_connections": ("remaining_cx", ("upstream_cx_overflow",)),
    "max_pending_requests": ("remaining_pending", ("upstream_rq_pending_overflow",)),
    "max_requests": ("remaining_rq", ("upstream_rq_active_overflow", "upstream_rq_pending_overflow")),
}
_WANTED = r"\.(circuit_breakers\.default\.remaining_(cx|pending|rq)|upstream_(cx|rq_pending|rq_active)_overflow)$"


async def upstream_limits(operations: Operations, envoy: EnvoyProcess) -> list[dict[str, Any]]:
    """A row for each limit of each upstream of this host; none while Envoy does not answer."""
    view = operations.converger.view
    if view is None or not any(_told(each) for each in _reached(view)):
        return []
    try:
        stats = await envoy.admin.stats(_WANTED)
    except EnvoyFailed:
        return []
    return limit_rows(view, stats)


def limit_rows(view: ProxyView, stats: Mapping[str, int]) -> list[dict[str, Any]]:
    """`left` of the `allowed` ones now, `near` where that is little, and how often there was none since Envoy began."""
    rows: dict[tuple[str, str, str], dict[str, Any]] = {}
    for each in _reached(view):
        service = each.upstream + (f"#{each.subset}" if each.subset else "")
        for limit, allowed in _told(each).items():
            rest, times = _COUNTED[limit]
            names = [f"cluster.{name.replace(':', '_')}" for name in _clusters(each)]
            # There is no count of a cluster that nothing was sent to yet.
            left = min(stats.get(f"{name}.circuit_breakers.default.{rest}", allowed) for name in names)
            rows[each.source, service, limit] = {
                "source": each.source,
                "upstream": service,
                "limit": limit,
                "allowed": allowed,
                "left": left,
                "near": left < NEAR * allowed,
                "reached": sum(_first(stats, [f"{name}.{each}" for each in times]) for name in names),
            }
    return [rows[key] for key in sorted(rows)]


def _first(stats: Mapping[str, int], names: list[str]) -> int:
    return next((stats[name] for name in names if name in stats), 0)


def _reached(view: ProxyView) -> Iterator[Outbound]:
    for outbound in view.outbounds:
        yield from (outbound, *outbound.beyond)


def _told(outbound: Outbound) -> dict[str, int]:
    pool = outbound.traffic.connection_pool
    return {limit: value for limit in _COUNTED if (value := getattr(pool, limit)) is not None}


def _clusters(outbound: Outbound) -> list[str]:
    names = [upstream_name(outbound)]
    if outbound.plain_endpoints and outbound.protocol in HTTP_PROTOCOLS:
        names.append(plain_name(outbound))
    return names
