"""Failover of Consul's service-resolver -> the steps of a service document."""

from __future__ import annotations

from meshagent.importing.consul.router import ELSEWHERE, foreign
from meshagent.importing.fields import Fields
from meshagent.importing.names import Names
from meshagent.importing.parts import Data


def resolver_failover(body: Fields, names: Names, name: str) -> list[Data]:
    """Consul's Failover of a service-resolver: the other services of `*`, in order."""
    steps: list[Data] = []
    for subset, found in body.members("Failover").items():
        _policy(found.sub("Policy"))
        if subset != "*":
            found.drop("a failover is of a service with all of its subsets here: say it under *")
            continue
        targets = found.each("Targets")
        for target in targets or (found,):
            if (other := _other_service(target, names, name)) and other not in steps:
                steps.append(other)
    return steps


def by_locality(fields: Fields, name: str) -> bool:
    """Whether Consul's PrioritizeByLocality asks for instances that are near, in a mode that says something."""
    return fields.sub(name).one_of("Mode", "", "none", "failover") == "failover"


def _policy(policy: Fields) -> None:
    if policy.one_of("Mode", "", "sequential", "order-by-locality") == "order-by-locality":
        policy.tell("left out", "other services are called in the order in which they are named", "Mode")
    policy.leave("regions are steps of their own here: failover: [{region: NAME}]", "Regions")


def _other_service(target: Fields, names: Names, name: str) -> Data | None:
    beyond = foreign(target, "Namespace", "Partition", "Datacenter", "Peer", "SamenessGroup")
    beyond |= target.leave(ELSEWHERE, "Datacenters")
    subset = target.text("ServiceSubset")
    other = names.service(target, target.text("Service") or name)
    if subset:
        target.tell("left out", "a failover is to a service with all of its subsets here", "ServiceSubset")
    return None if beyond or subset or other in (None, name) else {"service": other}
