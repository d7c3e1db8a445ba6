"""Live numbers: what happened between two readings of the counters, read only while somebody looks."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from meshagent.api.fleet import FleetTraffic
from meshagent.model.edges import OTHER, rates
from meshagent.ui.topology import Pair

_PAUSE = 2.0  # seconds between two readings, however many pages ask
_WINDOW = 12.0  # seconds that the numbers are about, where that much was read


@dataclass(frozen=True, slots=True)
class Numbers:
    """By pair (source, destination): `rps`, `error_ratio`, `p50_ms` and so on, as `EdgeRate` has them.

    `hosts` are those whose numbers are among them, `missing` says why others' are not.
    """

    pairs: Mapping[Pair, dict[str, Any]] = field(default_factory=dict)
    hosts: tuple[str, ...] = ()
    missing: Mapping[str, str] = field(default_factory=dict)


class Source(Protocol):
    """Where live numbers come from."""

    async def numbers(self) -> Numbers:
        """What happened in the last seconds or minutes. Raises nothing for what cannot be had: that is missing."""


class Live:
    """The agents' own counters. `read` gives what the fleet has counted so far."""

    def __init__(self, read: Callable[[], Awaitable[FleetTraffic]]) -> None:
        self._read = read
        self._readings: deque[FleetTraffic] = deque()
        self._reading = asyncio.Lock()

    async def numbers(self) -> Numbers:
        """What happened in the last seconds; no pairs before there is a second reading."""
        async with self._reading:
            now = asyncio.get_running_loop().time()
            if not self._readings or now - self._readings[-1].at >= _PAUSE:
                self._readings.append(await self._read())
                kept = within(self._readings, _WINDOW)
                self._readings = deque(kept)
            return between(self._readings[0], self._readings[-1])


def within(readings: Iterable[FleetTraffic], window: float) -> list[FleetTraffic]:
    """The readings of the last `window` seconds, counted from the newest; at least two where there are."""
    found = list(readings)
    late = [each for each in found if each.at >= found[-1].at - window]
    return late if len(late) > 1 else found[-2:]


def between(first: FleetTraffic, last: FleetTraffic) -> Numbers:
    """The numbers of all calls of each pair between two readings.

    Whom a destination's proxy does not tell apart is left out: the callers' own proxies tell of the same calls.
    """
    if last.at <= first.at:
        return Numbers({}, last.hosts, last.missing)
    told = rates(first.edges, last.edges, last.at - first.at)
    whole = (each for each in told if not each.route and not each.subset and each.source != OTHER)
    pairs = {(each.source, each.destination): asdict(each) for each in whole}
    return Numbers(pairs, last.hosts, last.missing)
