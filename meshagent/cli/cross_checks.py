"""What several documents say together, and documents together with the catalog. Pure.

Errors stop `policy apply`: what they describe could not be enforced as it is written. Warnings are told.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from meshagent.cli.carriage_checks import carriage_errors
from meshagent.cli.external_checks import external_errors
from meshagent.cli.failover_checks import failover_errors, named_backups
from meshagent.cli.gateway_checks import gateway_errors, led_services
from meshagent.cli.log_checks import log_errors
from meshagent.cli.mesh import Seen, spoken
from meshagent.cli.reading import Written, finding, name_of
from meshagent.cli.rollout_checks import rollout_errors
from meshagent.cli.route_checks import named_services, never_reached, route_errors
from meshagent.cli.soundness import case_gap, l7_problem, open_by_default, unknown_service
from meshagent.errors import Problem
from meshagent.model.gateway import Gateway
from meshagent.model.intention import Intention
from meshagent.model.kinds import Document
from meshagent.model.mesh import Mesh
from meshagent.model.names import ANY, Protocol
from meshagent.model.route import Route
from meshagent.model.service import Instance, Service
from meshagent.state.changes import Name


@dataclass(frozen=True, slots=True)
class Findings:
    """Errors and warnings, each at its place in a file."""

    errors: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()


def trust_domain_problem(mesh: Mesh, held: str) -> str:
    """Why the mesh document may not be applied over a mesh of the trust domain `held`; empty when it may."""
    if mesh.trust_domain == held:
        return ""
    why = "every identity is named after it, and changing it would end every connection of the mesh"
    if "trust_domain" not in mesh.model_fields_set:
        return f"left out means {mesh.trust_domain}, but this mesh is {held}: {why}. Write trust_domain: {held}"
    return f"is {held} in this mesh and cannot become {mesh.trust_domain}: {why}. Set up another mesh for it"


def findings(written: Sequence[Written], deleted: Collection[Name], before: Seen) -> Findings:
    """Everything to say of documents that are to be applied, and of names that are to be deleted."""
    documents = {name: stated.thing for name, stated in before.documents.items() if name not in deleted}
    after = documents | {name_of(each): each.document for each in written}

    def protocols(name: str) -> Collection[Protocol]:
        return spoken(after.get(("service", name)), before.instances, name)

    errors = [
        *_mesh_errors(written, before),
        *_l7_errors(written, deleted, after, before.instances),
        *route_errors(written, deleted, after, protocols),
        *failover_errors(written, deleted, after, protocols),
        *carriage_errors(written, after, protocols),
        *gateway_errors(written, after, protocols),
        *external_errors(written, after, before.instances),
        *rollout_errors(written, deleted, after, protocols),
        *log_errors(written, after),
    ]
    known = before.services | {name for kind, name in after if kind in ("service", "external", "gateway")}
    unknown = _unknown(written, known) if before.services else ()  # a new mesh knows nobody yet
    warnings = [*_mesh_warnings(written), *_gaps(written), *never_reached(written), *unknown]
    return Findings(tuple(errors), tuple(warnings))


def _mesh_errors(written: Sequence[Written], before: Seen) -> Iterator[Problem]:
    held = before.documents.get(("mesh", "mesh"))
    if held is None or not isinstance(held.thing, Mesh):
        return
    for each in written:
        if isinstance(each.document, Mesh) and (
            problem := trust_domain_problem(each.document, held.thing.trust_domain)
        ):
            yield finding(each, problem, "trust_domain")


def _l7_errors(
    written: Sequence[Written],
    deleted: Collection[Name],
    after: Mapping[Name, Document],
    instances: tuple[Instance, ...],
) -> Iterator[Problem]:
    """Permissions that could not be judged, as far as these documents are the cause of it."""
    places = {name_of(each): each for each in written}
    for (_, destination), intention in after.items():
        if not isinstance(intention, Intention) or destination == ANY:
            continue
        service = ("external" if ("external", destination) in after else "service", destination)
        protocols = spoken(after.get(service), instances, destination)
        for index, source in enumerate(intention.sources):
            if not (problem := l7_problem(destination, source, protocols)):
                continue
            words = f"{source.name} -> {destination} {problem}"
            if place := places.get(("intention", destination)):
                yield finding(place, words, "sources", index, "permissions")
            elif place := places.get(service):
                yield finding(place, f"the intention {words}", "protocol")
            elif service in deleted:
                yield Problem(
                    "", 0, f"service {destination}", f"the intention {source.name} -> {destination} {problem}"
                )


def _mesh_warnings(written: Sequence[Written]) -> Iterator[Problem]:
    for each in written:
        if isinstance(each.document, Mesh) and (words := open_by_default(each.document)):
            yield finding(each, words, "default_action")


def _gaps(written: Sequence[Written]) -> Iterator[Problem]:
    for each in written:
        if isinstance(each.document, Intention):
            for index, source in enumerate(each.document.sources):
                if gap := case_gap(source.permissions):
                    words = f"{source.name} -> {each.document.name} {gap}"
                    yield finding(each, words, "sources", index, "permissions")


def _unknown(written: Sequence[Written], known: Collection[str]) -> Iterator[Problem]:
    """One warning for each name that nobody registered, at its first place."""
    told: set[str] = set()
    for each in written:
        for name, path in _names(each.document):
            if name not in told and (words := unknown_service(name, known)):
                told.add(name)
                yield finding(each, words, *path)


def _names(document: Document) -> Iterator[tuple[str, tuple[str | int, ...]]]:
    if isinstance(document, Intention):
        yield document.name, ("name",)
        for index, source in enumerate(document.sources):
            yield source.name, ("sources", index, "name")
    elif isinstance(document, Route):
        yield from named_services(document)
    elif isinstance(document, Service):
        yield from named_backups(document)
    elif isinstance(document, Gateway):
        yield from led_services(document)
