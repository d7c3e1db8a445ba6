"""MeshTrafficPermission -> intentions: `from` with one action, and since 2.12 `rules` with allow, deny and SPIFFE IDs.

What is allowed with a shadow deny is an allow, and beside it a deny in shadow.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from meshagent.importing.fields import Fields
from meshagent.importing.kuma.references import referred
from meshagent.importing.ledger import Misfit
from meshagent.importing.names import Names
from meshagent.importing.parts import Part, Source
from meshagent.model.names import ANY

_DOMAIN = re.compile(r"spiffe://[^/]+/?")
Actions = dict[str, str]  # by caller: allow or deny


@dataclass(frozen=True, slots=True)
class _Said:
    """What one policy says of the callers of a service. `hard`: denies that no other policy takes back.

    `doubted`: callers that are denied in shadow.
    """

    service: str
    actions: Actions
    hard: frozenset[str]
    doubted: frozenset[str]
    fields: Fields

    def of(self, caller: str) -> str | None:
        return self.actions.get(caller, self.actions.get(ANY))


def permission_parts(sources: Sequence[Source], names: Names) -> list[Part]:
    """The intentions of all permissions. Of several policies for a service, one that denies is enough.

    A `deny` of rules for the mesh is denied at each service; an action for the mesh gives way to that of a service.
    """
    found: list[_Said] = []
    for source in sources:
        try:
            found += _read(source, names)
        except Misfit as misfit:
            source.refuse(misfit)
    hard = {name for each in found if each.service == ANY for name in each.hard}
    parts = []
    for service in dict.fromkeys(each.service for each in found):
        own = [each for each in found if each.service == service]
        callers = dict.fromkeys(name for each in own for name in each.actions)
        for name in dict.fromkeys((*callers, *sorted(hard))):
            denied = bool({name, ANY} & hard) or any(each.of(name) == "deny" for each in own)
            shared = names.shared(name, caller=True)
            if shared:
                own[0].fields.tell(
                    "changed", f"{' and '.join(shared)} are one service here ({name}): denied, use --map"
                )
            data = {"name": name, "action": "deny" if denied or shared else "allow"}
            parts.append(Part("source", service, data, own[0].fields))
            doubting = next((each for each in own if name in each.doubted), None)
            if doubting and data["action"] == "allow":
                parts.append(Part("source", service, {"name": name, "action": "deny", "shadow": True}, doubting.fields))
    return parts


def _read(source: Source, names: Names) -> Iterator[_Said]:
    body = source.body
    service = referred(body.sub("targetRef"), names)
    actions: Actions = {}
    doubted: set[str] = set()
    for each in body.each("from"):
        _entry(each, names, actions, doubted)
    hard: set[str] = set()
    for each in body.each("rules"):
        hard |= _rule(each.sub("default"), names, actions, doubted)
    if service is None:
        body.drop("it is not known here which service it protects, so it opens nothing")
    elif not actions:
        body.tell("left out", "decides nothing that could be kept")
    else:
        yield _Said(service, actions, frozenset(hard), frozenset(doubted), body)


def _entry(each: Fields, names: Names, actions: Actions, doubted: set[str]) -> None:
    """One entry of `from`. The later one counts in Kuma: for all callers, it takes back what was said of some."""
    caller = referred(each.sub("targetRef"), names, caller=True)
    action = each.sub("default").one_of("action", "Allow", "Deny", "AllowWithShadowDeny")
    if action is None:
        raise Misfit(each.at("default"), "must have an action")
    said = "deny" if action == "Deny" else "allow"
    if caller is None and said == "allow":
        return
    caller = ANY if caller is None else caller
    if caller == ANY:
        actions.clear()
        doubted.clear()
    actions[caller] = said
    doubted.discard(caller)
    if action == "AllowWithShadowDeny":
        doubted.add(caller)


def _rule(default: Fields, names: Names, actions: Actions, doubted: set[str]) -> set[str]:
    """Lists of callers; who is denied. A deny comes before an allow, whichever policy it stands in."""
    shadowed = {_caller(each, "allow", names) for each in default.each("allowWithShadowDeny")}
    doubted |= {name for name in shadowed if name is not None}
    allowed = shadowed | {_caller(each, "allow", names) for each in default.each("allow")}
    denied = {caller for each in default.each("deny") if (caller := _caller(each, "deny", names))}
    for caller in sorted(name for name in allowed if name is not None):
        actions.setdefault(caller, "allow")
    for caller in denied:
        actions[caller] = "deny"
    if ANY in denied:
        actions.clear()
        actions[ANY] = "deny"
    return denied


def _caller(each: Fields, kind: str, names: Names) -> str | None:
    """The service of a SPIFFE ID, `*` for a whole trust domain. What is neither: a deny is then for everybody."""
    if each.leave("callers are told apart by identity alone", "sni"):
        return ANY if kind == "deny" else None
    spiffe = each.sub("spiffeID")
    form, value = spiffe.one_of("type", "Exact", "Prefix"), spiffe.text("value")
    if form is None or not value:
        raise Misfit(each.path, "must have a spiffeID with a type and a value")
    if form == "Prefix" and _DOMAIN.fullmatch(value):
        each.tell("changed", f"every service of the mesh is meant by {value}, whatever its trust domain is called here")
        return ANY
    name = names.principal(each, value) if form == "Exact" else None
    if name is None:
        done = "everybody is denied instead" if kind == "deny" else "it is not allowed"
        each.tell("changed" if kind == "deny" else "left out", f"{value} is no single service: {done}")
        return ANY if kind == "deny" else None
    return name
