"""The services, and all there is to know of one: document, instances, routes, rules, settings. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from meshagent.cli.mesh import Seen
from meshagent.cli.output import to_yaml
from meshagent.cli.rules import row_action, rule_rows
from meshagent.cli.settings_words import settings_data
from meshagent.documents.encode import plain
from meshagent.errors import NotFound
from meshagent.model.route import Route, RouteRule
from meshagent.model.service import Instance
from meshagent.model.world import Origin, Stated, World
from meshagent.policy.defaults import Call, settings
from meshagent.policy.resolve import judged_protocol
from meshagent.ui.matrix import guard_of
from meshagent.ui.topology import Pair, kind_of, node

Data = dict[str, Any]
_KINDS = ("service", "external", "gateway", "route", "rollout", "intention")


def services(seen: Seen, live: Mapping[Pair, Data]) -> Data:
    """A row for each service."""
    world = seen.world()
    return {"revision": seen.revision, "services": [_row(seen, world, name, live) for name in sorted(seen.services)]}


def one_service(seen: Seen, name: str, live: Mapping[Pair, Data], now: datetime) -> Data:
    """Everything of one service. Raises NotFound."""
    if name not in seen.services and ("intention", name) not in seen.documents:
        raise NotFound(f"there is no service {name}", next_step="look at the list of services")
    world = seen.world()
    mesh = seen.documents.get(("mesh", "mesh"))
    rules = rule_rows(guard_of(world, name, now), mesh.origin() if mesh else Origin())
    return {
        **_row(seen, world, name, live),
        "revision": seen.revision,
        "documents": [_document(seen, kind, name) for kind in _KINDS if (kind, name) in seen.documents],
        "instances_here": [_instance(world, each) for each in world.instances.get(name, ())],
        "routes": list(_routes(world.routes.get(name), name)),
        "rules": [row | {"words": row_action(row)} for row in rules],
        "settings": _settings(seen, world, name),
        "edges": [
            {"source": pair[0], "destination": pair[1], "live": found}
            for pair, found in sorted(live.items())
            if name in pair
        ],
    }


def _row(seen: Seen, world: World, name: str, live: Mapping[Pair, Data]) -> Data:
    stated = world.services.get(name)
    route = world.routes.get(name)
    return {
        **node(seen, world, name),
        "hosts": sorted({each.host for each in world.instances.get(name, ())}),
        "subsets": sorted(stated.thing.subsets) if stated else [],
        "rules_of_route": len(route.thing.rules) if route else 0,
        "data_path": stated.thing.data_path if stated else None,
        "mtls": stated.thing.mtls if stated else None,
        "rps": _sum(live, name),
    }


def _sum(live: Mapping[Pair, Data], name: str) -> float | None:
    """The requests a second that arrive; None where nobody counts."""
    found = [each["rps"] for pair, each in live.items() if pair[1] == name]
    return sum(found) if found else None


def _document(seen: Seen, kind: str, name: str) -> Data:
    stated = seen.documents[kind, name]
    return {"kind": kind, "yaml": to_yaml(plain(stated.thing)), "origin": str(stated.origin())}


def _instance(world: World, instance: Instance) -> Data:
    stated = world.services.get(instance.service)
    data = instance.model_dump(mode="json")
    return data | {"subsets": list(stated.thing.subsets_of(instance.meta)) if stated else []}


def _routes(stated: Stated[Route] | None, name: str) -> Iterator[Data]:
    if stated is None:
        return
    for index, rule in enumerate(stated.thing.rules):
        said = plain(rule)
        more = {field: value for field, value in said.items() if field not in ("name", "match", "to")}
        yield {
            "index": index,
            "name": rule.name,
            "match": to_yaml(said["match"]).strip() if "match" in said else "",
            "targets": _targets(rule, name),
            "more": to_yaml(more).strip() if more else "",
            "origin": str(stated.origin(str(index))),
        }


def _targets(rule: RouteRule, name: str) -> list[Data]:
    whole = sum(target.weight for target in rule.to) or 1
    return [
        {
            "service": target.service or name,
            "subset": target.subset,
            "percent": round(100 * target.weight / whole, 2),
        }
        for target in rule.to
    ]


def _settings(seen: Seen, world: World, name: str) -> list[Data]:
    """What holds for calls that no rule of a route sends elsewhere."""
    if kind_of(seen, name) != "service":
        return []
    held = seen.documents.get(("mesh", "mesh"))
    mesh = Stated(world.mesh, held.origins if held else {})
    found = settings(mesh, world.services, name, Call(None, (name,), judged_protocol(world, name)))
    words = {each.name: each.words for each in found}
    return [row | {"words": words[row["name"]]} for row in settings_data(found)]
