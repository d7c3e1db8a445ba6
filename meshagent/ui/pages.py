"""What each page asks for: reads what it needs and hands it to the pure functions beside this file."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from datetime import datetime
from typing import Any

from meshagent import __version__
from meshagent.cli.policy_history import edit_row, head_row
from meshagent.cli.standings import line_of
from meshagent.errors import AgentUnreachable, MeshError, NotFound, StoreDenied, StoreUnavailable
from meshagent.model.mesh import Mesh
from meshagent.model.reasons import reason
from meshagent.state.records import HistoryRecord
from meshagent.ui.fleet import certificates, hosts
from meshagent.ui.live import Numbers, Source
from meshagent.ui.matrix import matrix
from meshagent.ui.near import topology_here
from meshagent.ui.services import one_service, services
from meshagent.ui.sight import Sight
from meshagent.ui.topology import Pair, topology
from meshagent.ui.whatif import explained, what_if

Data = dict[str, Any]
Query = Mapping[str, str]
_REFUSALS = 200  # calls that the page of refusals lists
_CHANGES = 200  # revisions that the history lists, the newest first


class Pages:
    """Every method gives plain data and raises what the store or the agent raises."""

    def __init__(self, sight: Sight, live: Source, clock: Callable[[], datetime]) -> None:
        self._sight = sight
        self._live = live
        self._clock = clock

    @property
    def answers(self) -> dict[str, Callable[[Query], Awaitable[Data]]]:
        """The functions by name."""
        return {
            "mesh": self.mesh,
            "topology": self.topology,
            "intentions": self.intentions,
            "explain": self.explain,
            "what-if": self.what_if,
            "services": self.services,
            "service": self.service,
            "hosts": self.hosts,
            "certificates": self.certificates,
            "history": self.history,
            "change": self.change,
            "refusals": self.refusals,
        }

    async def mesh(self, _: Query) -> Data:
        """The mesh at a glance, for the head of every page."""
        seen = await self._sight.seen()
        where, health = await self._sight.store()
        mesh = next((each.thing for each in seen.documents.values() if isinstance(each.thing, Mesh)), Mesh())
        unreadable = [f"the {kind} record {name}: {problem}" for (kind, name), problem in sorted(seen.problems.items())]
        return {
            "version": __version__,
            "trust_domain": mesh.trust_domain,
            "default_action": mesh.default_action,
            "revision": seen.revision,
            "store": {"url": where, "ok": health.ok, "version": health.version},
            "problems": [*health.problems, *unreadable],
            "services": sorted(seen.services),
        }

    async def topology(self, _: Query) -> Data:
        """Services and edges: of the mesh, else of this host alone; `why` says what kept from the mesh."""
        live, why = await self._live.numbers(), ""
        try:
            seen = await self._sight.seen()
            drawn = topology(seen, live.pairs, await self._upstreams(), self._clock())
        except (StoreUnavailable, StoreDenied, NotFound) as error:
            drawn, why = await self._drawn_here(live, error), error.advice
        return drawn | {"traffic": {"hosts": live.hosts, "missing": live.missing}, "why": why}

    async def intentions(self, _: Query) -> Data:
        """The matrix."""
        return matrix(await self._sight.seen(), self._clock())

    async def explain(self, query: Query) -> Data:
        """The verdict on one call."""
        return explained(await self._sight.seen(), await self._sight.reports(), query)

    async def what_if(self, query: Query) -> Data:
        """What documents would change."""
        seen, reports = await self._sight.seen(), await self._sight.reports()
        return what_if(seen, query.get("documents", ""), self._clock(), reports)

    async def services(self, _: Query) -> Data:
        """All services."""
        return services(await self._sight.seen(), (await self._live.numbers()).pairs)

    async def service(self, query: Query) -> Data:
        """One service."""
        name, live, seen = query.get("name", ""), await self._live.numbers(), await self._sight.seen()
        told = one_service(seen, name, live.pairs, self._clock())
        found = await self._sight.rollouts() if ("rollout", name) in seen.documents else []
        rollout = next((row | {"words": line_of(row)} for row in found if row["service"] == name), None)
        return told | {"rollout": rollout}

    async def hosts(self, _: Query) -> Data:
        """The hosts that report, and this one as its agent tells it; `agent` is None without one, and `why` says why."""
        reports, seen = await self._sight.reports(), await self._sight.seen()
        agent, why = None, ""
        try:
            agent = await self._sight.agent()
        except MeshError as error:
            why = error.advice
        return {"hosts": hosts(reports, seen.revision, self._clock()), "agent": agent, "why": why}

    async def certificates(self, _: Query) -> Data:
        """Certificates and roots."""
        return certificates(await self._sight.reports(), await self._sight.authorities(), self._clock())

    async def history(self, _: Query) -> Data:
        """The newest changes of the policy."""
        found = await self._sight.histories()
        newest = found[::-1][:_CHANGES]
        return {"all": len(found), "changes": [head_row(each) | {"changed": _changed(each)} for each in newest]}

    async def change(self, query: Query) -> Data:
        """One change, with its diffs. Raises NotFound."""
        wanted = query.get("revision", "")
        record = next((each for each in await self._sight.histories() if str(each.revision) == wanted), None)
        if record is None:
            raise NotFound(f"there is no history of revision {wanted}", next_step="choose one of the list")
        return head_row(record) | {"edits": [edit_row(edit) for edit in record.edits]}

    async def refusals(self, _: Query) -> Data:
        """The newest calls that this host's proxy refused or that failed, and what each reason means."""
        found = await self._sight.refused(_REFUSALS)
        told = {row["reason"] for row in found}
        reasons = {code: {"words": reason(code).words, "next_step": reason(code).next_step} for code in sorted(told)}
        return {"host": (await self._sight.agent())["host"], "requests": found, "reasons": reasons}

    async def _drawn_here(self, live: Numbers, error: MeshError) -> Data:
        """The topology of this host alone. Raises `error` where no agent tells of it either."""
        try:
            return topology_here(await self._sight.services_here(), live.pairs)
        except AgentUnreachable:
            raise error from None

    async def _upstreams(self) -> tuple[Pair, ...]:
        """What the services of this host call; nothing without an agent here."""
        try:
            return tuple(_pairs(await self._sight.services_here()))
        except MeshError:
            return ()


def _pairs(rows: list[Data]) -> Iterator[Pair]:
    for row in rows:
        yield from ((row["name"], upstream["service"]) for upstream in row["upstreams"])


def _changed(record: HistoryRecord) -> list[str]:
    return [f"{edit.kind}/{edit.name}" for edit in record.edits]
