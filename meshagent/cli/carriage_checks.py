"""What `data_path: l4` of a service and all that is asked of its requests say together. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from meshagent.cli.reading import Written, finding, name_of
from meshagent.cli.route_checks import Spoken
from meshagent.errors import Problem
from meshagent.model.kinds import Document
from meshagent.model.names import HTTP_PROTOCOLS
from meshagent.model.route import Route
from meshagent.model.service import Service
from meshagent.state.changes import Name

_UNSEEN = "nobody sees with `data_path: l4`: leave out the one or the other"


def carriage_errors(written: Sequence[Written], after: Mapping[Name, Document], spoken: Spoken) -> Iterator[Problem]:
    """Services that could not be carried as bytes, as far as these documents are the cause of it."""
    places = {name_of(each): each for each in written}
    for document in after.values():
        if not isinstance(document, Service) or document.data_path != "l4":
            continue
        here = places.get(("service", document.name))
        if here:
            yield from _own_errors(here, document, spoken)
        route = after.get(("route", document.name))
        if isinstance(route, Route):
            yield from _route_errors(route, here, places.get(("route", document.name)))


def _own_errors(here: Written, service: Service, spoken: Spoken) -> Iterator[Problem]:
    others = sorted(each for each in spoken(service.name) if each not in HTTP_PROTOCOLS)
    if others:
        words = f"l4 is for http, http2 and grpc: {service.name} speaks {others[0]}, which is carried as bytes anyway"
        yield finding(here, words, "data_path")
    for section, field in service.asked_of_requests:
        path = (section, field) if field else (section,)
        yield finding(here, f"is about requests, which {_UNSEEN}", *path)


def _route_errors(route: Route, service: Written | None, here: Written | None) -> Iterator[Problem]:
    for number, rule in enumerate(route.rules):
        if not (asked := rule.asked_of_requests):
            continue
        words = f"{', '.join(asked)}: about requests of {route.name}, which {_UNSEEN}"
        if here:
            yield finding(here, words, "rules", number, asked[0].partition(".")[0])
        elif service:
            yield finding(service, f"rule {number} of the route {route.name} has {words}", "data_path")
