"""Who may call whom, of all services at once: the rules of each destination, from which a page works out its cells. Pure."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from meshagent.cli.mesh import Seen
from meshagent.cli.rules import action_words
from meshagent.model.gateway import Gateway
from meshagent.model.names import ANY
from meshagent.model.view import Guard, Rule
from meshagent.model.world import World
from meshagent.policy.plan import reach
from meshagent.policy.precedence import guard
from meshagent.policy.resolve import judged_protocol

Data = dict[str, Any]


def matrix(seen: Seen, now: datetime) -> Data:
    """The sources, and the destinations with their rules in the order in which they are asked.

    A source's rule is that of its name, else that of `*`, else the destination's `default`. `shadow` says the same of what
    would hold, were all that is said in shadow in force; None: nothing else would.
    """
    world = seen.world()
    gateways = {stated.thing.name for stated in seen.documents.values() if isinstance(stated.thing, Gateway)}
    named = {source.name for stated in world.intentions.values() for source in stated.thing.sources} - {ANY}
    known = seen.services
    towards = sorted(((known - gateways) | set(world.intentions)) - {ANY})
    mesh = seen.documents.get(("mesh", "mesh"))
    return {
        "revision": seen.revision,
        "sources": sorted((known | named) - set(world.externals)),
        "destinations": [_destination(world, name, now) for name in towards],
        "default_origin": str(mesh.origin()) if mesh else "",
    }


def guard_of(world: World, destination: str, now: datetime) -> Guard:
    """The rules in force for a destination."""
    return guard(destination, judged_protocol(world, destination), world.mesh, world.intentions, now)


def verdict_of(rules: Guard, source: str) -> Data:
    """What holds for a pair: `reach` is all, none or some (permissions decide by request), `rule` says who says so."""
    rule = rules.rule_for(source)
    said = rule.id if rule else "mesh/default_action"
    return {"reach": reach(rule, rules.default), "rule": said}


def _destination(world: World, name: str, now: datetime) -> Data:
    rules = guard_of(world, name, now)
    held = {"name": name, "protocol": judged_protocol(world, name), **_rules(rules)}
    return held | {"shadow": _rules(rules.shadow) if rules.shadow else None}


def _rules(rules: Guard) -> Data:
    return {"rules": [_rule(rule, rules.default) for rule in rules.rules], "default": rules.default}


def _rule(rule: Rule, default: str) -> Data:
    return {
        "source": rule.source,
        "reach": reach(rule, default),
        "words": action_words(rule.action, rule.permissions),
        "rule": rule.id,
        "reason": rule.reason,
        "origin": str(rule.origin),
    }
