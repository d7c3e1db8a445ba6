"""AuthorizationPolicy -> intentions (istio/api security/v1/authorization_policy.proto).

Istio denies what a DENY matches; then it allows what an ALLOW matches, or everything where a workload has no ALLOW at all.
Here one list of permissions decides for each caller, so all policies of a service are written into one document.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from meshagent.importing.conditions import Clause, Requests, permissions
from meshagent.importing.istio.callers import Callers, callers
from meshagent.importing.istio.operations import Judgement, operations
from meshagent.importing.istio.peers import selected
from meshagent.importing.ledger import Misfit
from meshagent.importing.names import Names
from meshagent.importing.parts import Data, Part, Source
from meshagent.model.names import ANY

ROOT = "istio-system"  # policies of this namespace without a selector are for the whole mesh
_EVERYTHING = Clause(Requests())


@dataclass(frozen=True, slots=True)
class _Policy:
    """`service` is None where it is for all of its namespace, or for something that is no service here."""

    source: Source
    deny: bool
    service: str | None
    labels: frozenset[tuple[str, str]]
    rules: tuple[tuple[tuple[Callers, ...], tuple[Clause, ...]], ...]

    @property
    def everywhere(self) -> bool:
        return self.service is None and self.source.space == ROOT


def authorization_parts(sources: Sequence[Source], names: Names, permissive: Collection[str]) -> list[Part]:
    """The intentions of all policies together. `permissive`: services that take plain text."""
    policies: list[_Policy] = []
    refused = False
    for source in sources:
        try:
            policies += _policy(source, names)
        except Misfit as misfit:
            source.refuse(misfit)
            refused = True
    services = dict.fromkeys(each.service for each in policies if each.service)
    parts: list[Part] = []
    for service in services:
        concerned = [each for each in policies if _concerns(each, service, policies)]
        parts += _compiled(service, concerned, names, service in permissive, not refused)
    everywhere = [each for each in policies if each.everywhere]
    if everywhere:
        narrower = [each for each in policies if each.service is None and each.deny and not each.everywhere]
        parts += _compiled(ANY, everywhere + narrower, names, bool(permissive), False)
    for each in policies:
        if each.service is None and not each.everywhere:
            _tell_of_space(each, [one for one in services if _concerns(each, one, policies)])
    return parts


def _concerns(policy: _Policy, service: str, policies: Sequence[_Policy]) -> bool:
    """Whether a policy is for a service: by name, for its namespace, or for the mesh."""
    if policy.service is not None:
        return policy.service == service
    return policy.everywhere or any(
        each.service == service and each.source.space == policy.source.space for each in policies
    )


def _tell_of_space(policy: _Policy, services: Sequence[str]) -> None:
    there = ", ".join(services)
    words = f"it counts for {there}" if there else "nothing is written"
    policy.source.body.tell("changed", f"is for every service of a namespace, and there are none here: {words}")


def _policy(source: Source, names: Names) -> Iterator[_Policy]:
    body = source.body
    action = body.one_of("action", "ALLOW", "DENY", "AUDIT", "CUSTOM") or "ALLOW"
    if source.labels.get("istio.io/dry-run", "").lower() == "true":
        body.drop("is a dry run: Istio does not enforce it", "not imported")
        return
    if action == "AUDIT":
        body.drop("decides nothing: every refusal is logged here", "not imported")
        return
    if action == "CUSTOM":
        body.tell(
            "changed", "nobody else is asked here: what it is about is denied, as nobody has allowed it", "action"
        )
        body.ignore("provider")
    deny = action != "ALLOW"
    found = []
    for rule in body.each("rules"):
        judged = Judgement(deny)
        clauses = operations(rule, judged)
        found.append((tuple(callers(rule, judged, names, source.space)), tuple(clauses)))
    service, labels, known = _target(source, names)
    yield _Policy(source, deny, service, labels, tuple(found) if deny or known else ())


def _target(source: Source, names: Names) -> tuple[str | None, frozenset[tuple[str, str]], bool]:
    """The service that a policy is for, its selector, and whether it is known what it is for."""
    body = source.body
    selector, references = body.sub("selector"), (*body.each("targetRefs"), *body.each("targetRef"))
    if references:
        reference = references[0]
        kind, name = reference.text("kind"), reference.text("name")
        reference.ignore("group", "namespace")
        if len(references) == 1 and kind == "Service" and name:
            service = names.service(reference, name, space=source.space)
            return service, frozenset(), service is not None
        body.tell("left out", "a policy here is for one service", "targetRefs" if "targetRefs" in body else "targetRef")
        for each in references:
            each.ignore("kind", "name", "group", "namespace")
        return None, frozenset(), False
    if not selector:
        return None, frozenset(), True
    service = selected(source, selector, names)
    return service, frozenset(selector.table("matchLabels").items()), service is not None


def _compiled(
    service: str, policies: Sequence[_Policy], names: Names, permissive: bool, complete: bool
) -> Iterator[Part]:
    """The sources of one destination. `complete`: all policies are known, so what nobody denies is open without an ALLOW."""
    denies = [rule for each in policies if each.deny for rule in each.rules]
    allows = [rule for each in _allowing(service, policies, names) for rule in each.rules]
    lists = any(not each.deny for each in policies)
    implied = [_EVERYTHING] if complete and not lists and not names.shared(service) else []
    named = sorted({name for rule in denies + allows for each in rule[0] for name in each.named})
    shared = [name for name in named if names.shared(name, caller=True)]
    found: dict[str, Data] = {}
    exact = True
    for name in (*named, ANY):
        deny = [one for who, what in denies if any(c.denied(name, shared, permissive) for c in who) for one in what]
        allow = [one for who, what in allows if any(c.allowed(name, shared, permissive) for c in who) for one in what]
        listed, precise = permissions(deny, allow + implied)
        found[name] = _decision(listed)
        exact = exact and precise
    for each in policies:
        each.source.given += 1
    _tell(service, policies, shared, exact)
    first = policies[0].source.body
    for name, data in found.items():
        if name == ANY or data != found[ANY]:
            yield Part("source", service, {"name": name, **data}, first)


def _tell(service: str, policies: Sequence[_Policy], shared: Sequence[str], exact: bool) -> None:
    first = policies[0].source.body
    for name in shared:
        first.tell("changed", f"several principals are the service {name} here, so it is allowed nothing: use --map")
    if not exact:
        first.tell(
            "changed", f"what several notPaths and notMethods leave open together is denied to callers of {service}"
        )
    if service == ANY and not any(not each.deny for each in policies):
        first.tell("changed", "what nothing denies is open in Istio, and decided by the mesh's intentions here")


def _allowing(service: str, policies: Sequence[_Policy], names: Names) -> list[_Policy]:
    """The policies whose ALLOW counts. Where some are for a part of the instances alone, only what holds for all of them."""
    allowing = [each for each in policies if not each.deny]
    if shared := names.shared(service):
        for each in allowing:
            each.source.body.tell("left out", f"{' and '.join(shared)} are one service here ({service}): use --map")
        return []
    selectors = Counter(each.labels for each in policies if each.service is not None)
    if len(selectors) < 2:
        return allowing
    common = frozenset.intersection(*selectors)
    for each in allowing:
        if not each.labels <= common:
            each.source.body.tell("left out", f"allows for a part of the instances of {service} alone", "selector")
    return [each for each in allowing if each.labels <= common]


def _decision(listed: list[Data]) -> Data:
    if not listed:
        return {"action": "deny"}
    if listed == [Requests().permission("allow")]:
        return {"action": "allow"}
    return {"permissions": listed}
