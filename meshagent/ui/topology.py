"""The services and who calls whom: what is meant to be, by intentions and gateways, and what is, by live numbers. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from meshagent.cli.mesh import Seen
from meshagent.model.gateway import Gateway
from meshagent.model.names import ANY
from meshagent.model.service import Instance
from meshagent.model.world import World
from meshagent.policy.resolve import judged_protocol
from meshagent.ui.matrix import guard_of, verdict_of

Data = dict[str, Any]
Pair = tuple[str, str]


def topology(seen: Seen, live: Mapping[Pair, Data], upstreams: Iterable[Pair], now: datetime) -> Data:
    """Nodes and edges. `live`: the numbers of pairs; `upstreams`: pairs that services declare, as far as it is known.

    An edge is there where somebody declares the call, an intention between the two allows it, a gateway leads there, or
    calls are made.
    """
    world = seen.world()
    declared = {*upstreams, *_led(seen)}
    edges = [
        _edge(world, pair, live.get(pair), now, declared=pair in declared)
        for pair in sorted({*declared, *_allowed(world), *(pair for pair, row in live.items() if _busy(row))})
    ]
    names = seen.services | {name for edge in edges for name in (edge["source"], edge["destination"])}
    return {"revision": seen.revision, "nodes": [node(seen, world, name) for name in sorted(names)], "edges": edges}


def node(seen: Seen, world: World, name: str) -> Data:
    """A service: what it is, and how its instances are."""
    instances = world.instances.get(name, ())
    passing = sum(each.health == "passing" for each in instances)
    return {
        "name": name,
        "kind": kind_of(seen, name),
        "protocol": judged_protocol(world, name),
        "instances": len(instances),
        "passing": passing,
        "health": _health(instances, passing),
    }


def kind_of(seen: Seen, name: str) -> str:
    """service, external or gateway; unknown: named by policy or traffic alone."""
    for kind in ("external", "gateway"):
        if (kind, name) in seen.documents:
            return kind
    return "service" if name in seen.services else "unknown"


def _busy(row: Data) -> bool:
    """Whether calls are made: a proxy also counts for those who may call and never do."""
    return any(row.get(name) for name in ("rps", "connections_per_s", "active"))


def _health(instances: Sequence[Instance], passing: int) -> str:
    if not instances:
        return "none"
    return "passing" if passing == len(instances) else "partly" if passing else "failing"


def _led(seen: Seen) -> Iterator[Pair]:
    for stated in seen.documents.values():
        if isinstance(stated.thing, Gateway):
            yield from ((stated.thing.name, name) for name in stated.thing.services)


def _allowed(world: World) -> Iterator[Pair]:
    """The pairs that an intention names and that may call."""
    for destination, stated in world.intentions.items():
        if destination == ANY or stated.broken:
            continue
        for source in stated.thing.sources:
            if source.name != ANY and source.action != "deny" and not source.shadow:
                yield source.name, destination


def _edge(world: World, pair: Pair, live: Data | None, now: datetime, *, declared: bool) -> Data:
    verdict = verdict_of(guard_of(world, pair[1], now), pair[0])
    return {"source": pair[0], "destination": pair[1], "declared": declared, **verdict, "live": live}
