"""Other services in a service's place: what of a failover holds for one caller, and where its calls go now. Pure.

A failover is one level deep: what the other service itself fails over to is not looked at.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from meshagent.model.service import Service
from meshagent.model.view import Endpoint, Outbound
from meshagent.model.world import Stated
from meshagent.policy.tiers import Tiers
from meshagent.policy.ways import Reach, alike, part_of, place

Services = Mapping[str, Stated[Service]]


def backups_of(services: Services, names: Collection[str]) -> frozenset[str]:
    """The services that any of these fails over to."""
    stated = (services.get(name) for name in names)
    return frozenset(backup for each in stated if each for backup in each.thing.backups)


def with_failover(outbound: Outbound, services: Services, reach: Reach) -> Outbound:
    """The outbound with what its upstream, and all that its ways lead to, fail over to.

    A service of which nobody knows how it speaks, or that speaks otherwise, is passed over.
    """
    reached = {each.upstream: each for each in outbound.beyond if not each.subset} | {outbound.upstream: outbound}
    named = backups_of(services, reached)
    if not named:
        return outbound
    others = {name: found for name in named - reached.keys() if (found := reach(name)) and alike(found, outbound)}
    known = reached | others
    leads = {name: _known_backups(services, name, known) for name in reached}
    beyond = [replace(each, failover=leads[each.upstream]) for each in reached.values() if each is not outbound]
    parts = {(each.upstream, each.subset): each for each in outbound.beyond if each.subset} | _parts(
        outbound, known, leads
    )
    every = sorted((*beyond, *others.values(), *parts.values()), key=lambda each: (each.upstream, each.subset))
    return replace(outbound, beyond=tuple(every), failover=leads[outbound.upstream])


@dataclass(frozen=True, slots=True)
class Landing:
    """Where calls to a service, or to a subset of it, go now: to the instances of one tier.

    `passed`: the services before it that have no instance in service. `served`: whether it has one itself.
    """

    service: str
    subset: str | None
    tiers: Tiers = ()
    tier: int = 0
    passed: tuple[str, ...] = ()
    served: bool = True


def landing(outbound: Outbound, service: str, subset: str | None) -> Landing:
    """Where the caller's calls to a service that the outbound leads to go."""
    reached = {each.upstream: each for each in outbound.beyond if not each.subset} | {outbound.upstream: outbound}
    whole = reached.get(service)
    if whole is None:
        return Landing(service, subset, served=False)
    passed: tuple[str, ...] = ()
    places = ((service, subset), *((name, None) for name in whole.failover))
    for name, part in places:
        serving = [each.tier or 0 for each in reached[name].reached if in_service(each, part)]
        if serving:
            return Landing(name, part, reached[name].tiers, min(serving), passed)
        passed = (*passed, name)
    return Landing(service, subset, whole.tiers, served=False)


def in_service(endpoint: Endpoint, subset: str | None) -> bool:
    """Whether it may be called, as one of the subset or of all."""
    return endpoint.healthy and (subset is None or subset in endpoint.subsets)


def _known_backups(services: Services, name: str, known: Collection[str]) -> tuple[str, ...]:
    stated = services.get(name)
    return tuple(each for each in stated.thing.backups if each in known) if stated else ()


def _parts(
    outbound: Outbound, known: Mapping[str, Outbound], leads: Mapping[str, tuple[str, ...]]
) -> dict[tuple[str, str], Outbound]:
    """Subsets that requests are sent to and that fail over, each as if it were a service.

    Envoy chooses among services by all that each has: a subset of none would not be noticed.
    """
    parts: dict[tuple[str, str], Outbound] = {}
    for target in (each for way in outbound.ways for each in way.rule.to):
        service = place(target, outbound.upstream)
        if target.subset and leads.get(service):
            part = part_of(known[service], target.subset)
            parts[service, target.subset] = replace(part, failover=leads[service])
    return parts
