"""Who calls whom on this host, how much and how well, and what the rules said: Envoy's counts in the mesh's own words.

They begin with the running Envoy and fall back to 0 with the next one, so a rate is the difference of two readings. What is
counted where (ADR 0024):

- `outbound`: a caller of this host and an upstream of it, at the caller's proxy. `route` names a rule of the upstream's
  route (`*`: what met none of them), or says `via UPSTREAM` for what a route or a failover led on to another service.
- `inbound`: an instance of this host. `source` is who has proven to be it and has a filter chain of its own, `other`
  everybody else; at a gateway it is `outside`. `subset` names the subsets of a divided service that the instance is in.

`route` and `subset` are "" for all calls of an edge. `requests` has them by class of their answer, the proxy's own answers
too; `failed` counts those that ended without one, and for TCP connections that could not be made; `active` are requests
under way, or for TCP the caller's connections (0 at the other side, where Envoy does not tell). `bytes_sent` go from the
source to the destination. `latency_ms` is cumulative, and up to 5 s older than the rest.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from itertools import chain
from typing import Any, NamedTuple, TypeVar

from meshagent.agent.operations import Operations
from meshagent.agent.roster import Place
from meshagent.envoy.bootstrap import LATENCY_BOUNDS
from meshagent.envoy.counts import Counts
from meshagent.envoy.handle import started_at
from meshagent.envoy.process import EnvoyProcess
from meshagent.model.edges import OTHER, OUTSIDE
from meshagent.model.names import HTTP_PROTOCOLS
from meshagent.model.view import Egress, Guard, Inbound, Outbound, ProxyView
from meshagent.translate.clusters import plain_name, upstream_name
from meshagent.translate.counting import (
    REST,
    gateway_prefix,
    inbound_prefix,
    outbound_prefix,
    route_prefix,
    rule_name,
    rules_prefix,
)

_CLASSES = (1, 2, 3, 4, 5)
_LONGEST_MS = LATENCY_BOUNDS[-2]  # an hour, the bound above, stands for all that took longer
_WANTED = (
    r"^((http\.(in|out|gateway)\..+\.downstream|cluster\.(out|plain)/.+\.upstream|vhost\..+\.route\..+\.upstream)_"
    r"(rq_([1-5]xx|total|completed|active|time)|cx_(total|active|connect_fail|[rt]x_bytes_total))"
    r"|tcp\..+\.downstream_cx_(total|[rt]x_bytes_total)|(http|tcp)\..+\.rbac\.(shadow_)?(allowed|denied))$"
)
Subsets = Mapping[Place, tuple[str, ...]]  # by instance of this host, where its service is divided


class _Key(NamedTuple):
    side: str
    source: str
    destination: str
    route: str = ""
    subset: str = ""


@dataclass(slots=True)
class _Numbers:
    """What was counted of one edge, by one or several of Envoy's parts."""

    requests: Counter[str] = field(default_factory=Counter)
    failed: int = 0
    active: int = 0
    connections: int = 0
    sent: int = 0
    received: int = 0
    latency: Counter[float] = field(default_factory=Counter)

    def add(self, other: _Numbers) -> None:
        """Count what the other one has too."""
        self.requests.update(other.requests)
        self.latency.update(other.latency)
        self.failed += other.failed
        self.active += other.active
        self.connections += other.connections
        self.sent += other.sent
        self.received += other.received


_Call = TypeVar("_Call", Outbound, Egress)
_Found = tuple[_Key, str, _Numbers]  # with the protocol


async def read_traffic(operations: Operations, envoy: EnvoyProcess) -> dict[str, Any]:
    """GET /v1/traffic. Raises EnvoyFailed when Envoy does not answer."""
    view, since = operations.converger.view, started_at(envoy.pid) if envoy.pid else None
    counts = await envoy.admin.counts(_WANTED) if view else Counts({}, {})
    return await asyncio.to_thread(traffic, view, counts, subsets_here(operations), since)


def subsets_here(operations: Operations) -> dict[Place, tuple[str, ...]]:
    """The subsets of the instances that run here, of services that have any."""
    world, found = operations.converger.world, {}
    for place, each in operations.roster.registered.items():
        stated = world.services.get(each.definition.name) if world else None
        if stated and stated.thing.subsets:
            found[place] = stated.thing.subsets_of(each.definition.meta)
    return found


def traffic(view: ProxyView | None, counts: Counts, subsets: Subsets, since: datetime | None) -> dict[str, Any]:
    """The rows of edges and of rules, sorted. `since`: when the Envoy that counted was started."""
    return {
        "since": since.isoformat() if since else None,
        "edges": edge_rows(view, counts, subsets) if view else [],
        "rules": rule_rows(view, counts) if view else [],
    }


def edge_rows(view: ProxyView, counts: Counts, subsets: Subsets) -> list[dict[str, Any]]:
    """A row for each edge, and for each route and subset of it that is told apart."""
    rows: dict[_Key, tuple[str, _Numbers]] = {}
    parts = (
        _outbounds(view, counts),
        _egresses(view, counts),
        _gateways(view, counts),
        _inbounds(view, counts, subsets),
    )
    for key, protocol, numbers in chain(*parts):
        rows.setdefault(key, (protocol, _Numbers()))[1].add(numbers)
    return [_row(key, *rows[key]) for key in sorted(rows)]


def rule_rows(view: ProxyView, counts: Counts) -> list[dict[str, Any]]:
    """What the intentions in force said, by rule; `other`: for all who have no filter chain of their own."""
    rows: dict[tuple[str, str], Counter[str]] = {}
    for inbound in view.inbounds:
        for rule, verdicts in _verdicts(inbound, counts):
            rows.setdefault((inbound.service, rule), Counter()).update(verdicts)
    for service, verdicts in _verdicts_on_connections(view, counts):
        rows.setdefault((service, OTHER), Counter()).update(verdicts)
    for name, rule, verdicts in _verdicts_on_externals(view, counts):
        rows.setdefault((name, rule), Counter()).update(verdicts)
    return [
        {"service": service, "rule": rule, **{name: told[name] for name in ("allowed", "denied", "shadow_denied")}}
        for (service, rule), told in sorted(rows.items())
    ]


def _outbounds(view: ProxyView, counts: Counts) -> Iterator[_Found]:
    gateways = {gateway.name for gateway in view.gateways}
    declared = {upstream_name(each) for each in view.outbounds}
    routes = _by_route(counts)
    for outbound in _each(view.outbounds):
        key = _Key("outbound", outbound.source, outbound.upstream)
        if outbound.source in gateways and not outbound.listened:
            yield key, outbound.protocol, _reached(outbound, counts)
        elif outbound.by_request:
            yield key, outbound.protocol, _answered(counts, f"http.{outbound_prefix(outbound)}.downstream")
        else:
            clusters = [
                each for each in (outbound, *outbound.beyond) if each is outbound or upstream_name(each) not in declared
            ]
            yield key, "tcp", _carried(counts, outbound_prefix(outbound), clusters)
            continue
        for name in (*(rule_name(way.rule, way.index) for way in outbound.ways), *([REST] if outbound.ways else [])):
            for scope in routes.get(route_prefix(outbound.source, outbound.upstream, name), ()):
                yield key._replace(route=name), outbound.protocol, _answered(counts, f"{scope}.upstream")
        for beyond in outbound.beyond:
            if not beyond.subset and upstream_name(beyond) not in declared:
                led = key._replace(destination=beyond.upstream, route=f"via {outbound.upstream}")
                yield led, beyond.protocol, _reached(beyond, counts)


def _egresses(view: ProxyView, counts: Counts) -> Iterator[_Found]:
    for egress in _each(view.egresses):
        key, prefix = _Key("outbound", egress.source, egress.upstream), outbound_prefix(egress)
        if egress.external.http:
            yield key, egress.external.protocol, _answered(counts, f"http.{prefix}.downstream")
        else:
            yield key, "tcp", _carried(counts, prefix, ())


def _gateways(view: ProxyView, counts: Counts) -> Iterator[_Found]:
    for gateway in view.gateways:
        numbers = _answered(counts, f"http.{gateway_prefix(gateway.name)}.downstream")
        yield _Key("inbound", OUTSIDE, gateway.name), "http", numbers


def _inbounds(view: ProxyView, counts: Counts, subsets: Subsets) -> Iterator[_Found]:
    for inbound in view.inbounds:
        named = dict.fromkeys((*(each.source for each in inbound.chains), *inbound.shut_out))
        for source in ("", *named):
            key, prefix = _Key("inbound", source or OTHER, inbound.service), inbound_prefix(inbound, source)
            numbers = _carried(counts, prefix, ())
            if inbound.protocol in HTTP_PROTOCOLS:
                numbers.add(_answered(counts, f"http.{prefix}.downstream"))
            yield key, inbound.protocol, numbers
            for subset in subsets.get((inbound.service, inbound.instance), ()):
                yield key._replace(subset=subset), inbound.protocol, numbers


def _answered(counts: Counts, prefix: str) -> _Numbers:
    """Requests, as a manager of HTTP connections, a cluster or a route counts them."""
    completed, active = counts.of(f"{prefix}_rq_completed"), counts.of(f"{prefix}_rq_active")
    came, went = ("rx", "tx") if prefix.endswith("downstream") else ("tx", "rx")
    return _Numbers(
        requests=Counter({f"{each}xx": counts.of(f"{prefix}_rq_{each}xx") for each in _CLASSES}),
        # A route has no count of what is under way, so what it lacks an answer to may still get one.
        failed=max(0, counts.of(f"{prefix}_rq_total") - completed - active)
        if f"{prefix}_rq_active" in counts.values
        else 0,
        active=active,
        connections=counts.of(f"{prefix}_cx_total"),
        sent=counts.of(f"{prefix}_cx_{came}_bytes_total"),
        received=counts.of(f"{prefix}_cx_{went}_bytes_total"),
        latency=Counter(dict(counts.buckets.get(f"{prefix}_rq_time", ()))),
    )


def _carried(counts: Counts, prefix: str, clusters: Iterable[Outbound]) -> _Numbers:
    """Connections of which only bytes are seen."""
    towards = [f"cluster.{upstream_name(each)}.upstream_cx" for each in clusters]
    return _Numbers(
        failed=sum(counts.of(f"{each}_connect_fail") for each in towards),
        active=sum(counts.of(f"{each}_active") for each in towards),
        connections=counts.of(f"tcp.{prefix}.downstream_cx_total"),
        sent=counts.of(f"tcp.{prefix}.downstream_cx_rx_bytes_total"),
        received=counts.of(f"tcp.{prefix}.downstream_cx_tx_bytes_total"),
    )


def _reached(outbound: Outbound, counts: Counts) -> _Numbers:
    """What went to a service by its clusters, where no listener is for it alone."""
    numbers = _Numbers()
    for cluster in (upstream_name(outbound), plain_name(outbound)):
        numbers.add(_answered(counts, f"cluster.{cluster}.upstream"))
    return numbers


def _by_route(counts: Counts) -> dict[str, list[str]]:
    """Where the requests of a rule are counted: in each virtual host that has it."""
    found: dict[str, list[str]] = {}
    for name in counts.values:
        if name.startswith("vhost.") and name.endswith(".upstream_rq_total"):
            scope = name.removesuffix(".upstream_rq_total")
            found.setdefault(scope.partition(".route.")[2], []).append(scope)
    return found


def _verdicts(inbound: Inbound, counts: Counts) -> Iterator[tuple[str, Counter[str]]]:
    """By rule. Who has a chain of its own meets the one rule that names it; a TCP proxy is only reached by who is allowed."""
    for each in inbound.chains:
        prefix, rule = inbound_prefix(inbound, each.source), _rule(inbound.guard, each.source)
        yield rule, _judged(counts, f"http.{prefix}.")
        yield rule, Counter(allowed=counts.of(f"tcp.{prefix}.downstream_cx_total"))
    yield OTHER, _judged(counts, f"http.{inbound_prefix(inbound)}.")


def _verdicts_on_connections(view: ProxyView, counts: Counts) -> Iterator[tuple[str, Counter[str]]]:
    """Of a service's TCP connections those that no chain of a named source counts."""
    for service in sorted({inbound.service for inbound in view.inbounds}):
        told = _judged(counts, rules_prefix(service))
        own = (each for each in view.inbounds if each.service == service)
        named = (f"tcp.{inbound_prefix(each, one.source)}.downstream_cx_total" for each in own for one in each.chains)
        told["allowed"] = max(0, told["allowed"] - sum(map(counts.of, named)))
        yield service, told


def _verdicts_on_externals(view: ProxyView, counts: Counts) -> Iterator[tuple[str, str, Counter[str]]]:
    """Of names outside the mesh. Connections of several sources to one name are counted together."""
    calls = _each(view.egresses)
    for egress in calls:
        yield egress.upstream, _rule(egress.guard, egress.source), _judged(counts, f"http.{outbound_prefix(egress)}.")
    by_name = {egress.upstream: [each for each in calls if each.upstream == egress.upstream] for egress in calls}
    for name, own in by_name.items():
        rule = _rule(own[0].guard, own[0].source) if len(own) == 1 else OTHER
        yield name, rule, _judged(counts, rules_prefix(name))


def _judged(counts: Counts, prefix: str) -> Counter[str]:
    return Counter({name: counts.of(f"{prefix}rbac.{name}") for name in ("allowed", "denied", "shadow_denied")})


def _rule(guard: Guard, source: str) -> str:
    rule = guard.rule_for(source)
    return rule.id if rule else "default"


def _each(calls: tuple[_Call, ...]) -> list[_Call]:
    """Each pair of source and upstream once: instances of one service on one host share what is counted."""
    return list({(each.source, each.upstream): each for each in calls}.values())


def _row(key: _Key, protocol: str, numbers: _Numbers) -> dict[str, Any]:
    latency = sorted(numbers.latency.items())
    kept: list[list[object]] = [[bound, count] for bound, count in latency if bound <= _LONGEST_MS]
    if latency:
        kept.append(["+Inf", latency[-1][1]])
    return {
        **key._asdict(),
        "protocol": protocol,
        "requests": dict(numbers.requests),
        "failed": numbers.failed,
        "active": numbers.active,
        "connections": numbers.connections,
        "bytes_sent": numbers.sent,
        "bytes_received": numbers.received,
        "latency_ms": kept,
    }
