"""shifts(before, after) -> what a change of routes means for requests: which share of which goes where, and went before. Pure.

Requests are told apart by the matches of the rules, old and new: each kind is what a rule matches and no earlier one takes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from meshagent.model.matching import RouteMatch
from meshagent.model.names import ANY
from meshagent.model.view import Outbound, Way
from meshagent.model.world import World
from meshagent.policy.covers import covers_route
from meshagent.policy.failover import landing
from meshagent.policy.resolve import outbound_of
from meshagent.policy.ways import place

_EVERYTHING = RouteMatch()


@dataclass(frozen=True, slots=True)
class Place:
    """Where requests go: a service, or a subset of it. With an `answer`, the caller's proxy gives this status instead."""

    service: str
    subset: str | None = None
    answer: int | None = None


Shares = Mapping[Place, float]
"""In percent."""


@dataclass(frozen=True, slots=True)
class Shift:
    """Requests of one kind that go elsewhere, or in other shares.

    `source` is `*` for every caller that no rule names, `region` empty for every region that no rule names. `rest`: a rule
    takes some of these requests for another kind. `besides`: there are callers of whom not the same can be said.
    """

    source: str
    region: str
    destination: str
    match: RouteMatch
    before: Shares
    after: Shares
    rest: bool = False
    besides: bool = False
    connections: bool = False  # of a tcp service, of which no requests are known


def shifts(before: World, after: World) -> tuple[Shift, ...]:
    """Every kind of request that fares otherwise, by destination. What callers share is said once."""
    worlds = (before, after)
    failing_over = {name for world in worlds for name, stated in world.services.items() if stated.thing.backups}
    rolled = {*before.rollouts, *after.rollouts}
    named = {*before.routes, *after.routes, *failing_over, *rolled}
    return tuple(shift for name in sorted(named) for shift in _towards(name, before, after))


def _towards(destination: str, before: World, after: World) -> Iterator[Shift]:
    told = {each: _of_caller(*each, destination, before, after) for each in _callers(destination, before, after)}
    for (source, region), kinds in told.items():
        wider = {(ANY, ""), (ANY, region), (source, "")} - {(source, region)}
        named = [others for (name, there), others in told.items() if name != ANY and there == region]
        for shift in kinds:
            if shift.before == shift.after or any(_has(told[each], shift) for each in wider):
                continue
            yield replace(shift, besides=source == ANY and not all(_has(others, shift) for others in named))


def _callers(destination: str, before: World, after: World) -> Iterator[tuple[str, str]]:
    """(source, region), wider ones first."""
    routes = [world.routes[destination].thing for world in (before, after) if destination in world.routes]
    matches = [rule.match for route in routes for rule in route.rules]
    regions = ["", *sorted({region for match in matches for region in match.regions})]
    for source in (ANY, *sorted({source for match in matches for source in match.sources})):
        yield from ((source, region) for region in regions)


def _of_caller(source: str, region: str, destination: str, before: World, after: World) -> list[Shift]:
    """Every kind of this caller's requests, also those that go on as before."""
    caller = "" if source == ANY else source
    outbounds = [outbound_of(world, caller, destination, region) for world in (before, after)]
    old, new = outbounds
    tcp = not outbounds[1].by_request
    kinds = dict.fromkeys((*(_asked(way) for way in (*new.ways, *old.ways)), _EVERYTHING))
    found = [Shift(source, region, destination, kind, _shares(old, kind), _shares(new, kind)) for kind in kinds]
    kept = [shift for shift in found if not any(_says_more(other, shift) for other in found)]
    return [replace(_with_rest(shift, kept), connections=tcp) for shift in kept]


def _asked(way: Way) -> RouteMatch:
    """What the rule asks of requests: who calls is known."""
    return way.rule.match.model_copy(update={"sources": (), "regions": ()})


def _shares(outbound: Outbound, kind: RouteMatch) -> Shares:
    """Where requests of a kind go now. What has no instance in service is told as what it fails over to."""
    way = next((way for way in outbound.ways if covers_route(_asked(way), kind)), None)
    answered = (way.rule.redirect or way.rule.respond) if way else None
    if way and (answered or way.nowhere):
        return {Place("", None, answered.status if answered else 503): 100.0}
    targets = [(place(each, outbound.upstream), each.subset, each.weight) for each in way.to] if way else []
    total = sum(weight for _, _, weight in targets)
    shares: dict[Place, float] = {}
    for service, subset, weight in targets or [(outbound.upstream, None, 0)]:
        where = landing(outbound, service, subset)
        found = Place(where.service, where.subset)
        shares[found] = shares.get(found, 0.0) + (100 * weight / total if targets else 100.0)
    return shares


def _says_more(wide: Shift, narrow: Shift) -> bool:
    """Whether the same is said of a kind that has the other in it (of two equal ones, none does)."""
    alike = (wide.before, wide.after) == (narrow.before, narrow.after)
    return alike and covers_route(wide.match, narrow.match) and not covers_route(narrow.match, wide.match)


def _with_rest(shift: Shift, others: Sequence[Shift]) -> Shift:
    return replace(
        shift, rest=any(each.match != shift.match and covers_route(shift.match, each.match) for each in others)
    )


def _has(kinds: Sequence[Shift], wanted: Shift) -> bool:
    """Whether the same is said of the same requests."""
    said = (wanted.match, wanted.before, wanted.after)
    return any((each.match, each.before, each.after) == said for each in kinds)
