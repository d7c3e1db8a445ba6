"""`from` of an authorization rule -> callers. Services are told apart by identity alone: other conditions open nothing."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from meshagent.importing.fields import Fields
from meshagent.importing.istio.operations import Judgement
from meshagent.importing.ledger import Misfit
from meshagent.importing.names import Names
from meshagent.model.names import ANY

_UNSEEN = (
    "requestPrincipals", "notRequestPrincipals", "namespaces", "notNamespaces", "ipBlocks", "notIpBlocks",
    "remoteIpBlocks", "notRemoteIpBlocks", "trustDomains", "notTrustDomains",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Callers:
    """Services in `only` (None: all) that are not in `less`.

    `proven`: who has a certificate of the mesh, whoever it is. `unproven`: who has none.
    """

    only: frozenset[str] | None = None
    less: frozenset[str] = frozenset()
    proven: bool = False
    unproven: bool = False

    def denied(self, name: str, shared: Collection[str], permissive: bool) -> bool:
        """Whether a DENY for them meets a service; `*` is one that no rule names, or a caller in plain text.

        `shared`: names that mean several services of the source, so an exception for one of them counts for none.
        """
        if self.unproven:
            return permissive and name == ANY
        return (self.only is None or name in self.only) and (name not in self.less or name in shared)

    def allowed(self, name: str, shared: Collection[str], permissive: bool) -> bool:
        """Whether an ALLOW for them meets a service, likewise."""
        if self.unproven or (self.proven and permissive and name == ANY):
            return False
        if self.only is None:
            return name not in self.less
        return name in self.only and name not in self.less and name not in shared

    def both(self, other: Callers) -> Callers:
        """Who is in both."""
        only = self.only if other.only is None else other.only if self.only is None else self.only & other.only
        unproven = self.unproven or other.unproven
        return Callers(only, self.less | other.less, self.proven or other.proven, unproven)

    @property
    def named(self) -> frozenset[str]:
        """All services that are named."""
        return (self.only or frozenset()) | self.less


def callers(rule: Fields, judged: Judgement, names: Names, space: str) -> list[Callers]:
    """The alternatives of `from`, each with what `when` says of the source. Raises Misfit for what Istio refuses."""
    given = rule.each("from")
    found: list[Callers] = []
    for each in given:
        if "source" not in each:
            raise Misfit(each.path, "`from` must have a source")
        one = _source(each.sub("source"), judged, names, space)
        if one is not None:
            found.append(one)
    if not given:
        found = [Callers()]
    for when in judged.sources:
        more = _when(when, judged, names)
        found = [each.both(more) for each in found] if more is not None else []
    return found


def _source(source: Fields, judged: Judgement, names: Names, space: str) -> Callers | None:
    if not source:
        raise Misfit(source.path, "`from.source` must have at least one field")
    accounts = "serviceAccounts" in source or "notServiceAccounts" in source
    if accounts and any(name in source for name in ("principals", "notPrincipals", "namespaces", "notNamespaces")):
        raise Misfit(source.path, "Cannot set serviceAccounts with namespaces or principals")
    lost = [name for name in _UNSEEN if source.texts(name)]
    for name in lost:
        judged.lost(source, name)
    only, less = source.texts("principals"), source.texts("notPrincipals")
    wanted = _services(source, "principals", only, judged, names)
    refused = _services(source, "notPrincipals", less, judged, names, wanted=False)
    if accounts:
        wanted = _services(source, "serviceAccounts", _full(source, "serviceAccounts", space), judged, names)
        less = _full(source, "notServiceAccounts", space)
        refused = _services(source, "notServiceAccounts", less, judged, names, wanted=False)
    if wanted is None or refused is None or (lost and not judged.deny):
        return None
    return wanted.both(_but(refused))


def _but(refused: Callers) -> Callers:
    """All callers but these."""
    return refused if refused.unproven else Callers(less=refused.only or frozenset())


def _full(source: Fields, name: str, space: str) -> tuple[str, ...]:
    """Service accounts as principals: `sa` is of the policy's own namespace."""
    parts = [(each.split("/", 1) if "/" in each else [space, each]) for each in source.texts(name)]
    return tuple(f"*/ns/{namespace}/sa/{account}" for namespace, account in parts)


def _services(
    fields: Fields, name: str, given: tuple[str, ...], judged: Judgement, names: Names, *, wanted: bool = True
) -> Callers | None:
    """The services behind principals. One that is none: an ALLOW does without it, a DENY is then for everybody.

    Of the excepted (`wanted=False`) an ALLOW must know each, while a DENY may do without.
    """
    if not given:
        return Callers()
    if ANY in given:
        if not wanted:
            fields.tell("changed", "callers without a certificate are refused here, unless mtls is permissive", name)
        return Callers(proven=True) if wanted else Callers(unproven=True)
    found = {each: names.principal(fields, each) for each in given}
    known = frozenset(each for each in found.values() if each is not None)
    if known and None not in found.values():
        return Callers(only=known)
    unknown = " and ".join(repr(each) for each, service in found.items() if service is None)
    judged.lost(fields, name, f"{unknown} is no single service")
    if wanted:
        return Callers() if judged.deny else Callers(only=known) if known else None
    return Callers(only=known) if judged.deny else None


def _when(when: Fields, judged: Judgement, names: Names) -> Callers | None:
    key, values, refused = when.text("key"), when.texts("values"), when.texts("notValues")
    if key != "source.principal":
        judged.lost(when, "key", f"{key} is not looked at by an intention")
        return Callers() if judged.deny else None
    wanted = _services(when, "values", values, judged, names)
    less = _services(when, "notValues", refused, judged, names, wanted=False)
    if wanted is None or less is None:
        return None
    return wanted.both(_but(less))
