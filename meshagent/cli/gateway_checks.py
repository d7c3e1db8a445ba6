"""What gateways mean beside other documents and the catalog. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from meshagent.cli.reading import Written, finding, name_of
from meshagent.cli.route_checks import Spoken
from meshagent.errors import Problem
from meshagent.model.gateway import Gateway
from meshagent.model.kinds import Document
from meshagent.model.names import HTTP_PROTOCOLS
from meshagent.state.changes import Name

Path = tuple[str | int, ...]


def gateway_errors(written: Sequence[Written], after: Mapping[Name, Document], spoken: Spoken) -> Iterator[Problem]:
    """Gateways that lead requests to a service which speaks TCP, as far as these documents are the cause of it."""
    places = {name_of(each): each for each in written}
    for key, document in after.items():
        if not isinstance(document, Gateway):
            continue
        for service, path in led_services(document):
            protocols = spoken(service)
            if not protocols or all(each in HTTP_PROTOCOLS for each in protocols):
                continue
            if here := places.get(key):
                words = f"leads to {service}, which speaks tcp, and takes requests: say `protocol: http` for {service}"
                yield finding(here, words, *path)
            elif other := places.get(("service", service)):
                yield finding(other, f"the gateway {document.name} leads requests to {service}", "protocol")


def led_services(gateway: Gateway) -> Iterator[tuple[str, Path]]:
    """The services that a gateway names, and where."""
    for number, route in enumerate(gateway.routes):
        yield route.service, ("routes", number, "service")
