"""Whether calls of an HTTP service are carried as requests or as bytes (`data_path: l4`). Each side decides for itself. Pure.

Whatever the two sides decide, they understand each other (ADR 0021): so a caller's proxy goes back to requests by itself
where something is asked of them, and the service's own proxy judges requests of whoever has permissions on them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from meshagent.model.names import HTTP_PROTOCOLS, Protocol
from meshagent.model.service import Service
from meshagent.model.view import Guard, Outbound
from meshagent.model.world import Stated, World
from meshagent.policy.cuts import chained_sources

Carried = Literal["", "l4"]


def data_path(stated: Stated[Service] | None, protocol: Protocol) -> Carried:
    """What the service's document says; a TCP service has no choice, and what is asked of requests counts for more."""
    return "l4" if stated and stated.thing.as_bytes and protocol in HTTP_PROTOCOLS else ""


def carried(outbound: Outbound) -> Outbound:
    """The outbound, back with requests where bytes would not do for this caller.

    That is where a rule of the route looks at requests or a service that it leads to spreads them by their content, and
    where an instance stands behind a proxy of Consul's own, which need not take an offer that it does not know.
    """
    if not outbound.data_path:
        return outbound
    looking = any(way.rule.for_http_alone for way in outbound.ways)
    suits = not looking and all(_suits(each) for each in (outbound, *outbound.beyond))
    return outbound if suits else replace(outbound, data_path="")


def sees_requests(world: World, outbound: Outbound, guard: Guard) -> bool:
    """Whether the proxy of the guard's service, to which the caller's outbound leads, sees requests on that caller's calls.

    It does not where both sides pass on bytes, which is so for a source that may make any call by its own name.
    """
    rule = guard.rule_for(outbound.source)
    whole = rule is not None and rule.action == "allow" and outbound.source in chained_sources(guard)
    offered = bool(outbound.data_path) and bool(data_path(world.services.get(guard.destination), outbound.protocol))
    return outbound.protocol in HTTP_PROTOCOLS and not (whole and offered)


def _suits(outbound: Outbound) -> bool:
    native = any(endpoint.native for endpoint in outbound.plain_endpoints)
    return not native and not outbound.traffic.load_balancer.hash_on
