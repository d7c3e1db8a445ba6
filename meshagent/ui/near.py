"""What this host alone knows, where the store tells nothing: its services and what they call. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from meshagent.ui.topology import Pair

Data = dict[str, Any]


def topology_here(rows: Sequence[Mapping[str, Any]], live: Mapping[Pair, Data]) -> Data:
    """Nodes and edges as `topology` gives them. `rows`: as the agent answers to GET /v1/services.

    What the policy says is not known here: `reach` is unknown.
    """
    nodes: dict[str, Data] = {}
    declared: set[Pair] = set()
    for row in rows:
        for upstream in row["upstreams"]:
            kind = "external" if upstream.get("outside") else "service"
            nodes[upstream["service"]] = _node(
                upstream, upstream["service"], kind, upstream["endpoints"], upstream["healthy"]
            )
            declared.add((row["name"], upstream["service"]))
    for name in sorted({row["name"] for row in rows}):
        own = [row for row in rows if row["name"] == name]
        nodes[name] = _node(own[0], name, "service", len(own), sum(row["health"] == "passing" for row in own))
    for name in sorted({name for pair in live for name in pair} - nodes.keys()):
        nodes[name] = _node({"protocol": ""}, name, "unknown", 0, 0)
    edges = [_edge(pair, live.get(pair), declared=pair in declared) for pair in sorted({*declared, *live})]
    return {"revision": 0, "nodes": [nodes[name] for name in sorted(nodes)], "edges": edges}


def _node(row: Mapping[str, Any], name: str, kind: str, instances: int, passing: int) -> Data:
    health = "none" if not instances else "passing" if passing == instances else "partly" if passing else "failing"
    facts = {"name": name, "kind": kind, "protocol": row["protocol"]}
    return {**facts, "instances": instances, "passing": passing, "health": health}


def _edge(pair: Pair, live: Data | None, *, declared: bool) -> Data:
    said = {"reach": "unknown", "rule": "", "live": live}
    return {"source": pair[0], "destination": pair[1], "declared": declared, **said}
