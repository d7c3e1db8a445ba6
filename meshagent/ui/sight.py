"""What the pages are made from: the store as the operator may read it, this host's agent, and live numbers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any, TypeVar, cast

from meshagent.api.fleet import FleetTraffic, fleet_traffic
from meshagent.cli.ca_status import roots_and_authorities
from meshagent.cli.mesh import OpenMesh, Seen
from meshagent.cli.rollout_status import read_standings
from meshagent.cli.session import Session
from meshagent.errors import MeshError
from meshagent.state.catalog import read_reports
from meshagent.state.histories import read_histories
from meshagent.state.records import HistoryRecord, ReportRecord
from meshagent.store.base import StoreHealth

Data = dict[str, Any]
Read = TypeVar("Read")
_FRESH = 1.0  # seconds: what was read is good for every page that asks within them


class Sight:
    """Reads on demand; every method raises what the store or the agent raises. `close` ends it."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._stack = AsyncExitStack()
        self._opening = asyncio.Lock()
        self._mesh: OpenMesh | None = None
        self._kept: dict[str, tuple[float, asyncio.Task[Any]]] = {}

    async def seen(self) -> Seen:
        """The policy and the catalog."""
        return await self._once("seen", lambda: self._of_mesh(lambda mesh: mesh.read()))

    async def reports(self) -> tuple[ReportRecord, ...]:
        """What the hosts say of themselves."""
        return await self._once("reports", lambda: self._of_mesh(lambda mesh: read_reports(mesh.store, mesh.keys)))

    async def histories(self) -> tuple[HistoryRecord, ...]:
        """Every change of the policy, the oldest first."""
        found = await self._once("histories", lambda: self._of_mesh(lambda mesh: read_histories(mesh.store, mesh.keys)))
        return found[0]

    async def authorities(self) -> dict[str, list[Data]]:
        """The roots that are believed, and who signs."""
        return await self._once("authorities", lambda: self._of_mesh(roots_and_authorities))

    async def rollouts(self) -> list[Data]:
        """Where rollouts stand."""
        return await self._once("rollouts", lambda: self._of_mesh(read_standings))

    async def store(self) -> tuple[str, StoreHealth]:
        """Where the store is, as it may be shown, and how it is."""

        async def look(mesh: OpenMesh) -> tuple[str, StoreHealth]:
            return mesh.where, await mesh.store.check()

        return await self._once("store", lambda: self._of_mesh(look))

    async def agent(self) -> Data:
        """What this host's agent says of itself."""
        return await self._once("agent", lambda: self._session.agent().status())

    async def services_here(self) -> list[Data]:
        """The services of this host, with what they call."""
        return await self._once("services", lambda: self._session.agent().services())

    async def refused(self, most: int) -> list[Data]:
        """The newest calls that this host's proxy refused or that failed."""
        found = await self._once("refused", lambda: self._session.agent().requests(failed="1", most=str(most)))
        rows: list[Data] = found["requests"]
        return rows

    async def traffic(self) -> FleetTraffic:
        """What the hosts have counted; where the store or the agent cannot be asked, the other's word is taken."""
        own, here, reports = None, "", tuple[ReportRecord, ...]()
        with contextlib.suppress(MeshError):
            reports = await self.reports()
        with contextlib.suppress(MeshError):
            here = (await self.agent())["host"]
            own = await self._session.agent().traffic()
        return await fleet_traffic(reports, here, own)

    async def close(self) -> None:
        """End what is under way, and close the store."""
        tasks = [task for _, task in self._kept.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._stack.aclose()

    async def _of_mesh(self, read: Callable[[OpenMesh], Awaitable[Read]]) -> Read:
        async with self._opening:
            if self._mesh is None:
                self._mesh = await self._stack.enter_async_context(self._session.mesh())
        return await read(self._mesh)

    async def _once(self, name: str, read: Callable[[], Awaitable[Read]]) -> Read:
        """One reading for all who ask at the same time, and for those of the next second."""
        now = asyncio.get_running_loop().time()
        found = self._kept.get(name)
        if found is None or (found[1].done() and now - found[0] > _FRESH):
            found = self._kept[name] = now, asyncio.ensure_future(_awaited(read))
        return cast("Read", await asyncio.shield(found[1]))


async def _awaited(read: Callable[[], Awaitable[Read]]) -> Read:
    return await read()
