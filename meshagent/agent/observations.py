"""What this host's proxies saw of calls: pairs that Envoy counted, and requests that it logged since shadow would refuse them.

Kept within bounds, over restarts of the agent, and told in the host's report: so one place knows what the whole mesh calls.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Never

import structlog
from pydantic import ValidationError

from meshagent.agent.operations import Operations
from meshagent.envoy.admin import AdminClient
from meshagent.envoy.requests import seen_of
from meshagent.errors import MeshError
from meshagent.model.names import Model
from meshagent.model.observed import LOGGED_PERCENT, CallKey
from meshagent.policy.patterns import merged, pattern_of
from meshagent.policy.sampling import ALL, next_percent
from meshagent.private import read_private, write_private
from meshagent.state.records import ObservedRecord

_log = structlog.get_logger(__name__)
MOST = 400  # rows of a report, about 50 kB
_MOST_OF_A_PAIR = 64
_KEPT = timedelta(days=7)
_SOON, _LATER, _SELDOM = 5.0, 60.0, 3600.0  # seconds
_MOST_LINES = 1000  # in a look
_LOOKS = round(_LATER / _SOON)
_CLASSES = ("1xx", "2xx", "3xx", "4xx", "5xx")
Rows = tuple[ObservedRecord, ...]


class Observations:
    """Adds up what is seen. `told` is what the report says: refreshed soon when something is new, seldom for mere numbers."""

    def __init__(
        self,
        directory: Path,
        clock: Callable[[], datetime],
        edges: Callable[[], Awaitable[Iterable[Mapping[str, Any]]]],
        operations: Operations,
        admin: AdminClient,
    ) -> None:
        self.told: Rows = ()
        self._path = directory / "observed.json"
        self._clock = clock
        self._edges = edges
        self._operations = operations
        self._admin = admin
        self._lines = 0
        self._percent = ALL  # of how many doubted requests in a hundred there is a line
        self._said = 0  # what Envoy was told of that by this agent; 0: nothing yet
        self._rows: dict[CallKey, ObservedRecord] = {}
        self._counted: dict[CallKey, int] = {}  # at the last reading of Envoy's numbers
        self._refreshed: datetime | None = None

    def load(self) -> None:
        """Take up what an earlier agent saw here. What cannot be read is left alone: it was a help and no more."""
        try:
            kept = _Kept.model_validate_json(read_private(self._path))
        except (MeshError, ValidationError):
            return
        self._rows = {row.key: row for row in kept.rows}
        self._counted = {row.key: row.calls for row in kept.counted}
        self._operations.sampled = kept.sampled
        self._operations.observed = self.told = tuple(kept.rows)

    def take(self, event: dict[str, Any]) -> None:
        """A line of the access log. What passed and shadow would have refused is kept, everything else is not for here."""
        if "shadow" not in event:
            return
        try:
            seen = seen_of(event)
        except ValueError:
            return
        if not seen.doubted or not seen.destination:
            return
        self._lines += 1
        key = CallKey(seen.source, seen.destination, seen.method, pattern_of(seen.path))
        self._add(key, ALL // self._percent, seen.ended)

    def count(self, edges: Iterable[Mapping[str, Any]]) -> None:
        """The numbers of /v1/traffic. What grew since the last reading was called meanwhile, by services of this host."""
        now, before = self._clock(), self._counted
        counted: dict[CallKey, int] = {}
        open_: set[CallKey] = set()  # it is called as long as a connection or a stream is open
        for edge in edges:
            if edge["side"] == "outbound" and not edge["subset"] and _leads_there(edge["route"]):
                key = CallKey(edge["source"], edge["destination"])
                counted[key] = counted.get(key, 0) + _calls(edge)
                open_ |= {key} if edge["active"] else set()
        self._counted = counted
        for key, calls in counted.items():
            held = before.get(key, 0)
            grown = calls - held if calls >= held else calls  # less: Envoy began anew
            if grown or key in open_:
                self._add(key, grown if key in self._rows else max(grown, 1), now)

    async def run(self) -> Never:
        """Read Envoy's numbers, tell what is seen, and have no more logged than can be read, for ever."""
        looks = 0
        while True:
            await asyncio.sleep(_SOON)
            looks += 1
            await self._share()
            if not self._in_shadow and looks % _LOOKS:
                continue
            try:
                self.count(await self._edges())
            except MeshError as error:
                _log.debug("observations_not_counted", problem=error.message)
            self.refresh()

    async def _share(self) -> None:
        """Have Envoy log as many of the doubted requests as this host can well read."""
        self._percent = next_percent(self._percent, self._lines, _MOST_LINES)
        self._lines = 0
        if self._percent < ALL:
            self._operations.sampled = self._clock()
        if self._percent == self._said:
            return
        try:
            await self._admin.post(f"/runtime_modify?{LOGGED_PERCENT}={self._percent}")
        except MeshError as error:
            _log.debug("observations_not_sampled", problem=error.message)
            return
        if self._said or self._percent != ALL:
            _log.info("observations_sampled", percent=self._percent)
        self._said = self._percent

    def refresh(self) -> None:
        """Tell what is seen, when something in it is new or old enough."""
        now = self._clock()
        new = self._rows.keys() - {row.key for row in self.told}
        every = timedelta(seconds=_LATER if self._in_shadow else _SELDOM)
        aged = self._refreshed is None or now - self._refreshed >= every
        if not new and not (aged and self._rows):
            return
        self._rows = {key: row for key, row in self._rows.items() if now - row.last < _KEPT}
        newest = sorted(self._rows.values(), key=lambda row: row.last, reverse=True)[:MOST]
        told = tuple(sorted(newest, key=lambda row: row.key))
        self._rows = {row.key: row for row in told}
        self._refreshed = now
        if told != self.told:
            self.told = told
            self._keep()
            self._operations.observed = told
            self._operations.report(urgent=False)

    @property
    def _in_shadow(self) -> bool:
        world = self._operations.converger.world
        return world is not None and world.mesh.default_action == "shadow-deny"

    def _add(self, key: CallKey, calls: int, at: datetime) -> None:
        key = self._fitted(key)
        held = self._rows.get(key)
        try:
            self._rows[key] = ObservedRecord.of(
                key, calls + (held.calls if held else 0), max(at, held.last) if held else at
            )
        except ValidationError:
            _log.debug("observation_unusable", source=key.source, destination=key.destination)

    def _fitted(self, key: CallKey) -> CallKey:
        """The key, or the wider one that stands for it where a pair has too many: then that takes in its fellows."""
        fellows = [each for each in self._rows if each[:2] == key[:2] and each.method]
        if key in self._rows or not key.method or len(fellows) < _MOST_OF_A_PAIR:
            return key
        wider = merged({each.path for each in (*fellows, key)}, _MOST_OF_A_PAIR // 4)
        rows = [self._rows.pop(each) for each in fellows]
        for each, row in zip(fellows, rows, strict=True):
            into = each._replace(path=wider[each.path])
            held = self._rows.get(into)
            calls, last = (held.calls, held.last) if held else (0, row.last)
            self._rows[into] = ObservedRecord.of(into, calls + row.calls, max(last, row.last))
        return key._replace(path=wider[key.path])

    def _keep(self) -> None:
        counted = [
            ObservedRecord.of(key, calls, self._clock()) for key, calls in sorted(self._counted.items()) if calls
        ]
        try:
            kept = _Kept(rows=list(self.told), counted=counted, sampled=self._operations.sampled)
            write_private(self._path, kept.model_dump_json().encode())
        except MeshError as error:
            _log.warning("observations_not_kept", problem=error.message)


class _Kept(Model):
    """`counted`: Envoy's numbers when the rows were as they are."""

    rows: list[ObservedRecord]
    counted: list[ObservedRecord]
    sampled: datetime | None = None


def _leads_there(route: str) -> bool:
    """Whether a row stands for calls of a destination that no other row has too."""
    return not route or route.startswith("via ")


def _calls(edge: Mapping[str, Any]) -> int:
    requests = edge["requests"]
    return sum(requests.get(each, 0) for each in _CLASSES) or (edge["connections"] if edge["protocol"] == "tcp" else 0)
