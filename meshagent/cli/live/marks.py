"""Marks: response headers by which the caller's own Envoy says which rule of a route it took, and which target. Pure.

Envoy adds a route's response headers to every answer: the app's, another proxy's, and those that it makes itself, such as
an injected fault's and that no instance is in service (measured, Envoy 1.40). Nothing else of the documents is changed.
"""

from __future__ import annotations

from dataclasses import replace

from meshagent.model.kinds import Document
from meshagent.model.route import HeaderChanges, Headers, Route, RouteRule, Target
from meshagent.model.world import Stated

RULE, PLACE = "x-case-rule", "x-case-place"

Place = tuple[str, str | None]
"""A service, and the subset of it or None."""


def marked(stated: Stated[Document]) -> Stated[Document]:
    """A route whose answers say the rule's number and the target; any other document as it is."""
    if not isinstance(stated.thing, Route):
        return stated
    route = stated.thing
    rules = tuple(_rule(number, rule, route.name) for number, rule in enumerate(route.rules))
    return replace(stated, thing=route.model_copy(update={"rules": rules}))


def place_of(text: str) -> Place:
    """What a mark of a target says."""
    service, _, subset = text.partition("/")
    return service, subset or None


def _rule(number: int, rule: RouteRule, upstream: str) -> RouteRule:
    to = tuple(_target(target, upstream) for target in rule.to)
    return rule.model_copy(update={"headers": _saying(rule.headers, RULE, str(number)), "to": to})


def _target(target: Target, upstream: str) -> Target:
    place = "/".join(part for part in (target.service or upstream, target.subset) if part)
    return target.model_copy(update={"headers": _saying(target.headers, PLACE, place)})


def _saying(headers: Headers, name: str, value: str) -> Headers:
    response: HeaderChanges = headers.response
    told = response.model_copy(update={"set": {**response.set, name: value}})
    return headers.model_copy(update={"response": told})
