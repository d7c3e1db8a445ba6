"""What is allowed and yet most likely not meant. Pure. Each finding has a stable code; docs/lint.md explains them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from meshagent.cli import external_checks, failover_checks, gateway_checks, route_lints
from meshagent.cli.mesh import Seen, spoken
from meshagent.cli.reading import Written, finding, name_of
from meshagent.cli.route_checks import named_services
from meshagent.cli.soundness import case_gap, open_by_default, unknown_service
from meshagent.errors import Problem
from meshagent.model.gateway import Gateway
from meshagent.model.intention import Intention, IntentionSource
from meshagent.model.kinds import Document
from meshagent.model.mesh import Mesh
from meshagent.model.names import ANY, HTTP_PROTOCOLS, Protocol
from meshagent.model.route import Route
from meshagent.model.service import Service
from meshagent.model.world import Stated
from meshagent.policy.covers import covers
from meshagent.policy.plan import reach
from meshagent.policy.precedence import guard
from meshagent.state.changes import Name


@dataclass(frozen=True, slots=True)
class Around:
    """What the documents are judged with: all documents after them, the services that are known, and the time."""

    documents: Mapping[Name, Document]
    seen: Seen
    known: Collection[str]
    now: datetime

    def protocols(self, service: str) -> frozenset[Protocol]:
        """What a service speaks; empty when nobody knows."""
        return spoken(self.documents.get(("service", service)), self.seen.instances, service)

    def allowed(self, service: str) -> frozenset[str]:
        """The sources that intentions name, here or for every destination, and that may make some call of a service."""
        intentions = (each for each in self.documents.values() if isinstance(each, Intention))
        named = {source.name for each in intentions for source in each.sources} - {ANY, service}
        return self.let_in(service, named)

    def let_in(self, service: str, sources: Collection[str]) -> frozenset[str]:
        """Those of the sources that may make some call of a service."""
        documents = {name: each for (kind, name), each in self.documents.items() if kind == "intention"}
        intentions = {name: Stated(each) for name, each in documents.items() if isinstance(each, Intention)}
        mesh = self.documents.get(("mesh", "mesh"))
        rules = guard(service, "http", mesh if isinstance(mesh, Mesh) else Mesh(), intentions, self.now)
        return frozenset(name for name in sources if reach(rules.rule_for(name), rules.default) != "none")


@dataclass(frozen=True, slots=True)
class Lint:
    """One finding."""

    code: str
    problem: Problem


Check = Callable[[Written, Around], Iterator[Problem]]


def lints(written: Sequence[Written], seen: Seen, now: datetime) -> tuple[Lint, ...]:
    """Every finding on these documents, by file and line."""
    documents = {name: stated.thing for name, stated in seen.documents.items()}
    documents |= {name_of(each): each.document for each in written}
    known = seen.services | {name for kind, name in documents if kind in ("service", "external", "gateway")}
    around = Around(documents, seen, known, now)
    found = [
        Lint(code, problem) for each in written for code, check in CHECKS.items() for problem in check(each, around)
    ]
    return tuple(sorted(found, key=lambda lint: (lint.problem.file, lint.problem.line, lint.code)))


def _open_by_default(written: Written, _: Around) -> Iterator[Problem]:
    if isinstance(written.document, Mesh) and (words := open_by_default(written.document)):
        yield finding(written, words, "default_action")


def _case_gap(written: Written, _: Around) -> Iterator[Problem]:
    for index, source in _sources(written):
        if gap := case_gap(source.permissions):
            yield finding(written, gap, "sources", index, "permissions")


def _nobody(written: Written, around: Around) -> Iterator[Problem]:
    if not around.seen.services:
        return  # a new mesh knows nobody yet
    for name, path in _led_to(written):
        if words := unknown_service(name, around.known):
            yield finding(written, words, *path)
    if not isinstance(written.document, Intention):
        return
    if words := unknown_service(written.document.name, around.known):
        yield finding(written, words, "name")
    for index, source in _sources(written):
        if words := unknown_service(source.name, around.known):
            yield finding(written, words, "sources", index, "name")


def _led_to(written: Written) -> Iterator[tuple[str, tuple[str | int, ...]]]:
    if isinstance(written.document, Route):
        yield from named_services(written.document)
    elif isinstance(written.document, Service):
        yield from failover_checks.named_backups(written.document)
    elif isinstance(written.document, Gateway):
        yield from gateway_checks.led_services(written.document)


def _over(written: Written, around: Around) -> Iterator[Problem]:
    for index, source in _sources(written):
        if source.expires_at is not None and source.expires_at <= around.now:
            yield finding(
                written, f"{source.name} ended at {source.expires_at}: it says nothing any more", "sources", index
            )


def _never_asked(written: Written, _: Around) -> Iterator[Problem]:
    for index, source in _sources(written):
        for place, later in enumerate(source.permissions):
            for before, earlier in enumerate(source.permissions[:place]):
                if covers(earlier.http, later.http):
                    words = f"is never asked: permission {before} before it matches all that this one does"
                    yield finding(written, words, "sources", index, "permissions", place)
                    break


def _everybody(written: Written, _: Around) -> Iterator[Problem]:
    for index, source in _sources(written):
        if source.name == ANY and source.action == "allow" and not source.shadow:
            words = "allows every service, and each that will ever be registered: name those that are meant"
            yield finding(written, words, "sources", index)


def _permissive(written: Written, _: Around) -> Iterator[Problem]:
    if isinstance(written.document, Service) and written.document.mtls == "permissive":
        yield finding(written, "permissive takes plain text from anybody who can reach the port, unencrypted", "mtls")


def _as_bytes(written: Written, _: Around) -> Iterator[Problem]:
    if isinstance(written.document, Service) and written.document.as_bytes:
        words = "l4 hands the app whatever an allowed caller writes: it must not believe x-forwarded-client-cert"
        yield finding(written, words, "data_path")


def _needs_requests(written: Written, around: Around) -> Iterator[Problem]:
    service = written.document
    if not isinstance(service, Service):
        return
    protocols = around.protocols(service.name)
    if not protocols or any(protocol in HTTP_PROTOCOLS for protocol in protocols):
        return
    for field in ("rate_limit", "adaptive_concurrency"):
        if getattr(service, field) is not None:
            yield finding(written, f"counts requests, and {service.name} is a tcp service: it does nothing", field)
    if service.load_balancer.hash_on:
        yield finding(written, f"looks at requests, and {service.name} is a tcp service", "load_balancer", "hash_on")


CHECKS: Mapping[str, Check] = {
    "L001": _open_by_default,
    "L002": _case_gap,
    "L003": _nobody,
    "L004": _over,
    "L005": _never_asked,
    "L006": _everybody,
    "L007": _permissive,
    "L008": _needs_requests,
    "L009": lambda written, around: route_lints.empty_places(written, around.seen.instances, around.documents),
    "L010": lambda written, _: route_lints.never_met(written),
    "L011": lambda written, around: route_lints.nowhere(written, around.seen.instances, around.documents),
    "L012": lambda written, _: route_lints.no_time_to_retry(written),
    "L013": lambda written, _: route_lints.copied_to_itself(written),
    "L014": lambda written, around: failover_checks.nobody_stands_there(written, around.seen.instances),
    "L015": lambda written, around: failover_checks.refused_there(written, around.allowed),
    "L016": _as_bytes,
    "L017": lambda written, around: external_checks.registered_since(written, around.seen.instances),
    "L018": lambda written, _: external_checks.without_encryption(written),
    "L019": lambda written, _: gateway_checks.in_plain_text(written),
    "L020": lambda written, around: gateway_checks.refused_services(written, around.let_in),
}


def _sources(written: Written) -> Iterator[tuple[int, IntentionSource]]:
    if isinstance(written.document, Intention):
        yield from enumerate(written.document.sources)
