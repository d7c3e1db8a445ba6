"""Cases beside the policies: a call, and what is expected of it. Pure; `policy test` reads them and tells what came."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from meshagent.cli.arrivals import Arrival, Came, came_of
from meshagent.documents.decode import Located
from meshagent.model.intention import Method
from meshagent.model.matching import HeaderKey, Region, Text
from meshagent.model.names import Model, Protocol, ServiceName
from meshagent.model.route import SubsetName
from meshagent.model.service import Health, Instance
from meshagent.model.view import Way
from meshagent.model.world import World
from meshagent.policy.request import Request

DEFAULT_RULE = "mesh/default_action"
_TOLERANCE = 0.05  # percent: shares are written with one digit behind the point
_NEED = ("expect", "shadow", "rule", "route", "goes_to", "respond", "redirect")


class CaseInstance(Model):
    """A running copy of a service. It stands where its service does unless told."""

    meta: dict[str, str] = {}
    health: Health = "passing"
    region: Region | None = None
    zone: Region | None = None


class CaseService(Model):
    """A service that cases take for registered, in a region and a zone of it."""

    name: ServiceName
    protocol: Protocol
    region: Region | None = None
    zone: Region | None = None
    instances: tuple[CaseInstance, ...] = Field(default=(CaseInstance(),), max_length=200)


class CaseRequest(Model):
    """What is asked. A header that is sent several times has a list of values."""

    method: Method = "GET"
    path: str = "/"
    headers: dict[HeaderKey, Text | tuple[Text, ...]] = {}

    @property
    def sent(self) -> Request:
        """As the proxies see it."""
        lists = {name: (value,) if isinstance(value, str) else value for name, value in self.headers.items()}
        return Request(self.method, self.path, tuple((name, each) for name, values in lists.items() for each in values))


class Destination(Model):
    """A place that requests go to: a service (the one that is called unless named), a subset of it, with a share.

    `zone`: the instances that are called there all stand in it.
    """

    service: ServiceName | None = None
    subset: SubsetName | None = None
    zone: Region | None = None
    percent: Annotated[float, Field(ge=0, le=100)] | None = None


class Case(Model):
    """A call and what is expected. Without a request: of the call as such, whatever is asked.

    `shadow`: what would become of it, were all that is said in shadow in force. `rule`: the intention that decides.
    `route`: the deciding rule of the route by name or number, or `none`.
    """

    name: str = ""
    source: ServiceName = Field(alias="from")
    destination: ServiceName = Field(alias="to")
    request: CaseRequest | None = None
    region: Region | None = None
    zone: Region | None = None
    expect: Literal["allowed", "denied"] | None = None
    shadow: Literal["allowed", "denied"] | None = None
    rule: str | None = None
    route: str | Annotated[int, Field(strict=True, ge=0)] | None = None
    goes_to: tuple[Destination, ...] = ()
    respond: int | None = None
    redirect: int | None = None

    @model_validator(mode="after")
    def _expects_something(self) -> Self:
        if all(getattr(self, name) in (None, ()) for name in _NEED):
            raise ValueError(f"expects nothing: it needs one of {', '.join(_NEED)}")
        if (self.respond or self.redirect) and (self.expect or self.shadow or self.rule or self.goes_to):
            raise ValueError("respond and redirect are the caller's own proxy's: no intention is asked then")
        if len({(each.service or self.destination, each.subset) for each in self.goes_to}) < len(self.goes_to):
            raise ValueError("goes_to: names a place twice")
        return self

    @property
    def call(self) -> str:
        """In words."""
        asked = f" {self.request.method} {self.request.path}" if self.request else ""
        return f"{self.source} -> {self.destination}{asked}"


class Cases(Model):
    """A file of cases, and the services that they take for registered."""

    services: tuple[CaseService, ...] = ()
    cases: tuple[Case, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _services_differ(self) -> Self:
        names = [service.name for service in self.services]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"services: {twice[0]} is given twice")
        return self

    def instances(self) -> tuple[Instance, ...]:
        """The catalog that the services make."""
        every = [(service, each) for service in self.services for each in service.instances]
        return tuple(_instance(number, service, each) for number, (service, each) in enumerate(every))

    def region(self, service: str) -> str:
        """Where a service runs; empty where that is not said."""
        return next((each.region for each in self.services if each.name == service and each.region), "")

    def place(self, case: Case) -> tuple[str, str]:
        """The region and zone that a case's caller stands in; empty where that is not said."""
        zone = next((each.zone for each in self.services if each.name == case.source and each.zone), "")
        return case.region or self.region(case.source), case.zone or zone


@dataclass(frozen=True, slots=True)
class Miss:
    """One expectation that does not hold."""

    field: str
    expected: str
    came: str


@dataclass(frozen=True, slots=True)
class Judged:
    """A case beside what came of it: without misses it holds. `line` is where it stands."""

    case: Case
    file: str
    line: int
    misses: tuple[Miss, ...]
    why: tuple[str, ...]


def judged(cases: Located[Cases], world: World, now: datetime) -> Iterator[Judged]:
    """Each case of a file against a World that has the file's own catalog."""
    for index, case in enumerate(cases.document.cases):
        region, zone = cases.document.place(case)
        request = case.request.sent if case.request else None
        came = came_of(world, case.source, case.destination, request, region, now, zone=zone)
        misses = tuple(_misses(case, came))
        yield Judged(case, cases.file, cases.line_of("cases", index), misses, tuple(_why(case, came)))


def by_service(instances: Sequence[Instance]) -> Mapping[str, tuple[Instance, ...]]:
    """The instances of each service."""
    names = dict.fromkeys(instance.service for instance in instances)
    return {name: tuple(each for each in instances if each.service == name) for name in names}


def _instance(number: int, service: CaseService, each: CaseInstance) -> Instance:
    return Instance(
        service=service.name,
        host=f"vm-{number}",
        id=f"{service.name[:50]}-{number}",
        address=f"10.0.{number // 250}.{number % 250 + 1}",
        port=21000,
        protocol=service.protocol,
        health=each.health,
        meta=each.meta,
        region=each.region or service.region or "",
        zone=each.zone or service.zone or "",
    )


def _misses(case: Case, came: Came) -> Iterator[Miss]:
    if case.request and came.protocol in ("tcp", None):
        words = (
            "speaks tcp, so its proxy sees no request" if came.protocol else "is not registered, and no document says"
        )
        yield Miss("request", "a service that speaks http", f"{case.destination} {words}")
        return
    end = {"allow": "allowed", "deny": "denied", "malformed": "denied", "depends": "it depends on the request"}
    if case.expect and end.get(came.end) != case.expect:
        yield Miss("expect", case.expect, end.get(came.end, _other_end(came)))
    if case.shadow and (would := _in_shadow(came)) != case.shadow:
        yield Miss("shadow", case.shadow, would)
    rules = dict.fromkeys(_rule(arrival) for arrival in came.arrivals)
    if case.rule is not None and list(rules) != [case.rule]:
        yield Miss("rule", case.rule, " and ".join(rules) or _other_end(came))
    if case.route is not None and (came.undecided or not _is_route(case.route, came.way)):
        yield Miss("route", str(case.route), _way_name(came))
    if case.goes_to and (came.undecided or not _goes_to(case, came)):
        yield Miss("goes_to", _wanted(case), _places(came, case) or _other_end(came))
    for field in ("respond", "redirect"):
        wanted, status = getattr(case, field), _status(came.way, field)
        if wanted is not None and wanted != status:
            yield Miss(field, str(wanted), str(status or _places(came, case) or _other_end(came)))


def _in_shadow(came: Came) -> str:
    """What every place would say, were all that is said in shadow in force."""
    told = {"allow": "allowed", "deny": "denied", "malformed": "denied", "depends": "it depends on the request"}
    ends = sorted({told[(arrival.doubt or arrival.verdict).outcome] for arrival in came.arrivals})
    return ends[0] if len(ends) == 1 else " and ".join(ends) or _other_end(came)


def _rule(arrival: Arrival) -> str:
    return arrival.verdict.rule.id if arrival.verdict.rule else DEFAULT_RULE


def _is_route(wanted: str | int, way: Way | None) -> bool:
    if way is None:
        return wanted == "none"
    return wanted == way.index if isinstance(wanted, int) else wanted == way.rule.name


def _way_name(came: Came) -> str:
    if came.undecided:
        return "it depends on the request"
    if came.way is None:
        return "none"
    return f"{came.way.index} ({came.way.rule.name})" if came.way.rule.name else str(came.way.index)


def _goes_to(case: Case, came: Came) -> bool:
    found = _shares(came)
    wanted = {(each.service or case.destination, each.subset): each for each in case.goes_to}
    return found.keys() == wanted.keys() and all(
        (each.percent is None or abs(found[place] - each.percent) <= _TOLERANCE)
        and (each.zone is None or _zones(came, place) == {each.zone})
        for place, each in wanted.items()
    )


def _shares(came: Came) -> dict[tuple[str, str | None], float]:
    """The share of each place. Several targets may come to one, where they fail over."""
    found: dict[tuple[str, str | None], float] = {}
    for arrival in came.arrivals:
        place = (arrival.service, arrival.subset)
        found[place] = found.get(place, 0.0) + arrival.percent
    return found


def _zones(came: Came, place: tuple[str, str | None]) -> set[str]:
    return {zone for each in came.arrivals if (each.service, each.subset) == place for zone in each.zones}


def _wanted(case: Case) -> str:
    parts = (
        (_place(each.service or case.destination, each.subset, case), each.percent, each.zone) for each in case.goes_to
    )
    shares = ((place, "" if percent is None else f" {percent:g} %", zone) for place, percent, zone in parts)
    return ", ".join(f"{place}{share}{f' in {zone}' if zone else ''}" for place, share, zone in shares)


def _places(came: Came, case: Case) -> str:
    if came.undecided:
        return ""
    zones = any(each.zone for each in case.goes_to)
    return ", ".join(
        f"{_place(*place, case)} {share:.4g} %" + (f" in {' and '.join(sorted(_zones(came, place)))}" if zones else "")
        for place, share in _shares(came).items()
    )


def _place(service: str, subset: str | None, case: Case) -> str:
    if subset is None:
        return service
    return subset if service == case.destination else f"{service} {subset}"


def _status(way: Way | None, field: str) -> int | None:
    answer = getattr(way.rule, field) if way else None
    return answer.status if answer else None


def _other_end(came: Came) -> str:
    if came.undecided:
        return "it depends on the request"
    if came.end == "mixed":
        return "both: its places differ"
    for field in ("respond", "redirect"):
        if status := _status(came.way, field):
            return f"answered {status} by the caller's own proxy"
    return "answered 503: nothing that it names can be called"


def _why(case: Case, came: Came) -> Iterator[str]:
    """In the words of `explain`."""
    if came.undecided and came.end == "depends":
        yield f"the route of {case.destination} decides by request: give a method and a path"
    if came.way:
        yield f"rule {_way_name(came)} of route {case.destination} decides the way ({came.way.origin})"
    for why in dict.fromkeys((arrival.service, arrival.verdict.why) for arrival in came.arrivals):
        yield why[1] if why[0] == case.destination else f"at {why[0]}: {why[1]}"
    for doubt in dict.fromkeys(arrival.doubt.why for arrival in came.arrivals if arrival.doubt):
        yield f"in shadow: {doubt}"
