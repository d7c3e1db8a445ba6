"""What cases take for registered -> the instances that a scratch mesh runs, and who calls whom there. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from meshagent.cli.cases import Case, Cases
from meshagent.demo.scratch import Place
from meshagent.model.names import HTTP_PROTOCOLS, Protocol
from meshagent.model.world import World
from meshagent.policy.resolve import known_protocol

NOWHERE: Place = ("", "")


@dataclass(frozen=True, slots=True)
class Part:
    """One instance. `calls`: the services that it declares as upstreams. One that only calls is never in service."""

    service: str
    id: str
    place: Place
    protocol: Protocol
    meta: Mapping[str, str] = field(default_factory=dict)
    passing: bool = True
    calls: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """By which its app is known."""
        return f"{self.service}/{self.id}"


def caller_of(case: Case, cases: Cases) -> tuple[str, Place]:
    """A case's caller, and where it stands."""
    return case.source, cases.place(case)


def spoken(world: World, service: str, registered: Protocol | None = None) -> Protocol:
    """How a service speaks in the scratch mesh: HTTP where nothing says it, since a refusal is told in words there."""
    if outside := world.externals.get(service):
        return outside.thing.protocol  # a part stands in for it: nothing is called outside
    return known_protocol(world, service, registered) or "http"


def speaks_http(world: World, service: str) -> bool:
    """Whether it is called by requests."""
    return spoken(world, service) in HTTP_PROTOCOLS


def parts_of(cases: Cases, world: World) -> tuple[Part, ...]:
    """The catalog of a file of cases, an instance of each called service that it does not have, and the callers."""
    found = [*_listed(cases, world), *_unlisted(cases, world)]
    for (service, place), calls in _callers(cases).items():
        held = next((n for n, each in enumerate(found) if (each.service, each.place) == (service, place)), None)
        if held is None:
            number = sum(each.service == service for each in found)
            protocol = spoken(world, service)
            found.append(Part(service, f"{service[:50]}-{number}", place, protocol, {}, passing=False, calls=calls))
        else:
            found[held] = replace(found[held], calls=calls)
    return tuple(found)


def _listed(cases: Cases, world: World) -> Iterator[Part]:
    """Without those that drain: nobody is told of them."""
    count: Counter[str] = Counter()
    for each in cases.instances():
        if each.health != "draining":
            name = f"{each.service[:50]}-{count[each.service]}"
            protocol = spoken(world, each.service, each.protocol)
            yield Part(each.service, name, (each.region, each.zone), protocol, each.meta, each.health == "passing")
            count[each.service] += 1


def _unlisted(cases: Cases, world: World) -> Iterator[Part]:
    """A refusal has to be seen somewhere."""
    listed = {service.name for service in cases.services}
    for name in dict.fromkeys(case.destination for case in cases.cases if case.destination not in listed):
        yield Part(name, f"{name[:50]}-0", NOWHERE, spoken(world, name))


def _callers(cases: Cases) -> dict[tuple[str, Place], tuple[str, ...]]:
    calls: dict[tuple[str, Place], dict[str, None]] = {}
    for case in cases.cases:
        calls.setdefault(caller_of(case, cases), {})[case.destination] = None
    return {caller: tuple(called) for caller, called in calls.items()}
