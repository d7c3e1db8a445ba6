"""A rollout over the routes of a caller: what leads to the service as a whole, or to its old subset, is split. Pure.

Rules keep all else that they say, and those that name other subsets are left alone. Requests that no rule takes are split by
a rule behind the others.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from math import gcd

from meshagent.model.rollout import WHOLE, percent_of
from meshagent.model.route import MAX_WEIGHT, Route, RouteRule, Target
from meshagent.model.world import Origin, Stated, World
from meshagent.policy.ways import place

Serves = Callable[[str, str], bool]
"""Whether a subset of a service has an instance in service, as the caller sees it."""

RULE = "rollout"  # the name of the rule behind the others


@dataclass(frozen=True, slots=True)
class Split:
    """`percent` of what leads to the service, or to its subset `base`, goes to the subset `to`."""

    base: str
    to: str
    percent: int
    origin: Origin = field(default=Origin(), compare=False)


def splits_of(world: World, services: Collection[str], serves: Serves) -> dict[str, Split]:
    """The rollouts of these services as they stand now.

    A new subset without an instance in service gets nothing while the old one has one.
    """
    found: dict[str, Split] = {}
    for name in services:
        if stated := world.rollouts.get(name):
            rollout = stated.thing
            percent = percent_of(rollout, world.progress.get(name))
            if percent == WHOLE and not serves(name, rollout.to) and serves(name, rollout.base):
                percent = 0  # of a share, a split leaves out by itself what has no instance
            found[name] = Split(rollout.base, rollout.to, percent, stated.origin())
    return found


def rolled(world: World, upstream: str, serves: Serves) -> Stated[Route] | None:
    """The route of an upstream as its callers follow it now: the same object where no rollout has to do with it."""
    route = world.routes.get(upstream)
    concerned = {upstream, *route.thing.services} if route else {upstream}
    if world.rollouts.keys().isdisjoint(concerned):
        return route
    return with_splits(route, upstream, splits_of(world, concerned, serves))


def as_routes(world: World) -> World:
    """The world with its rollouts written into its routes as they stand now, and without rollouts."""
    if not world.rollouts:
        return world
    made = {name: rolled(world, name, lambda *_: True) for name in {*world.routes, *world.rollouts}}
    routes = {name: route for name, route in made.items() if route}
    return replace(world, routes=routes, rollouts={}, progress={})


def with_splits(route: Stated[Route] | None, upstream: str, splits: Mapping[str, Split]) -> Stated[Route]:
    """The route with its targets split; a new one where there was none."""
    rules = route.thing.rules if route else ()
    origins = dict(route.origins) if route else {}
    made = [_with_split(rule, upstream, splits) for rule in rules]
    if upstream in splits and not any(map(takes_all, rules)):
        origins[str(len(made))] = splits[upstream].origin
        made.append(_with_split(RouteRule(name=RULE), upstream, splits))
    whole = route.thing if route else Route(name=upstream)
    return Stated(whole.model_copy(update={"rules": tuple(made)}), origins)


def takes_all(rule: RouteRule) -> bool:
    """Whether no request of any caller goes on to the next rule."""
    return not (rule.match.by_request or rule.match.sources or rule.match.regions)


def _with_split(rule: RouteRule, upstream: str, splits: Mapping[str, Split]) -> RouteRule:
    """The rule, the same object where nothing of it is split."""
    if rule.redirect or rule.respond:
        return rule
    targets = rule.to or (Target(),)
    if not any(_is_split(each, upstream, splits) for each in targets):
        return rule
    parts: dict[tuple[str, str | None], Target] = {}
    for each in (part for target in targets for part in _parts(target, upstream, splits)):
        held = parts.get(key := (place(each, upstream), each.subset))
        parts[key] = each.model_copy(update={"weight": each.weight + held.weight}) if held else each
    return rule.model_copy(update={"to": _slim(tuple(parts.values()))})


def _is_split(target: Target, upstream: str, splits: Mapping[str, Split]) -> bool:
    split = splits.get(place(target, upstream))
    return split is not None and target.subset in (None, split.base)


def _parts(target: Target, upstream: str, splits: Mapping[str, Split]) -> Iterator[Target]:
    """The target in hundredths of its weight, without a part of no weight."""
    if not _is_split(target, upstream, splits):
        yield target.model_copy(update={"weight": target.weight * WHOLE})
        return
    split = splits[place(target, upstream)]
    for subset, percent in ((split.base, WHOLE - split.percent), (split.to, split.percent)):
        if percent:
            yield target.model_copy(update={"subset": subset, "weight": target.weight * percent})


def _slim(targets: tuple[Target, ...]) -> tuple[Target, ...]:
    """The same shares in the smallest weights, none of them larger than a document may say."""
    by = gcd(*(target.weight for target in targets)) or 1
    most = max(target.weight for target in targets) // by
    weights = (target.weight // by for target in targets)
    if most > MAX_WEIGHT:
        weights = (weight and max(1, weight * MAX_WEIGHT // most) for weight in weights)
    return tuple(target.model_copy(update={"weight": weight}) for target, weight in zip(targets, weights, strict=True))
