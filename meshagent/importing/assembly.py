"""Parts -> documents. A part that our models do not take is left out and reported, with the models' own reason."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from pydantic import BaseModel

from meshagent.documents.compose import field_text
from meshagent.documents.validate import validate
from meshagent.importing.names import Names
from meshagent.importing.parts import Data, Part, Source
from meshagent.model.intention import Intention, IntentionSource
from meshagent.model.kinds import Document
from meshagent.model.route import MAX_RULES, Route, RouteRule
from meshagent.model.service import Service


def assemble(parts: Sequence[Part], sources: Sequence[Source], names: Names) -> tuple[Document, ...]:
    """The documents, by kind and name: services, routes, intentions."""
    made = _Assembly(sources, names)
    documents: list[Document] = []
    documents += filter(None, (made.service(name, own) for name, own in _by_name(parts, "service")))
    routed = _by_name(parts, "rule", "default")
    documents += filter(None, (made.route(name, own) for name, own in routed))
    documents += filter(None, (made.intention(name, own) for name, own in _by_name(parts, "source")))
    return tuple(documents)


def _by_name(parts: Iterable[Part], *kinds: str) -> list[tuple[str, list[Part]]]:
    found: dict[str, list[Part]] = {}
    for part in parts:
        if part.kind in kinds:
            found.setdefault(part.name, []).append(part)
    return sorted(found.items())


class _Assembly:
    def __init__(self, sources: Sequence[Source], names: Names) -> None:
        self._by_ledger = {id(source.ledger): source for source in sources}
        self._names = names

    def _gave(self, part: Part) -> None:
        self._by_ledger[id(part.fields.ledger)].given += 1

    def service(self, name: str, parts: list[Part]) -> Service | None:
        """The fields of all objects together; the first that says something of a field counts."""
        data: Data = {}
        for part in self._alone(name, parts):
            own = _accepted(Service, part.data, {"kind": "service", "name": name}, part)
            if self._names.shared(name) and own.get("mtls") == "permissive":
                del own["mtls"]
            _merge(data, own, part, ())
            if own:
                self._gave(part)
        for part in parts:
            data = _accepted(Service, data, {"kind": "service", "name": name}, part)
        return Service.model_validate({"name": name, **data}) if data else None

    def _space(self, part: Part) -> str:
        return self._by_ledger[id(part.fields.ledger)].space

    def _alone(self, name: str, parts: list[Part]) -> list[Part]:
        """The parts, without those of another thing that got the same name here."""
        if not (shared := self._names.shared(name)):
            return parts
        first = self._space(parts[0]) if parts else ""
        for part in parts:
            part.fields.tell(
                "changed", f"{' and '.join(shared)} are one service here ({name}): tell them apart with --map"
            )
        return [part for part in parts if self._space(part) == first]

    def route(self, name: str, parts: list[Part]) -> Route | None:
        """The rules in order, each with what is said for all; what is said for all gets a rule of its own at the end."""
        defaults: Data = {}
        for part in parts:
            if part.kind == "default":
                own = _accepted(RouteRule, part.data, {}, part)
                _merge(defaults, own, part, ())
                if own:
                    self._gave(part)
        rules: list[RouteRule] = []
        for part in self._alone(name, [each for each in parts if each.kind == "rule"]):
            made = _rule(defaults, part)
            if made and len(rules) < MAX_RULES:
                rules.append(made)
                self._gave(part)
            elif made:
                part.fields.tell("left out", f"a route has at most {MAX_RULES} rules")
        if defaults and not any(not rule.match.model_fields_set for rule in rules):
            rules.append(RouteRule.model_validate(defaults))
        return Route(name=name, rules=tuple(rules)) if rules else None

    def intention(self, name: str, parts: list[Part]) -> Intention | None:
        """All sources of a destination. Of two that say something of one source, the deny counts, else the first."""
        found: dict[str, IntentionSource] = {}
        shared = self._names.shared(name)
        for part in parts:
            if shared:
                words = f"{' and '.join(shared)} are one service here ({name}): nothing is allowed, use --map"
                part.fields.tell("changed", words)
            denied = {"name": part.data["name"], "action": "deny"}
            made = validate(IntentionSource, denied if shared else part.data)
            if isinstance(made, tuple):
                words = "; ".join(": ".join(filter(None, (field_text(each.path), each.message))) for each in made)
                part.fields.tell("changed", f"everything is denied to {part.data['name']}, as our model says: {words}")
                made = IntentionSource(name=part.data["name"], action="deny")
            if made.part in found and found[made.part] != made:
                part.fields.tell("changed", f"{made.name} -> {name} is said twice: only a deny counts then")
                made = IntentionSource(name=made.name, action="deny", shadow=made.shadow)
            found[made.part] = made
            self._gave(part)
        return Intention(name=name, sources=tuple(found.values())) if found else None


def _rule(defaults: Data, part: Part) -> RouteRule | None:
    """A rule with what its model takes; None when what it matches or where it leads is not taken."""
    data = {**(defaults if not {"redirect", "respond"} & set(part.data) else {}), **part.data}
    found = validate(RouteRule, data)
    if not isinstance(found, tuple):
        return found
    essential = {"match", "to", "redirect", "respond"}
    for finding in found:
        whole = not finding.path or finding.path[0] in essential
        part.fields.tell(
            "left out",
            f"{'the rule' if whole else finding.path[0]}: {field_text(finding.path)} {finding.message}".strip(),
        )
        if whole:
            return None
    kept = {key: value for key, value in data.items() if key not in {finding.path[0] for finding in found}}
    again = validate(RouteRule, kept)
    return None if isinstance(again, tuple) else again


def _accepted(model: type[BaseModel], data: Data, around: Data, part: Part) -> Data:
    """What the model takes of the data; the rest is reported. `around` is not data, but the model needs it."""
    left = {key: value for key, value in data.items() if key in model.model_fields}
    for key in data.keys() - left.keys():
        part.fields.tell("left out", f"{key}: is not known to this version of meshagent")
    while isinstance(findings := validate(model, {**around, **left}), tuple):
        for finding in findings:
            key = str(finding.path[0]) if finding.path else next(iter(left))
            part.fields.tell("left out", f"{field_text(finding.path) or key}: {finding.message}")
            left.pop(key, None)
    return left


def _merge(into: Data, data: Mapping[str, object], part: Part, path: tuple[str, ...]) -> None:
    for key, value in data.items():
        there = into.get(key)
        if isinstance(there, dict) and isinstance(value, dict):
            _merge(there, value, part, (*path, key))
        elif key in into and there != value:
            part.fields.tell("left out", f"{'.'.join((*path, key))}: another object says something else, which counts")
        else:
            into[key] = dict(value) if isinstance(value, dict) else value
