"""Runs the checks of this host's services and says when one goes in or out of service."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Never

from meshagent.errors import NotFound
from meshagent.host.probes import probe
from meshagent.host.verdict import FAILURES_TO_FLIP, Verdict, healthy, judge
from meshagent.model.service import Check

Place = tuple[str, str]  # service, instance id
Checks = tuple[Check, ...]


@dataclass(slots=True)
class _Watched:
    checks: Checks
    verdicts: list[Verdict]
    tasks: list[asyncio.Task[Never]] = field(default_factory=list)
    fed: dict[int, asyncio.Event] = field(default_factory=dict)


class HealthChecks:
    """`changed` is told each verdict on a whole service instance."""

    def __init__(self, changed: Callable[[Place, bool], None]) -> None:
        self._changed = changed
        self._watched: dict[Place, _Watched] = {}
        self._wanted: dict[Place, Checks] = {}
        self._moved = asyncio.Event()

    def follow(self, wanted: Mapping[Place, Checks]) -> None:
        """Say which instances have which checks now."""
        new = {place: checks for place, checks in wanted.items() if checks}
        if new != self._wanted:
            self._wanted = new
            self._moved.set()

    async def run(self) -> Never:
        """Keep the right checks running, for ever."""
        async with asyncio.TaskGroup() as group:
            while True:
                self._apply(group)
                await self._moved.wait()
                self._moved.clear()

    def feed(self, place: Place, passing: bool, output: str) -> None:
        """The app itself says how it is, to all ttl checks of the instance. Raises NotFound when it has none."""
        watched = self._watched.get(place)
        if not watched or not watched.fed:
            raise NotFound(
                f"{place[0]} has no ttl check on this host", next_step="add `checks: [{ttl: 30s}]` to its definition"
            )
        for index, event in watched.fed.items():
            event.set()
            for _ in range(1 if passing else FAILURES_TO_FLIP):  # the app's own word counts at once
                self._judge(place, index, passing, output)

    def rows(self, place: Place) -> list[dict[str, Any]]:
        """The checks of an instance and what each said last."""
        watched = self._watched.get(place)
        if not watched:
            return []
        return [
            {"kind": check.kind, "target": _target(check), "status": verdict.status, "output": verdict.output}
            for check, verdict in zip(watched.checks, watched.verdicts, strict=True)
        ]

    def _apply(self, group: asyncio.TaskGroup) -> None:
        for place, watched in list(self._watched.items()):
            if self._wanted.get(place) != watched.checks:
                for task in watched.tasks:
                    task.cancel()
                del self._watched[place]
        for place, checks in self._wanted.items():
            if place not in self._watched:
                self._watched[place] = watched = _Watched(checks, [Verdict() for _ in checks])
                for index, check in enumerate(checks):
                    watched.tasks.append(group.create_task(self._watch(place, index, check, watched)))

    async def _watch(self, place: Place, index: int, check: Check, watched: _Watched) -> Never:
        if check.ttl is not None:
            await self._watch_ttl(place, index, check.ttl.total_seconds(), watched)
        interval = check.interval.total_seconds()
        while True:
            passed, output = await probe(check)
            self._judge(place, index, passed, output)
            # A healthy app is asked at its interval; one that is coming up is asked more often, to be in service soon.
            known = watched.verdicts[index].status == "passing"
            pause = interval if known else min(interval, 0.5)
            await asyncio.sleep(pause * random.uniform(0.9, 1.1))  # noqa: S311 - spreads load

    async def _watch_ttl(self, place: Place, index: int, ttl: float, watched: _Watched) -> Never:
        event = watched.fed[index] = asyncio.Event()
        while True:
            try:
                async with asyncio.timeout(ttl):
                    await event.wait()
                event.clear()
            except TimeoutError:
                for _ in range(FAILURES_TO_FLIP):  # silence for a whole ttl is no single lost probe
                    self._judge(place, index, False, f"nothing was heard for {ttl:g} s")

    def _judge(self, place: Place, index: int, passed: bool, output: str) -> None:
        watched = self._watched.get(place)
        if not watched:
            return
        watched.verdicts[index] = judge(watched.verdicts[index], passed, output)
        if all(verdict.status != "unknown" for verdict in watched.verdicts):
            self._changed(place, healthy(tuple(watched.verdicts)))


def _target(check: Check) -> str:
    if check.exec is not None:
        return " ".join(check.exec)
    if check.ttl is not None:
        return f"{check.ttl.total_seconds():g}s"
    return check.http or check.tcp or check.grpc or ""
