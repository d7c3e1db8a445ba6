"""What routes and service documents say together. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

from meshagent.cli.lazy import did_you_mean
from meshagent.cli.reading import Written, finding, name_of
from meshagent.errors import Problem
from meshagent.model.kinds import Document
from meshagent.model.names import HTTP_PROTOCOLS, Protocol
from meshagent.model.route import Route, RouteRule
from meshagent.model.service import Service
from meshagent.state.changes import Name

Path = tuple[str | int, ...]
Spoken = Callable[[str], Collection[Protocol]]
"""The protocols of a service; empty when nobody knows."""


def route_errors(
    written: Sequence[Written], deleted: Collection[Name], after: Mapping[Name, Document], spoken: Spoken
) -> Iterator[Problem]:
    """Routes that could not be carried out, as far as these documents are the cause of it."""
    places = {name_of(each): each for each in written}
    for document in after.values():
        if not isinstance(document, Route):
            continue
        here = places.get(("route", document.name))
        for service, path, words in _route_problems(document, after, spoken):
            cause = ("service", service)
            if here:
                yield finding(here, words, *path)
            elif place := places.get(cause):
                yield finding(place, f"the route {document.name} {words}")
            elif cause in deleted:
                yield Problem("", 0, f"service {service}", f"the route {document.name} {words}")


def never_reached(written: Sequence[Written]) -> Iterator[Problem]:
    """Rules behind one that takes everything."""
    for each in written:
        if not isinstance(each.document, Route):
            continue
        first = next((n for n, rule in enumerate(each.document.rules) if _takes_all(rule)), None)
        for number in range(len(each.document.rules)) if first is not None else ():
            if first is not None and number > first:
                yield finding(each, f"is never reached: rule {first} takes every request", "rules", number)


def named_services(route: Route) -> Iterator[tuple[str, Path]]:
    """The services that a route names, and where."""
    yield route.name, ("name",)
    for number, rule in enumerate(route.rules):
        for index, source in enumerate(rule.match.sources):
            yield source, ("rules", number, "match", "sources", index)
        for service, _, path in _places(rule, number):
            if service:
                yield service, (*path, "service")


def _takes_all(rule: RouteRule) -> bool:
    return not (rule.match.by_request or rule.match.sources or rule.match.regions)


def _route_problems(route: Route, after: Mapping[Name, Document], spoken: Spoken) -> Iterator[tuple[str, Path, str]]:
    """(the service that has to do with it, where, what) of everything that is wrong."""
    own = spoken(route.name)
    for number, rule in enumerate(route.rules):
        if own and rule.for_http_alone and not all(each in HTTP_PROTOCOLS for each in own):
            words = f"asks for what a tcp service's connections do not have: say `protocol: http` for {route.name}"
            yield route.name, ("rules", number), words
        for named, subset, path in _places(rule, number):
            service = named or route.name
            document = after.get(("service", service))
            subsets = document.subsets if isinstance(document, Service) else {}
            if subset and subset not in subsets:
                words = f"names the subset {subset}, which {service} does not have.{did_you_mean(subset, subsets)}"
                yield service, (*path, "subset"), f"{words} Subsets are in its service document"
            other = spoken(service)
            if own and other and _http(own) != _http(other):
                yield (
                    service,
                    path,
                    f"leads to {service}, which speaks {_words(other)}, while {route.name} is {_words(own)}",
                )


def _places(rule: RouteRule, number: int) -> Iterator[tuple[str | None, str | None, Path]]:
    """The service and subset of each target and copy, and where it stands."""
    for index, target in enumerate(rule.to):
        yield target.service, target.subset, ("rules", number, "to", index)
    for index, mirror in enumerate(rule.mirror):
        yield mirror.service, mirror.subset, ("rules", number, "mirror", index)


def _http(protocols: Collection[Protocol]) -> bool:
    return all(each in HTTP_PROTOCOLS for each in protocols)


def _words(protocols: Collection[Protocol]) -> str:
    return " and ".join(sorted(protocols))
