"""What failovers of several service documents say together, and with the catalog. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

from meshagent.cli.reading import Written, finding, name_of
from meshagent.errors import Problem
from meshagent.model.failover import ANYWHERE
from meshagent.model.kinds import Document
from meshagent.model.names import HTTP_PROTOCOLS, Protocol
from meshagent.model.service import Instance, Service
from meshagent.state.changes import Name

Path = tuple[str | int, ...]
Spoken = Callable[[str], Collection[Protocol]]
Allowed = Callable[[str], Collection[str]]
"""The sources that may make some call of a service."""


def failover_errors(
    written: Sequence[Written], deleted: Collection[Name], after: Mapping[Name, Document], spoken: Spoken
) -> Iterator[Problem]:
    """Failovers that could not be carried out, as far as these documents are the cause of it."""
    places = {name_of(each): each for each in written}
    services = {name: each for (_, name), each in after.items() if isinstance(each, Service)}
    for service in services.values():
        for other, path, words in _problems(service, services, spoken):
            if place := places.get(("service", service.name)):
                yield finding(place, words, *path)
            elif other_place := places.get(("service", other)):
                yield finding(other_place, f"the service {service.name} {words}")
            elif ("service", other) in deleted:
                yield Problem("", 0, f"service {other}", f"the service {service.name} {words}")


def named_backups(service: Service) -> Iterator[tuple[str, Path]]:
    """The services that a document fails over to, and where it says so."""
    for number, step in enumerate(service.failover):
        if step.service is not None:
            yield step.service, ("failover", number, "service")


def nobody_stands_there(written: Written, instances: Sequence[Instance]) -> Iterator[Problem]:
    """Steps to a zone or region in which no registered instance of the service stands."""
    service = written.document
    if not isinstance(service, Service):
        return
    registered = [each for each in instances if each.service == service.name]
    for number, step in enumerate(service.failover if registered else ()):
        for kind in ("zone", "region"):
            wanted = getattr(step, kind)
            there = {getattr(each, kind) for each in registered} - {""}
            if wanted is None or wanted in there or (wanted == ANYWHERE and there):
                continue
            where = f"in {kind} {wanted}" if wanted != ANYWHERE else f"on a host that says its {kind} (host.{kind})"
            words = f"no registered instance of {service.name} stands {where}: this step changes nothing"
            yield finding(written, words, "failover", number)


def refused_there(written: Written, allowed: Allowed) -> Iterator[Problem]:
    """Callers of the service that what it fails over to does not let in."""
    service = written.document
    if not isinstance(service, Service):
        return
    for other, path in named_backups(service):
        if refused := sorted(set(allowed(service.name)) - set(allowed(other))):
            words = f"{', '.join(refused)} may call {service.name} and not {other}: what fails over is refused there"
            yield finding(written, words, *path)


def _problems(service: Service, services: Mapping[str, Service], spoken: Spoken) -> Iterator[tuple[str, Path, str]]:
    """(the other service, where, what) of everything that is wrong with a failover."""
    own = spoken(service.name)
    for other, path in named_backups(service):
        if way_back := _way_back(other, service.name, services):
            circle = " -> ".join((service.name, *way_back))
            yield other, path, f"fails over in a circle: {circle}. Take one of these steps out"
        theirs = spoken(other)
        if own and theirs and _http(own) != _http(theirs):
            both = f"{other}, which speaks {_words(theirs)}, while {service.name} is {_words(own)}"
            yield other, path, f"fails over to {both}"


def _way_back(start: str, home: str, services: Mapping[str, Service]) -> tuple[str, ...]:
    """The failovers that lead from one service to another, the shortest first; nothing where none do."""
    ways: list[tuple[str, ...]] = [(start,)]
    seen = {start}
    for way in ways:
        if way[-1] == home:
            return way
        held = services.get(way[-1])
        for name in held.backups if held else ():
            if name not in seen:
                seen.add(name)
                ways.append((*way, name))
    return ()


def _http(protocols: Collection[Protocol]) -> bool:
    return all(each in HTTP_PROTOCOLS for each in protocols)


def _words(protocols: Collection[Protocol]) -> str:
    return " and ".join(sorted(protocols))
