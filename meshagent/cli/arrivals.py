"""came_of(world, source, destination, ...) -> Came: every place that a call comes to, with the verdict there. Pure.

Both parts are those of `explain`: the way by the route of the destination, and the verdict by the intentions of each
service that the way leads to, on the request as it arrives there.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from meshagent.cli.ways import called, journey
from meshagent.model.names import HTTP_PROTOCOLS, Protocol
from meshagent.model.route import Target
from meshagent.model.view import Outbound, Way
from meshagent.model.world import World
from meshagent.policy.carriage import sees_requests
from meshagent.policy.explain import Outcome, Verdict, doubted, explain
from meshagent.policy.precedence import guard
from meshagent.policy.request import Request
from meshagent.policy.resolve import judged_protocol, known_protocol, outbound_of
from meshagent.policy.ways import place

End = Outcome | Literal["answered", "mixed"]


@dataclass(frozen=True, slots=True)
class Arrival:
    """One place that a call may come to, with its share of such calls in percent, and the verdict there.

    `zones`: where the instances stand that are called there now.
    """

    service: str
    subset: str | None
    percent: float
    verdict: Verdict
    zones: frozenset[str] = frozenset()
    doubt: Verdict | None = None  # how shadow would refuse what passes


@dataclass(frozen=True, slots=True)
class Came:
    """What came of a call. `protocol` is None when nothing says how the destination speaks.

    Without arrivals the caller's own proxy answers. `undecided`: no request is given, and a route looks at it. The
    arrivals are then all places that the call may come to, of no share.
    """

    protocol: Protocol | None
    way: Way | None
    arrivals: tuple[Arrival, ...]
    undecided: bool = False

    @property
    def end(self) -> End:
        """What becomes of the call; `mixed` when its places say different things."""
        outcomes = {arrival.verdict.outcome for arrival in self.arrivals}
        if not outcomes:
            return "answered"
        if len(outcomes) == 1:
            return outcomes.pop()
        return "depends" if self.undecided else "mixed"


def came_of(
    world: World,
    source: str,
    destination: str,
    request: Request | None,
    region: str,
    now: datetime,
    *,
    zone: str = "",
) -> Came:
    """What becomes of a call from a host in this region and zone; without a request, of the call as such.

    A TCP service's proxy sees no request, so one that is given is not looked at there.
    """
    spoken = judged_protocol(world, destination)
    protocol = spoken if destination in world.externals else known_protocol(world, destination)
    if spoken not in HTTP_PROTOCOLS:
        request = None
    outbound = outbound_of(world, source, destination, region, zone)
    found = journey(outbound, request)
    if found.undecided:
        names = sorted(_possible(outbound.ways, destination))
        judged = ((name, *_verdicts(world, outbound, name, None, now)) for name in names)
        places = (Arrival(name, None, 0.0, verdict, doubt=doubt) for name, verdict, doubt in judged)
        return Came(protocol, None, tuple(places), undecided=True)
    total = sum(target.weight for target, _ in found.targets) or 1
    zones: dict[str, set[str]] = {}
    for instance, is_called in called(found, world):
        zones.setdefault(instance.service, set()).update({instance.zone} if is_called else ())
    arrivals = (
        Arrival(
            service,
            target.subset,
            100 * target.weight / total,
            verdict,
            frozenset(zones.get(service, ())),
            doubt,
        )
        for target, sent in found.targets
        for service in (target.service or destination,)
        for verdict, doubt in (_verdicts(world, outbound, service, sent, now),)
    )
    return Came(protocol, found.way, tuple(arrivals))


def _possible(ways: Iterable[Way], destination: str) -> set[str]:
    """The services that some request may come to."""
    found: set[str] = set()
    for way in ways:
        if not (way.rule.redirect or way.rule.respond):
            found |= {place(target, destination) for target in way.to or ((Target(),) if not way.rule.to else ())}
        if not way.rule.match.by_request:
            return found
    return found | {destination}


def _verdicts(
    world: World, outbound: Outbound, service: str, request: Request | None, now: datetime
) -> tuple[Verdict, Verdict | None]:
    """What holds, and how shadow would refuse it."""
    judged = guard(service, judged_protocol(world, service), world.mesh, world.intentions, now)
    seen = request if sees_requests(world, outbound, judged) else None
    return explain(judged, outbound.source, seen), doubted(judged, outbound.source, seen)
