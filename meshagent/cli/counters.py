"""What the mesh's proxies have counted, read as often as a command likes: this host's by its agent, others' by the store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from meshagent.api.fleet import FleetTraffic, fleet_traffic
from meshagent.cli.session import Session
from meshagent.errors import MeshError
from meshagent.model.edges import EdgeRate, rates
from meshagent.model.service import Instance
from meshagent.state.records import ReportRecord

if TYPE_CHECKING:
    from meshagent.cli.mesh import OpenMesh

_OTHERS = "the mesh's other hosts"
Counts = dict[str, tuple[int, int]]  # by service: instances, and those of them that pass


class Counters:
    """One reading after the other. Without a mesh there is this host alone; without an agent here, the others."""

    def __init__(self, session: Session, mesh: OpenMesh | None, why: MeshError | None) -> None:
        self._agent = session.agent()
        self._mesh = mesh
        self._why = why
        self._here = ""

    async def read(self) -> FleetTraffic:
        """The counters of now. Raises what the agent raises when there is nobody else to ask."""
        own, reports, missing = None, tuple[ReportRecord, ...](), dict[str, str]()
        if self._why:
            missing[_OTHERS] = str(self._why)
        try:
            reports = await self._reports()
        except MeshError as error:
            missing[_OTHERS] = str(error)
        try:
            self._here = self._here or (await self._agent.status())["host"]
            own = await self._agent.traffic()
        except MeshError as error:
            if not reports:
                raise
            missing["this host's agent"] = str(error)
        found = await fleet_traffic(reports, self._here, own)
        return replace(found, missing={**found.missing, **missing}) if missing else found

    async def _reports(self) -> tuple[ReportRecord, ...]:
        from meshagent.state.catalog import read_reports

        return await read_reports(self._mesh.store, self._mesh.keys) if self._mesh else ()

    async def instances(self) -> Counts:
        """What the catalog holds; nothing without a mesh."""
        return counted(await self._mesh.instances()) if self._mesh else {}

    async def between(self, seconds: float) -> tuple[FleetTraffic, tuple[EdgeRate, ...]]:
        """Two readings with so long between them: the second one, and what happened meanwhile."""
        before = await self.read()
        await asyncio.sleep(seconds)
        after = await self.read()
        return after, rates(before.edges, after.edges, after.at - before.at)


@asynccontextmanager
async def counters(session: Session, *, here: bool = False) -> AsyncIterator[Counters]:
    """The counters of the mesh, or with `here` those of this host alone."""
    async with AsyncExitStack() as stack:
        mesh, why = None, None
        if not here:
            try:
                mesh = await stack.enter_async_context(session.mesh())
            except MeshError as error:
                why = error
        yield Counters(session, mesh, why)


def counted(instances: Iterable[Instance]) -> Counts:
    """How many instances each service has, and how many of them pass."""
    found: Counts = {}
    for each in instances:
        there, passing = found.get(each.service, (0, 0))
        found[each.service] = there + 1, passing + (each.health == "passing")
    return found


def concerns(rate: EdgeRate, service: str | None) -> bool:
    """Whether a row tells of the service; of any when none is named."""
    return service in (None, rate.source, rate.destination)


def per_second(value: float) -> str:
    """A rate with as many digits as tell something."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 or not value else f"{value:.2f}"


def milliseconds(value: float | None) -> str:
    """A duration in ms; a dash where there is none."""
    return "-" if value is None else f"{value:.0f} ms" if value >= 10 else f"{value:.1f} ms"


def byte_rate(value: float) -> str:
    """Bytes a second in the largest unit that leaves a digit."""
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}/s" if unit == "B" or value >= 10 else f"{value:.1f} {unit}/s"
        value /= 1000
    return f"{value:.1f} GB/s"


def percent(share: float) -> str:
    """A share of 1 in percent; what is there but small is not rounded to nothing."""
    return "0 %" if not share else "< 0.1 %" if share < 0.001 else f"{100 * share:.1f} %"
