"""What gateways mean beside other documents and the catalog. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

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


def in_plain_text(written: Written) -> Iterator[Problem]:
    """Listeners where anybody on the way can read and change what comes from outside."""
    if isinstance(written.document, Gateway):
        for number, listener in enumerate(written.document.listeners):
            if listener.tls is None:
                words = f"takes plain text from outside on port {listener.port}: whoever is on the way can read and change it"
                yield finding(written, words, "listeners", number)


def refused_services(written: Written, let_in: Callable[[str, Collection[str]], Collection[str]]) -> Iterator[Problem]:
    """Routes to services that refuse every call of the gateway. `let_in`: which of some sources a service lets in."""
    if isinstance(written.document, Gateway):
        for service, path in led_services(written.document):
            if not let_in(service, (written.document.name,)):
                words = (
                    f"leads to {service}, which refuses every call of {written.document.name}: no intention allows one"
                )
                yield finding(written, words, *path)


def led_services(gateway: Gateway) -> Iterator[tuple[str, Path]]:
    """The services that a gateway names, and where."""
    for number, route in enumerate(gateway.routes):
        yield route.service, ("routes", number, "service")
