"""The cases of one file in a scratch mesh: it is made, every case is called there, and what was seen is judged."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from math import ceil

from meshagent.cli.arrivals import Came, came_of
from meshagent.cli.cases import Case, Cases, Judged, Miss, by_service, judged
from meshagent.cli.live.asking import Caller, can_be_sent
from meshagent.cli.live.holding import Seen, misses, of_case, of_explain, untold
from meshagent.cli.live.marks import Place, marked
from meshagent.cli.live.parts import Part, caller_of, parts_of, speaks_http
from meshagent.cli.live.sightings import TELLING, Scene, Sighting, of_answer, of_line
from meshagent.demo.answering import Apps
from meshagent.demo.scratch import Place as HostPlace
from meshagent.demo.scratch import ScratchMesh, scratch_mesh
from meshagent.documents.decode import Located
from meshagent.model.kinds import Document
from meshagent.model.service import Check, ServiceDefinition, Upstream
from meshagent.model.world import Stated, World
from meshagent.policy.request import Request
from meshagent.policy.rollouts import as_routes
from meshagent.state.changes import Author, Name

_FEW, _MANY, _MOST = 12, 400, 20_000  # calls of a case: of one place, of a split, and of the smallest shares
_SURE = 12  # calls that are to be expected at the smallest share
_SOON, _LATEST = 1.0, 5.0  # seconds: for the few calls of one place where the app is slow, and for any number of calls
_PAUSE_SECONDS = 0.2  # after a call that a limit refused
_ROUNDS = 4  # times the calls that are wanted, before what limits and faults keep from telling anything is left alone
_NEVER_FED = (Check(ttl=timedelta(hours=1)),)
# Holds each host's mTLS listener between two files: Envoy drains one that goes, and until then nobody can bind its port.
_KEEPER = ServiceDefinition(name="x--case-keeper", port=9, checks=_NEVER_FED)
_MESH: Name = ("mesh", "mesh")
_NEVER_TOLD = ("rule", "shadow")  # which intention decided, and what would be
_BLIND = (*_NEVER_TOLD, "request")  # and what cannot be sent is not called


@dataclass(frozen=True, slots=True)
class Tried:
    """A case as it was judged through Envoy. `differs`: Envoy did something else than `explain` says.

    `untold`: expectations that cannot be seen from outside, and are judged as without Envoy.
    """

    judged: Judged
    calls: int = 0
    differs: tuple[Miss, ...] = ()
    untold: tuple[str, ...] = ()


@dataclass(slots=True)
class _Stage:
    """A scratch mesh with everything of one file of cases in it."""

    mesh: ScratchMesh
    cases: Cases
    world: World
    scenes: Mapping[str, Scene]
    number: int  # of the file
    callers: dict[tuple[str, HostPlace, str], Caller] = field(default_factory=dict)  # by service, place and destination


async def tried(
    files: Sequence[Located[Cases]], documents: Mapping[Name, Stated[Document]], world: World, by: Author
) -> tuple[Tried, ...]:
    """Every case, called in a mesh that is gone when this returns; each file has it for itself. EnvoyFailed, EnvoyMissing."""
    if world.rollouts:  # they would go on by themselves
        world = as_routes(world)
        documents = {name: each for name, each in documents.items() if name[0] != "rollout"}
        documents |= {("route", name): Stated(each.thing, each.origins) for name, each in world.routes.items()}
    casts = [parts_of(file.document, world) for file in files]
    places = tuple(dict.fromkeys(part.place for parts in casts for part in parts))
    found: list[Tried] = []
    async with scratch_mesh(world.mesh, places, by) as mesh:
        await asyncio.gather(*(mesh.up(place, _KEEPER) for place in places))
        for number, (file, parts) in enumerate(zip(files, casts, strict=True)):
            known = replace(world, instances=by_service(file.document.instances()))
            stage = _Stage(mesh, file.document, known, _scenes(parts, known), number)
            async with _played(stage, parts, documents, by):
                found += [await _tried(stage, each, by.at) for each in judged(file, known, by.at)]
    return tuple(found)


@asynccontextmanager
async def _played(
    stage: _Stage, parts: Sequence[Part], documents: Mapping[Name, Stated[Document]], by: Author
) -> AsyncIterator[None]:
    """All of a file in the mesh, and out of it again. Documents come last: what is applied then knows all instances."""
    mesh, world = stage.mesh, stage.world
    wanted = {name: each for name, each in documents.items() if name != _MESH and name[0] != "external"}
    applied = {name: _marked(each, world) for name, each in wanted.items()}
    async with Apps() as apps:
        ports = await apps.start({part.name: part.protocol for part in parts})
        await asyncio.gather(*(_up(stage, part, ports[part.name]) for part in parts))
        await mesh.until(lambda: _known(mesh, parts, world), "callers do not know all instances")
        await mesh.apply(applied, by)
        await mesh.until(lambda: _known(mesh, parts, world), "callers do not know all instances")
        yield
        for caller in stage.callers.values():
            caller.close()
        await mesh.apply(dict.fromkeys(applied), by)
        await asyncio.gather(*(mesh.down(part.place, part.service, part.id) for part in parts))


def _marked(stated: Stated[Document], world: World) -> Stated[Document]:
    """Rules for connections cannot say anything: with a mark they would be rules for requests, and so for nobody."""
    return marked(stated) if speaks_http(world, stated.thing.name) else stated


def _scenes(parts: Sequence[Part], world: World) -> Mapping[str, Scene]:
    """By destination."""
    subsets = {
        part.name: stated.thing.subsets_of(part.meta) if (stated := world.services.get(part.service)) else ()
        for part in parts
    }
    called = {name for part in parts for name in part.calls}
    routes = {name: stated.thing for name, stated in world.routes.items()}
    zones = {part.name: part.place[1] for part in parts}
    return {name: Scene(name, routes.get(name), subsets, zones) for name in called}


async def _up(stage: _Stage, part: Part, port: int) -> None:
    upstreams = []
    for destination in part.calls:
        socket = stage.mesh.directory / f"up-{stage.number}-{len(stage.callers)}.sock"
        stage.callers[part.service, part.place, destination] = Caller(socket)
        upstreams.append(Upstream(service=destination, local_socket=str(socket)))
    definition = ServiceDefinition(
        name=part.service,
        id=part.id,
        port=port,
        protocol=part.protocol,
        meta=dict(part.meta),
        checks=() if part.passing else _NEVER_FED,
        upstreams=tuple(upstreams),
    )
    await stage.mesh.up(part.place, definition)


async def _known(mesh: ScratchMesh, parts: Sequence[Part], world: World) -> bool:
    """Whether each Envoy that calls a service has all instances of it, as healthy as they are said to be."""
    for place in mesh.hosts:
        told = await mesh.admin(place).stats(r"^cluster\.out/.*\.membership_(healthy|total)$")
        for part in (each for each in parts if each.place == place):
            for name in part.calls:
                checked = name in world.services and world.services[name].thing.health_check is not None
                there = [each for each in parts if each.service == name]
                wanted = {"total": len(there)} | ({} if checked else {"healthy": sum(each.passing for each in there)})
                prefix = f"cluster.out/{part.service}/{name}.membership_"
                if any(told.get(prefix + what, 0) != count for what, count in wanted.items()):
                    return False
    return True


async def _tried(stage: _Stage, offline: Judged, now: datetime) -> Tried:
    """One case. What its calls do not tell is judged as it was offline."""
    case = offline.case
    if any(miss.field == "request" for miss in offline.misses):
        return Tried(offline, untold=("request",))
    source, (region, zone) = caller_of(case, stage.cases)
    request = case.request.sent if case.request else None
    came = came_of(stage.world, source, case.destination, request, region, now, zone=zone)
    seen = await _seen(stage, case, came)
    shares = {(each.service, each.subset): each.percent for each in came.arrivals}
    asked = of_case(case)
    found = misses(asked, seen, shares)
    blind = tuple(untold(asked, seen)) + tuple(field for field in _NEVER_TOLD if getattr(case, field) is not None)
    left = tuple(miss for miss in offline.misses if miss.field in (*blind, *_BLIND))
    differs = misses(of_explain(came, asked), seen, shares)
    return Tried(replace(offline, misses=(*found, *left)), len(seen.sightings), differs, blind)


async def _seen(stage: _Stage, case: Case, came: Came) -> Seen:
    scene = stage.scenes[case.destination]
    caller = stage.callers[(*caller_of(case, stage.cases), case.destination)]
    request = case.request.sent if case.request else Request()
    wanted = _wanted_calls(case, came)
    if not speaks_http(stage.world, case.destination):
        places = {(each.service, each.subset) for each in came.arrivals}
        lines = [each async for each in _connected(stage.mesh, caller, scene, places, wanted)]
        return Seen(tuple(lines), scene.route, marked=False)
    if not can_be_sent(request):
        return Seen((), scene.route)
    return Seen(tuple([each async for each in _asked(caller, request, scene, wanted)]), scene.route)


def _wanted_calls(case: Case, came: Came) -> int:
    """As many as it takes to have met every place, and where shares are asked for to tell them."""
    smallest = min((each.percent for each in came.arrivals if each.percent), default=100.0)
    if len(came.arrivals) == 1 or not (case.expect or case.goes_to):
        return _FEW
    return min(_MOST, max(_MANY if case.goes_to else _FEW, ceil(100 * _SURE / smallest)))


async def _asked(caller: Caller, request: Request, scene: Scene, wanted: int) -> AsyncIterator[Sighting]:
    """One after the other, so that no limit of requests under way is met; where a rate is, until one call told something."""
    began, told, made = time.monotonic(), False, 0
    patience = _SOON if wanted <= _FEW else _LATEST
    while made < wanted or not told:
        sighting = of_answer(await caller.ask(request, scene.upstream), request, scene)
        yield sighting
        made, told = made + 1, told or sighting.end in TELLING
        limited, passed = sighting.end == "limited", time.monotonic() - began
        if (told and (limited or passed > patience)) or (not told and (passed > _LATEST or made >= wanted * _ROUNDS)):
            return
        if limited:
            await asyncio.sleep(_PAUSE_SECONDS)


async def _connected(
    mesh: ScratchMesh, caller: Caller, scene: Scene, candidates: set[Place], wanted: int
) -> AsyncIterator[Sighting]:
    """Connections of a TCP service. One that ends without a word was refused where a proxy of the service took it."""
    by = time.monotonic() + _LATEST
    services = {service for service, _ in candidates} | {scene.upstream}
    taken = await _taken(mesh, services)
    for _ in range(wanted):
        line = await caller.greet()
        now = taken + 1 if line else await _taken(mesh, services)
        yield of_line(line, arrived=now > taken, scene=scene, candidates=candidates)
        taken = now
        if time.monotonic() > by:
            return


async def _taken(mesh: ScratchMesh, services: set[str]) -> int:
    """How many connections the proxies of these services have taken so far."""
    names = "|".join(sorted(services))
    return sum((await mesh.stats(rf"^tcp\.in\.({names})([./].+)?\.downstream_cx_total$")).values())
