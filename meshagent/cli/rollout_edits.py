"""What the commands of `rollout` make of the documents. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Literal

from meshagent.cli.lazy import did_you_mean
from meshagent.cli.mesh import Seen
from meshagent.errors import Conflict, NotFound, UsageProblem
from meshagent.model.kinds import Document
from meshagent.model.rollout import WHOLE, Progress, Rollout, percent_of
from meshagent.model.route import Route, RouteRule
from meshagent.model.service import Service
from meshagent.model.world import Origin, Stated
from meshagent.policy.rollouts import RULE, Split, with_splits
from meshagent.state.changes import Documents, Name
from meshagent.state.records import dump

State = Literal["running", "paused", "aborted", "promoted"]
Edited = Mapping[Name, Stated[Document] | None]


def base_of(seen: Seen, service: str, to: str) -> str:
    """The subset that `to` replaces: where the last rollout led all calls, else the only other one. Raises UsageProblem."""
    if (held := held_by(seen.documents, service)) is not None:
        progress = seen.rolled[service].progress if service in seen.rolled else None
        left = {0: held.base, WHOLE: held.to}.get(percent_of(held, progress), to)
        if left != to and is_over(held, progress):
            return left
    stated = seen.documents.get(("service", service))
    subsets = stated.thing.subsets if stated and isinstance(stated.thing, Service) else {}
    others = sorted(subsets.keys() - {to})
    if len(others) == 1 or not subsets:
        return others[0] if others else ""
    known = f"{service} has the subsets {', '.join(sorted(subsets))}"
    raise UsageProblem(f"which subset does {to} replace? {known}", next_step="give it with --base")


def held_by(documents: Documents, service: str) -> Rollout | None:
    """The rollout of a service, if there is one."""
    stated = documents.get(("rollout", service))
    return stated.thing if stated and isinstance(stated.thing, Rollout) else None


def is_over(rollout: Rollout, progress: Progress | None) -> bool:
    """Whether nothing more becomes of it by itself."""
    return rollout.decided or (progress is not None and progress.run == rollout.run and progress.phase != "running")


def begun(documents: Documents, wanted: Rollout, progress: Progress | None, origin: Origin) -> Edited:
    """A rollout begins. Raises Conflict while one of the service goes on."""
    held = held_by(documents, wanted.name)
    if held and not is_over(held, progress):
        raise Conflict(
            f"a rollout of {wanted.name} from {held.base} to {held.to} is under way",
            next_step=f"meshagent rollout status {wanted.name}; end it with rollout abort or promote",
        )
    return {("rollout", wanted.name): Stated(wanted, {"": origin})}


def said(documents: Documents, service: str, state: State, origin: Origin) -> Edited:
    """The operator's word on a rollout. Raises NotFound, Conflict."""
    held = _required(documents, service)
    if state == "running" and held.state != "paused":
        raise Conflict(
            f"the rollout of {service} is {held.state}, not paused",
            next_step=f"meshagent rollout start {service} --to {held.to} begins another one"
            if held.decided
            else f"meshagent rollout status {service}",
        )
    return {("rollout", service): Stated(held.model_copy(update={"state": state}), {"": origin})}


def ended(documents: Documents, service: str, state: State, origin: Origin) -> Edited:
    """The rollout ends, and what leads to the service leads to one subset for good. Raises NotFound."""
    held = _required(documents, service)
    split = Split(held.base, held.to, WHOLE if state == "promoted" else 0, origin)
    routes = dict(_routes_of(documents, service))
    edits: dict[Name, Stated[Document] | None] = {("rollout", service): None}
    for name, route in routes.items():
        made = with_splits(route, name, {service: split})
        if route is None or made.thing != route.thing:
            edits["route", name] = Stated(_lasting(made.thing), made.origins)
    return edits


def _required(documents: Documents, service: str) -> Rollout:
    if (held := held_by(documents, service)) is None:
        known = [name for kind, name in documents if kind == "rollout"]
        raise NotFound(
            f"there is no rollout of {service}.{did_you_mean(service, known)}", next_step="meshagent rollout status"
        )
    return held


def _routes_of(documents: Documents, service: str) -> Iterator[tuple[str, Stated[Route] | None]]:
    """The routes that lead to a service, its own first, be there one or not."""
    yield service, None
    for (_, name), stated in documents.items():
        if isinstance(stated.thing, Route) and (name == service or service in stated.thing.services):
            yield name, Stated(stated.thing, stated.origins)


def _lasting(route: Route) -> Route:
    """The route as a document that may be written: checked, and without what was said of a rollout alone."""
    rules = tuple(map(_lasting_rule, route.rules))
    return Route.model_validate_json(json.dumps(dump(route.model_copy(update={"rules": rules}))))


def _lasting_rule(rule: RouteRule) -> RouteRule:
    name = None if rule.name == RULE else rule.name
    return rule.model_copy(update={"name": name, "strict": rule.strict and len(rule.to) > 1})
