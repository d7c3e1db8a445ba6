"""Under which names Envoy counts what: the prefixes of its statistics, for those that make it count and those that read it."""

from __future__ import annotations

from meshagent.model.route import RouteRule
from meshagent.model.view import Egress, Inbound, Outbound

REST = "*"  # in the place of a rule: the requests that met none of a route


def outbound_prefix(call: Outbound | Egress) -> str:
    """The calls of one service to one upstream, wherever its app makes them."""
    return f"out.{call.source}.{call.upstream}"


def inbound_prefix(inbound: Inbound, source: str = "") -> str:
    """The calls of one instance by a source that has a filter chain of its own, or else by all the rest."""
    more = "" if inbound.instance == inbound.service else f".{inbound.instance}"
    return f"in.{inbound.service}{more}" + (f"/{source}" if source else "")


def gateway_prefix(gateway: str) -> str:
    """The requests that arrive at a gateway."""
    return f"gateway.{gateway}"


def rules_prefix(service: str) -> str:
    """The verdicts over connections, which unlike those over requests have no manager with a name above them."""
    return f"tcp.{service}."


def rule_name(rule: RouteRule, index: int) -> str:
    """A rule of a route, as logs and metrics call it. `index` is its place in the document."""
    return rule.name or f"rule {index}"


def route_prefix(source: str, upstream: str, rule: str = REST) -> str:
    """The requests of one caller that one rule of a route decides."""
    return f"{source}/{upstream}/{rule}"
