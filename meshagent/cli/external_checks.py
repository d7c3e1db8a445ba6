"""What names outside the mesh mean beside other documents and the catalog. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from meshagent.cli.failover_checks import named_backups
from meshagent.cli.reading import Written, finding, name_of
from meshagent.cli.route_checks import named_services
from meshagent.errors import Problem
from meshagent.model.external import External
from meshagent.model.gateway import Gateway
from meshagent.model.kinds import Document
from meshagent.model.route import Route
from meshagent.model.service import Instance, Service
from meshagent.state.changes import Name

Path = tuple[str | int, ...]
_SERVICE_KINDS = ("service", "route", "gateway")
_OUTSIDE = "is a name outside the mesh (kind: external): services call it as an upstream, and nothing else leads there"


def external_errors(
    written: Sequence[Written], after: Mapping[Name, Document], instances: Sequence[Instance]
) -> Iterator[Problem]:
    """Externals that take a service's name, or that something but a service would lead to, as far as these documents do it."""
    names = {name for kind, name in after if kind == "external"}
    if not names:
        return
    places = {name_of(each): each for each in written}
    for name in sorted(names):
        yield from _taken(name, places, after)
        if (here := places.get(("external", name))) and (words := registered(name, instances)):
            yield finding(here, words, "name")
    for key, document in after.items():
        for name, path in _led_to(document):
            if name not in names:
                continue
            if here := places.get(key):
                yield finding(here, f"{name} {_OUTSIDE}", *path)
            elif other := places.get(("external", name)):
                yield finding(other, f"the {' '.join(key)} leads to {name}, and cannot lead outside the mesh", "name")


def registered(name: str, instances: Sequence[Instance]) -> str:
    """Why an external cannot have a name: a service has it. Empty when none does."""
    hosts = sorted({each.host for each in instances if each.service == name})
    if not hosts:
        return ""
    return (
        f"is registered as a service on {', '.join(hosts)}: callers would take one for the other. Choose another name"
    )


def registered_since(written: Written, instances: Sequence[Instance]) -> Iterator[Problem]:
    """An external whose name somebody registered."""
    if isinstance(written.document, External) and (words := registered(written.document.name, instances)):
        yield finding(written, words, "name")


def without_encryption(written: Written) -> Iterator[Problem]:
    """Calls that anybody on the way can read and change."""
    if isinstance(written.document, External) and written.document.tls.mode == "none":
        words = "none leaves the mesh unencrypted, and nobody is verified: whoever is on the way can read and answer"
        yield finding(written, words, "tls", "mode")


def _taken(name: str, places: Mapping[Name, Written], after: Collection[Name]) -> Iterator[Problem]:
    """Documents that are for services, under the name of an external."""
    for kind in _SERVICE_KINDS:
        if (kind, name) not in after:
            continue
        if here := places.get((kind, name)):
            yield finding(here, f"{name} {_OUTSIDE}", "name")
        elif here := places.get(("external", name)):
            yield finding(here, f"there is a {kind} document of this name: it does nothing for a name outside", "name")


def _led_to(document: Document) -> Iterator[tuple[str, Path]]:
    if isinstance(document, Route):
        yield from named_services(document)
    elif isinstance(document, Service):
        yield from named_backups(document)
    elif isinstance(document, Gateway):
        yield from ((route.service, ("routes", index, "service")) for index, route in enumerate(document.routes))
