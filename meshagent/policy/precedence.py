"""Which intention decides. Order as Consul's: exact destination + exact source, exact + `*`, `*` + exact, `*` + `*`.

The first that names the pair decides, then the mesh's default action. What is said in shadow decides nothing: it stands
before what is in force for the same pair in the guard that the shadow would make.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from meshagent.model.intention import Intention, IntentionSource
from meshagent.model.mesh import Mesh
from meshagent.model.names import ANY, HTTP_PROTOCOLS
from meshagent.model.view import Guard, Rule
from meshagent.model.world import Stated


def guard(
    destination: str, protocol: str, mesh: Mesh, intentions: Mapping[str, Stated[Intention]], now: datetime
) -> Guard:
    """The rules in force for one destination at `now`, most precise first, without those that can never decide."""
    pairs = [
        (stated, source)
        for stated, source in _in_order(destination, intentions)
        if source.expires_at is None or source.expires_at > now
    ]
    rules = _rules([(stated, source) for stated, source in pairs if not source.shadow], protocol)
    made = Guard(destination, rules, "deny" if mesh.default_action == "deny" else "allow")
    would = Guard(destination, _rules(pairs, protocol), "allow" if mesh.default_action == "allow" else "deny")
    return made if _alike(made, would) else replace(made, shadow=would)


def next_expiry(destination: str, intentions: Mapping[str, Stated[Intention]], now: datetime) -> datetime | None:
    """When the next intention that concerns this destination ends; None when none does."""
    times = (source.expires_at for _, source in _in_order(destination, intentions))
    return min((at for at in times if at is not None and at > now), default=None)


def _rules(pairs: Sequence[tuple[Stated[Intention], IntentionSource]], protocol: str) -> tuple[Rule, ...]:
    rules: list[Rule] = []
    named: set[str] = set()
    for stated, source in pairs:
        if source.name in named:
            continue
        named.add(source.name)
        rules.append(_rule(stated, source, protocol))
        if source.name == ANY:
            break
    return tuple(rules)


def _alike(made: Guard, would: Guard) -> bool:
    """Whether no shadow could decide otherwise: a default does not where a rule names everybody."""
    return made.rules == would.rules and (made.default == would.default or made.rule_for("") is not None)


def _in_order(
    destination: str, intentions: Mapping[str, Stated[Intention]]
) -> Iterator[tuple[Stated[Intention], IntentionSource]]:
    for name in (destination, ANY):
        if stated := intentions.get(name):
            sources = stated.thing.sources
            yield from (
                (stated, source)
                for source in sorted(sources, key=lambda each: (each.name == ANY, each.name, not each.shadow))
            )


def _rule(stated: Stated[Intention], source: IntentionSource, protocol: str) -> Rule:
    """An L7 permission on a service that is not HTTP can only be a deny: what it asks for cannot be seen."""
    origin = stated.origin(source.part)
    rule_id = f"{stated.thing.name}/{source.part}"
    if source.permissions and protocol not in HTTP_PROTOCOLS:
        return Rule(source.name, "deny", (), rule_id, origin, "has L7 permissions, which a tcp service cannot judge")
    return Rule(source.name, source.action, source.permissions, rule_id, origin, source.reason)
