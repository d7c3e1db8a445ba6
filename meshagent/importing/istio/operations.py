"""`to` and `when` of an authorization rule -> requests. A condition that cannot be kept opens nothing.

In an ALLOW an alternative with such a condition is left out; in a DENY the condition is dropped, so more is denied.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from meshagent.importing.conditions import Clause, PathIs, Requests, crossed, quoted
from meshagent.importing.fields import Fields
from meshagent.importing.ledger import Misfit

UNSEEN = "is not looked at by an intention"
_TEMPLATE = re.compile(r"\{\*\*\}|\{\*\}")
_LETTERS = r"A-Za-z0-9._~%!$&'()+,;:@\-"
_HEADER = re.compile(r"request\.headers\[([^\]]+)\]")


@dataclass(slots=True)
class Judgement:
    """`deny`: whether the rule denies. `sources`: its conditions of `when` that are on callers."""

    deny: bool
    sources: list[Fields] = field(default_factory=list)

    def lost(self, fields: Fields, name: str, why: str = UNSEEN) -> None:
        """Say what becomes of a condition that cannot be kept."""
        done = "more is denied without it" if self.deny else "what needs it is not allowed"
        fields.tell("changed" if self.deny else "left out", f"{why}: {done}", name)


def operations(rule: Fields, judged: Judgement) -> list[Clause]:
    """What requests a rule is about. Raises Misfit for what Istio refuses."""
    to, when = rule.each("to"), rule.each("when")
    clauses: list[Clause] = []
    for each in to:
        if "operation" not in each:
            raise Misfit(each.path, "`to` must have an operation")
        clauses += _operation(each.sub("operation"), judged)
    if not to:
        clauses = [Clause(Requests())]
    for each in when:
        choices = _condition(each, judged)
        if choices is not None:
            clauses = [Clause(base, one.less) for one in clauses for base in crossed([one.base], choices)]
    return clauses


def _operation(operation: Fields, judged: Judgement) -> list[Clause]:
    if not operation:
        raise Misfit(operation.path, "`to.operation` must have at least one field")
    closed = False
    for name in ("ports", "notPorts", "notHosts", "hosts"):
        values = operation.texts(name)
        if values and not (name == "hosts" and "*" in values):
            judged.lost(operation, name)
            closed = True
    methods = _all_of(operation, "methods", _method, judged)
    paths = _all_of(operation, "paths", _path(judged.deny), judged)
    less, kept = _excluded(operation, judged)
    if methods is None or paths is None or ((closed or not kept) and not judged.deny):
        return []
    return [Clause(base, tuple(less)) for base in crossed(methods, paths)]


Read = Callable[[str], Requests | None]


def _all_of(operation: Fields, name: str, read: Read, judged: Judgement) -> list[Requests] | None:
    """Alternatives; None where all of them are lost to an ALLOW. One that is lost makes a DENY that of every request."""
    values = operation.texts(name)
    if not values:
        return [Requests()]
    found = [read(value) for value in values]
    if all(each is not None for each in found):
        return [each for each in found if each is not None]
    judged.lost(operation, name, "an intention cannot say " + _named(values, found))
    return [Requests()] if judged.deny else [each for each in found if each is not None] or None


def _named(values: Iterable[str], found: Iterable[Requests | None]) -> str:
    return " and ".join(repr(value) for value, each in zip(values, found, strict=True) if each is None)


def _excluded(operation: Fields, judged: Judgement) -> tuple[list[Requests], bool]:
    """What notMethods and notPaths name. An ALLOW must lose all of it, a DENY may keep less of it as an exception."""
    less: list[Requests] = []
    kept = True
    for name, read in (("notMethods", _method), ("notPaths", _path(not judged.deny))):
        values = operation.texts(name)
        found = [read(value) for value in values]
        known = [each for each in found if each is not None]
        if len(known) < len(found):
            judged.lost(operation, name, "an intention cannot say " + _named(values, found))
            kept = False
        less += known
    return less, kept


def _method(value: str) -> Requests | None:
    if value == "*":
        return Requests()
    return Requests(methods=frozenset([value])) if re.fullmatch(r"[A-Z]+", value) else None


def _path(wide: bool) -> Read:
    """Reads a path, with `{*}` and `{**}` of templates. `wide`: more rather than less, where Envoy's classes differ."""

    def read(value: str) -> Requests | None:
        if value == "*":
            return Requests()
        if "{" in value:
            one, many = ("[^/]*", ".*") if wide else (f"[{_LETTERS}]+", f"[/{_LETTERS}]*")
            pieces = [quoted(each) for each in _TEMPLATE.split(value)]
            marks = [many if each == "{**}" else one for each in _TEMPLATE.findall(value)]
            text = "".join(piece + mark for piece, mark in zip(pieces, [*marks, ""], strict=True))
            return Requests(path=PathIs("regex", text))
        if value.startswith("*"):
            return Requests(path=PathIs("regex", f".*{quoted(value[1:])}"))
        if not value.startswith("/"):
            return None
        return Requests(path=PathIs("prefix", value[:-1]) if value.endswith("*") else PathIs("exact", value))

    return read


def _condition(when: Fields, judged: Judgement) -> list[Requests] | None:
    """A header's alternatives; None where the condition is on something else (on sources: kept for them)."""
    key = when.text("key") or ""
    if not key or ("values" not in when and "notValues" not in when):
        raise Misfit(when.path, "`when` must have a key, and values or notValues")
    if key in ("source.principal", "source.namespace"):
        judged.sources.append(when)
        return None
    header = _HEADER.fullmatch(key)
    if not header or header[1].lower() in ("host", "authority", ":authority") or header[1].startswith(":"):
        when.ignore("values", "notValues")
        judged.lost(when, "key", f"{key} {UNSEEN}")
        return [Requests()] if judged.deny else []
    name = header[1].lower()
    wanted = [Requests(headers=((name, *_text(value), False),)) for value in when.texts("values")]
    refused = tuple((name, *_text(value), True) for value in when.texts("notValues"))
    return list(crossed(wanted or [Requests()], [Requests(headers=refused)]))


def _text(value: str) -> tuple[str, str]:
    if value == "*":
        return "present", ""
    if value.startswith("*"):
        return "suffix", value[1:]
    return ("prefix", value[:-1]) if value.endswith("*") else ("exact", value)
