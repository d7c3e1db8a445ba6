"""A route's rules -> the ways of one caller: who calls and where it stands is known here, and which instances are in service.

Routes are not chained: a target is called as it is, whatever its own route says. So there are no loops.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from meshagent.model.names import HTTP_PROTOCOLS
from meshagent.model.route import Mirror, Route, RouteRule, Target
from meshagent.model.view import Outbound, Way
from meshagent.model.world import Stated

Reach = Callable[[str], Outbound | None]
"""Another service as the caller reaches it; None: nobody knows how it speaks."""


def with_ways(outbound: Outbound, route: Stated[Route] | None, region: str, reach: Reach) -> Outbound:
    """The outbound with the ways of its route for a caller in this region, and with what they lead to."""
    rules = tuple(_applicable(route.thing, outbound, region)) if route else ()
    if route is None or not rules:
        return replace(outbound, ways=(), beyond=())
    named = {name for _, rule in rules for name in _named(rule, outbound.upstream)}
    found = {name: other for name in named if (other := reach(name)) and alike(other, outbound)}
    reached = {outbound.upstream: outbound} | found
    return replace(
        outbound,
        ways=tuple(_way(index, rule, reached, route, outbound.upstream) for index, rule in rules),
        beyond=tuple(other for _, other in sorted({**found, **_parts(rules, reached, outbound.upstream)}.items())),
    )


def place(target: Target | Mirror, upstream: str) -> str:
    """The service that a target of the upstream's route means."""
    return target.service or upstream


def _applicable(route: Route, outbound: Outbound, region: str) -> Iterator[tuple[int, RouteRule]]:
    """The rules that this caller may meet. Of a TCP service's at most one: nothing more is known of a connection."""
    http = outbound.protocol in HTTP_PROTOCOLS
    for index, rule in enumerate(route.rules):
        match = rule.match
        if (match.sources and outbound.source not in match.sources) or (match.regions and region not in match.regions):
            continue
        if http:
            yield index, rule
        elif not rule.for_http_alone:
            yield index, rule
            return


def _way(index: int, rule: RouteRule, reached: Mapping[str, Outbound], route: Stated[Route], upstream: str) -> Way:
    known = tuple(target for target in rule.to if place(target, upstream) in reached)
    weighty = tuple(target for target in known if target.weight)
    serving = tuple(each for each in weighty if reached[place(each, upstream)].serves(each.subset))
    left = weighty if rule.strict else serving or weighty
    return Way(index, rule, left, route.origin(str(index)))


def _named(rule: RouteRule, upstream: str) -> set[str]:
    called, copied = (place(each, upstream) for each in rule.to), (place(each, upstream) for each in rule.mirror)
    return {*called, *copied} - {upstream}


def alike(other: Outbound, outbound: Outbound) -> bool:
    """Requests cannot be sent where connections alone are understood, nor the other way round."""
    return (other.protocol in HTTP_PROTOCOLS) == (outbound.protocol in HTTP_PROTOCOLS)


def _parts(
    rules: tuple[tuple[int, RouteRule], ...], reached: Mapping[str, Outbound], upstream: str
) -> dict[str, Outbound]:
    """Subsets that requests are copied to, each as if it were a service: Envoy's copies go to a whole cluster."""
    parts: dict[str, Outbound] = {}
    for mirror in (each for _, rule in rules for each in rule.mirror):
        whole = reached.get(place(mirror, upstream))
        if whole and mirror.subset:
            parts[f"{whole.upstream}#{mirror.subset}"] = part_of(whole, mirror.subset)
    return parts


def part_of(whole: Outbound, subset: str) -> Outbound:
    """One subset of a service, as if it were a service."""
    return Outbound(
        source=whole.source,
        upstream=whole.upstream,
        protocol=whole.protocol,
        endpoints=tuple(each for each in whole.endpoints if subset in each.subsets),
        local_address="",
        traffic=whole.traffic,
        plain_endpoints=tuple(each for each in whole.plain_endpoints if subset in each.subsets),
        subset=subset,
        tiers=whole.tiers,
    )
