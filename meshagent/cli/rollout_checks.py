"""What rollouts mean beside service and route documents. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from meshagent.cli.lazy import did_you_mean
from meshagent.cli.reading import Written, finding, name_of
from meshagent.cli.route_checks import Spoken
from meshagent.errors import Problem
from meshagent.model.kinds import Document
from meshagent.model.names import HTTP_PROTOCOLS
from meshagent.model.rollout import Rollout
from meshagent.model.route import Route
from meshagent.model.service import Service
from meshagent.policy.ways import place
from meshagent.state.changes import Name

Path = tuple[str | int, ...]


def rollout_errors(
    written: Sequence[Written], deleted: Collection[Name], after: Mapping[Name, Document], spoken: Spoken
) -> Iterator[Problem]:
    """Rollouts that could not be carried out, as far as these documents are the cause of it."""
    places = {name_of(each): each for each in written}
    for document in after.values():
        if not isinstance(document, Rollout):
            continue
        for cause, path, words in (*_of_service(document, after, spoken), *_of_routes(document, after)):
            told = f"the rollout of {document.name} {words}"
            if here := places.get(("rollout", document.name)):
                yield finding(here, words, *path)
            elif place_ := places.get(cause):
                yield finding(place_, told)
            elif cause in deleted:
                yield Problem("", 0, " ".join(cause), told)


def _of_service(rollout: Rollout, after: Mapping[Name, Document], spoken: Spoken) -> Iterator[tuple[Name, Path, str]]:
    """(the document that has to do with it, where, what)."""
    cause = ("service", rollout.name)
    service = after.get(cause)
    subsets = service.subsets if isinstance(service, Service) else {}
    for field in ("base", "to"):
        if (subset := getattr(rollout, field)) not in subsets:
            words = f"names the subset {subset}, which {rollout.name} does not have.{did_you_mean(subset, subsets)}"
            yield cause, (field,), f"{words} Subsets are in its service document"
    if any(each not in HTTP_PROTOCOLS for each in spoken(rollout.name)):
        yield (
            cause,
            ("name",),
            f"judges requests, and {rollout.name} speaks tcp: say `protocol: http` where it does not",
        )
    if isinstance(service, Service) and service.data_path == "l4":
        yield cause, ("name",), f"judges requests, which nobody sees with `data_path: l4` of {rollout.name}"


def _of_routes(rollout: Rollout, after: Mapping[Name, Document]) -> Iterator[tuple[Name, Path, str]]:
    """Rules that split by themselves what the rollout is to split."""
    for key, route in after.items():
        for number, rule in enumerate(route.rules if isinstance(route, Route) else ()):
            named = {each.subset for each in rule.to if place(each, route.name) == rollout.name}
            if rollout.to in named and not named.isdisjoint((None, rollout.base)):
                words = (
                    f"splits what rule {number} of the route {route.name} splits already: take {rollout.to} out there"
                )
                yield key, ("to",), words
