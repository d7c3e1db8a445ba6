"""Services and the calls between them, with what is known of both."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from meshagent.cli.counters import byte_rate, concerns, milliseconds, per_second, percent
from meshagent.model.edges import OTHER, OUTSIDE, EdgeRate

Kind = Literal["service", "outside", "other"]
Health = Literal["passing", "degraded", "failing", "unknown"]


@dataclass(frozen=True, slots=True)
class Node:
    """A service, gateway or name outside; `outside`: who calls a gateway; `other`: callers that nobody tells apart."""

    name: str
    kind: Kind = "service"
    instances: int = 0
    passing: int = 0

    @property
    def health(self) -> Health:
        """What callers find: unknown where nothing is registered, as of names outside."""
        if not self.instances:
            return "unknown"
        return "passing" if self.passing == self.instances else "degraded" if self.passing else "failing"

    @property
    def words(self) -> str:
        """How many there are of it."""
        if not self.instances:
            return ""
        several = f"{self.instances} instance{'s' if self.instances > 1 else ''}"
        return several if self.passing == self.instances else f"{several}, {self.passing} passing"


@dataclass(frozen=True, slots=True)
class Graph:
    """Nodes by name and the edges between them, sorted. An edge on which nothing happens has a rate of 0."""

    nodes: tuple[Node, ...]
    edges: tuple[EdgeRate, ...]

    def data(self) -> dict[str, Any]:
        """As plain data."""
        nodes = [asdict(node) | {"health": node.health} for node in self.nodes]
        return {"nodes": nodes, "edges": [asdict(edge) for edge in self.edges]}


def graph(
    rates: Iterable[EdgeRate],
    used: frozenset[tuple[str, str]],
    instances: Mapping[str, tuple[int, int]],
    *,
    service: str | None = None,
    every: bool = False,
) -> Graph:
    """The calls that happen: those of `used` (source, destination), or with `every` also those that are only declared.

    With a `service`, what it calls and what calls it. `instances`: how many a service has, and how many pass.
    """
    whole = (each for each in rates if not each.subset and (not each.route or each.route.startswith("via ")))
    edges: dict[tuple[str, str], EdgeRate] = {}
    for each in whole:
        pair = (each.source, each.destination)
        if concerns(each, service) and (every or pair in used):
            edges[pair] = max(edges.get(pair, each), each, key=lambda edge: (edge.rps, edge.connections_per_s))
    names = {name for pair in edges for name in pair}
    names |= {name for name in instances if service is None} | ({service} if service else set())
    nodes = tuple(Node(name, _kind(name), *instances.get(name, (0, 0))) for name in sorted(names))
    return Graph(nodes, tuple(edges[pair] for pair in sorted(edges)))


def words(edge: EdgeRate) -> str:
    """What happens on an edge, in a few words."""
    if not (edge.rps or edge.connections_per_s or edge.bytes_per_s or edge.active):
        return "idle"
    if edge.protocol == "tcp" or not (edge.rps or edge.active):
        told = [f"{per_second(edge.connections_per_s)} conn/s", byte_rate(edge.bytes_per_s)]
        return ", ".join([*told, f"{percent(edge.error_ratio)} failed"] if edge.error_ratio else told)
    told = [f"{per_second(edge.rps)}/s"]
    told += [f"{percent(edge.error_ratio)} errors"] if edge.error_ratio else []
    told += [f"p99 {milliseconds(edge.p99_ms)}"] if edge.p99_ms is not None else []
    return ", ".join(told)


def _kind(name: str) -> Kind:
    return "outside" if name == OUTSIDE else "other" if name == OTHER else "service"
