"""Follows rollouts: where they stand, for who calls; and for who runs the service, what to measure and when to go on.

Nobody leads. Every host that runs the service measures what reaches its own instances, tells the others, and judges by what
all of them tell; whoever is first writes the next word, by compare-and-set, and the others take it up. How long a step has
lasted is told by each host's own clock since it saw the step, so clocks that differ move nothing too early.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Never, Protocol

import structlog

from meshagent.agent.interrupt import until_set
from meshagent.agent.measuring import Tally, counted, pattern_of
from meshagent.agent.roster import Registered, Roster
from meshagent.envoy.counts import Counts as EnvoyCounts
from meshagent.errors import Conflict, EnvoyFailed, LeaseLost, StoreDenied, StoreUnavailable
from meshagent.model.names import Protocol as SpokenProtocol
from meshagent.model.rollout import Progress, Rollout, percent_of
from meshagent.model.world import World
from meshagent.policy.judging import Verdict, judge
from meshagent.policy.resolve import protocol_of
from meshagent.state.keys import Keys
from meshagent.state.progress import (
    MeasuredRecord,
    ProgressShelf,
    Told,
    put_measured,
    put_progress,
    serving_of,
    sums_of,
)
from meshagent.store.base import Changes, Delete, Store

_log = structlog.get_logger(__name__)
_PAUSE = (0.2, 2.0)
_OFTEN, _SELDOM = 0.25, 5.0  # seconds between two looks; between them, a tenth of a step
_LOOKS_IN_A_STEP = 10
_APART = 2  # looks that the next host in line waits for the one before it
_LONGEST_LINE = 5


class Counting(Protocol):
    """What Envoy is asked. Raises EnvoyFailed."""

    async def counts(self, pattern: str) -> EnvoyCounts:
        """Counters and distributions whose names match."""

    async def errors(self, pattern: str) -> dict[str, int]:
        """How many requests failed, by cluster whose name matches."""


@dataclass(slots=True)
class _Judged:
    """What this host knows of one rollout of a service that it runs."""

    turn: tuple[str, int] = ("", 0)
    seen_at: float = 0.0  # by the event loop's clock, when the turn was seen
    tally: Tally = field(default_factory=Tally)
    told: tuple[MeasuredRecord, str] | None = None  # what the store has of this host, and with which lease
    waited: tuple[Verdict, int] | None = (
        None  # a verdict that somebody before this host may write, and for how many looks
    )


class Rollouts:
    """`now` is where every rollout stands, as far as is known; `changed` is called after every change of it.

    While the store is away nothing moves. A word that names an earlier turn of the same rollout is not heeded.
    """

    def __init__(
        self,
        store: Store,
        keys: Keys,
        host: str,
        known: Mapping[str, Progress],
        roster: Roster,
        lease: Callable[[], str],
        envoy: Counting,
        changed: Callable[[], None],
        clock: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._keys = keys
        self._host = host
        self._roster = roster
        self._lease = lease
        self._envoy = envoy
        self._changed = changed
        self._clock = clock
        self._shelf = ProgressShelf(keys)
        self._wanted: tuple[str, ...] = ()
        self._moved = asyncio.Event()
        self._judged: dict[str, _Judged] = {}
        self._lost = self._untold = ""
        self.world: World | None = None
        self.now: Mapping[str, Progress] = dict(known)

    @property
    def problems(self) -> dict[str, str]:
        """What stands in the way, by key or part."""
        told = {"rollouts": self._lost, "rollouts/own": self._untold}
        return self._shelf.problems | {part: problem for part, problem in told.items() if problem}

    def rows(self) -> list[dict[str, Any]]:
        """Where each rollout that concerns this host stands, as plain data."""
        found = []
        for name, rollout in sorted(self._rollouts().items()):
            held = self.now.get(name)
            known = held if held and held.run == rollout.run else None
            phase, percent = known.phase if known else "awaited", percent_of(rollout, known)
            found.append({"service": name, "to": rollout.to, "phase": phase, "percent": percent})
        return found

    def look(self, world: World | None = None) -> None:
        """There is a new world, or the services of this host have changed."""
        self.world = world or self.world
        if (wanted := self._prefixes()) != self._wanted:
            self._wanted = wanted
            self._moved.set()

    async def run(self) -> Never:
        """Follow and judge, for ever. Without a rollout nothing is asked of anybody."""
        while True:
            self._moved.clear()
            try:
                if self._wanted:
                    await until_set(self._moved, self._both(self._wanted))
                else:
                    await self._look_at({})
                    self._lost = ""
                    await self._moved.wait()
            except (StoreUnavailable, StoreDenied) as error:
                self._lose(str(error))
                await asyncio.sleep(random.uniform(*_PAUSE))  # noqa: S311 - jitter

    async def _both(self, prefixes: tuple[str, ...]) -> None:
        snapshot = await self._store.read(*prefixes)
        if self._lost:
            self._lost = ""
            self._judged.clear()
        self._take(Changes(snapshot.revision, tuple(snapshot.entries.values()), full=True))
        tasks = (
            asyncio.create_task(self._follow(prefixes, snapshot.revision)),
            asyncio.create_task(self._judge()),
        )
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome

    async def _follow(self, prefixes: tuple[str, ...], after: int) -> None:
        async for changes in self._store.watch(prefixes, after=after):
            self._take(changes)

    def _take(self, changes: Changes) -> None:
        self._shelf.add(changes)
        told = {name: self._newest(name, rollout) for name, rollout in self._rollouts().items()}
        now = {name: progress for name, progress in told.items() if progress}
        if now != self.now:
            self.now = now
            self._changed()

    def _newest(self, service: str, rollout: Rollout) -> Progress | None:
        """The word that counts: one on this rollout rather than on an earlier one, and of two the later one."""
        found, held = self._shelf.told(service).progress, self.now.get(service)
        if found is None or held is None:
            return held or found
        if (held.run == rollout.run) != (found.run == rollout.run):
            return held if held.run == rollout.run else found
        return held if held.run == found.run and held.turn > found.turn else found

    # --- what this host runs

    async def _judge(self) -> Never:
        while True:
            running = {name: rollout for name, rollout in self._rollouts().items() if name in self._here()}
            try:
                await self._look_at(running)
                self._untold = ""
            except (Conflict, LeaseLost) as error:
                _log.debug("rollout_not_told", problem=str(error))
            except (StoreUnavailable, StoreDenied) as error:
                self._untold = str(error)
                self._judged.clear()  # others told nothing meanwhile either: every host begins its step again
            except EnvoyFailed as error:
                self._untold = str(error)
            every = min((each.every for each in running.values() if not each.decided), default=timedelta(minutes=1))
            pause = min(max(every.total_seconds() / _LOOKS_IN_A_STEP, _OFTEN), _SELDOM)
            await asyncio.sleep(pause * random.uniform(0.9, 1.1))  # noqa: S311 - jitter

    async def _look_at(self, running: Mapping[str, Rollout]) -> None:
        open_ = {name: each for name, each in running.items() if self._is_open(name, each)}
        counts, errors = await self._read(open_)
        for name, rollout in running.items():
            await self._put_back(name, rollout)
        for name in self._judged.keys() - open_.keys():
            await self._withdraw(name)
        for name, rollout in open_.items():
            judged = self._judged.setdefault(name, _Judged())
            places = [(name, each.definition.instance_id) for each in self._locals(name)]
            judged.tally.add({place: counted(counts, place, errors.get("/".join(place), 0)) for place in places})
            await self._go_on(name, rollout, judged)

    async def _read(self, open_: Mapping[str, Rollout]) -> tuple[EnvoyCounts, dict[str, int]]:
        """What Envoy counted, and the errors of gRPC by `service/instance`. Without a rollout it is not asked."""
        counts = await self._envoy.counts(pattern_of(open_)) if open_ else EnvoyCounts({}, {})
        spoken = {name: protocol_of(self.world, name, self._registered(name)) for name in open_} if self.world else {}
        grpc = "|".join(sorted(name for name, protocol in spoken.items() if protocol == "grpc"))
        errors = await self._envoy.errors(f"^app/({grpc})/") if grpc else {}
        return counts, {cluster.removeprefix("app/"): count for cluster, count in errors.items()}

    async def _put_back(self, service: str, rollout: Rollout) -> None:
        """A store that forgot, or is another one now, gets the word that counts."""
        held, told = self.now.get(service), self._shelf.told(service)
        if held and held.run == rollout.run and held != told.progress:
            await self._store.commit(put_progress(self._keys, service, held, told.revision))

    async def _go_on(self, service: str, rollout: Rollout, judged: _Judged) -> None:
        held, told = self.now.get(service), self._shelf.told(service)
        turn = (held.run, held.turn) if held and held.run == rollout.run else (rollout.run, 0)
        loop = asyncio.get_running_loop()
        if turn != judged.turn:
            judged.turn, judged.seen_at, judged.waited = turn, loop.time(), None
            judged.tally.begin()
        own = self._measured(service, rollout, judged)
        await self._tell(service, judged, own)
        others = {host: each for host, each in told.measured.items() if (each.run, each.turn) == (own.run, own.turn)}
        every = {**others, self._host: own}
        elapsed = timedelta(seconds=loop.time() - judged.seen_at)
        verdict = judge(rollout, held, sums_of(every.values()), serving_of(every.values()), elapsed)
        if verdict.phase is None or not self._is_next(judged, verdict, every):
            return
        await self._write(service, rollout, verdict, held, told)

    def _is_next(self, judged: _Judged, verdict: Verdict, hosts: Collection[str]) -> bool:
        """Whether it is for this host to write: the first in line at once, each other when those before it did not."""
        place = min(sorted(hosts).index(self._host), _LONGEST_LINE)
        looks = judged.waited[1] if judged.waited and judged.waited[0].phase == verdict.phase else 0
        judged.waited = (verdict, looks + 1)
        return looks >= place * _APART

    async def _write(self, service: str, rollout: Rollout, verdict: Verdict, held: Progress | None, told: Told) -> None:
        if verdict.phase is None:
            return
        before = held.turn if held and held.run == rollout.run else 0
        progress = Progress(
            run=rollout.run,
            turn=before + 1,
            phase=verdict.phase,
            step=verdict.step,
            since=self._clock(),
            host=self._host,
            why=verdict.why,
        )
        await self._store.commit(put_progress(self._keys, service, progress, told.revision))
        share = percent_of(rollout, progress)
        _log.info("rollout_moved", service=service, phase=verdict.phase, percent=share, reason=verdict.why)

    def _measured(self, service: str, rollout: Rollout, judged: _Judged) -> MeasuredRecord:
        """What this host tells the others."""
        subsets = {subset: self._instances(service, subset) for subset in (rollout.base, rollout.to)}
        serving = [
            subset for subset, found in subsets.items() if any(each.healthy and not each.draining for each in found)
        ]
        counts = {
            subset: judged.tally.of((service, each.definition.instance_id) for each in found)
            for subset, found in subsets.items()
            if found
        }
        run, turn = judged.turn
        return MeasuredRecord(run=run, turn=turn, serving=serving, counts=counts)

    async def _tell(self, service: str, judged: _Judged, own: MeasuredRecord) -> None:
        lease = self._lease()
        if lease and judged.told != (own, lease):
            await self._store.commit([put_measured(self._keys, service, self._host, own, lease)])
            judged.told = (own, lease)

    async def _withdraw(self, service: str) -> None:
        """Take out what this host told, when there is nothing to judge any more."""
        if self._judged[service].told:
            await self._store.commit([Delete(self._keys.measured(service, self._host))])
        del self._judged[service]

    # --- what this host knows

    def _is_open(self, service: str, rollout: Rollout) -> bool:
        held = self.now.get(service)
        return not rollout.decided and (held is None or held.run != rollout.run or held.phase == "running")

    def _rollouts(self) -> dict[str, Rollout]:
        return {name: stated.thing for name, stated in self.world.rollouts.items()} if self.world else {}

    def _here(self) -> frozenset[str]:
        return frozenset(each.definition.name for each in self._roster.registered.values())

    def _locals(self, service: str) -> list[Registered]:
        return [each for each in self._roster.registered.values() if each.definition.name == service]

    def _registered(self, service: str) -> SpokenProtocol | None:
        return next((each.definition.protocol for each in self._locals(service)), None)

    def _instances(self, service: str, subset: str) -> list[Registered]:
        stated = self.world.services.get(service) if self.world else None
        found = self._locals(service) if stated else []
        return [each for each in found if stated and subset in stated.thing.subsets_of(each.definition.meta)]

    def _prefixes(self) -> tuple[str, ...]:
        """Who runs a service follows all that is told of its rollout, who calls it only where that stands."""
        here = self._here()
        return tuple(
            self._keys.rollout(name) if name in here else self._keys.progress(name) for name in sorted(self._rollouts())
        )

    def _lose(self, problem: str) -> None:
        if problem != self._lost:
            _log.warning("rollouts_not_followed", problem=problem)
        self._lost = problem
