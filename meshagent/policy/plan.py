"""effects(before, after) -> what a change of the policy means for calls, service by service. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal

from meshagent.model.names import ANY
from meshagent.model.view import Guard, Rule
from meshagent.model.world import World
from meshagent.policy.precedence import guard
from meshagent.policy.resolve import judged_protocol

Reach = Literal["all", "none", "some"]  # of a source's calls: "some": permissions decide by request
Turn = Literal["gains", "loses", "narrows", "widens", "differs"]


@dataclass(frozen=True, slots=True)
class Effect:
    """What a change means for one source (`*`: every service that no intention names) of one destination."""

    source: str
    destination: str
    turn: Turn
    before: Rule | None  # None: the mesh's default
    after: Rule | None
    shadow: bool = False  # it would, were all that is said in shadow in force


def effects(before: World, after: World, now: datetime, destinations: Collection[str] = ()) -> tuple[Effect, ...]:
    """Every source whose calls are judged otherwise, by destination and source; what shadow alone judges so comes last.

    Destinations are those that an intention names or that are registered, and `destinations`.
    """
    named = {
        name
        for world in (before, after)
        for name in (*world.intentions, *world.services, *world.instances, *world.externals)
    }
    wanted = sorted((named | set(destinations)) - {ANY})
    return tuple(effect for name in wanted for effect in _of(name, before, after, now))


def reach(rule: Rule | None, default: str) -> Reach:
    """How many of a source's calls a rule lets through."""
    action = default if rule is None else rule.action
    return "some" if action is None else "all" if action == "allow" else "none"


def _of(destination: str, before: World, after: World, now: datetime) -> Iterator[Effect]:
    old, new = _guard(destination, before, now), _guard(destination, after, now)
    if old == new:
        return
    found = tuple(_between(old, new))
    yield from found
    would = _between(old.shadow or old, new.shadow or new)
    yield from (replace(each, shadow=True) for each in would if each not in found)


def _between(old: Guard, new: Guard) -> Iterator[Effect]:
    sources = {rule.source for rule in (*old.rules, *new.rules)} | {ANY}
    for source in sorted(sources, key=lambda name: (name == ANY, name)):
        was, is_ = old.rule_for(source), new.rule_for(source)
        if turn := _turn(was, is_, old.default, new.default):
            yield Effect(source, new.destination, turn, was, is_)


def _guard(destination: str, world: World, now: datetime) -> Guard:
    return guard(destination, judged_protocol(world, destination), world.mesh, world.intentions, now)


def _turn(was: Rule | None, is_: Rule | None, old_default: str, new_default: str) -> Turn | None:
    old, new = reach(was, old_default), reach(is_, new_default)
    if old == new:
        moved = old == "some" and was is not None and is_ is not None and was.permissions != is_.permissions
        return "differs" if moved else None
    if new == "none":
        return "loses"
    if new == "all":
        return "gains" if old == "none" else "widens"
    return "gains" if old == "none" else "narrows"
