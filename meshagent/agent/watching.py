"""Follows policy in the store: what this host needs to know, as the newest World, with last-known-good through any outage."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Never

import structlog

from meshagent.agent.interrupt import until_set
from meshagent.catalog.base import Listing
from meshagent.errors import StoreDenied, StoreUnavailable
from meshagent.model.world import World
from meshagent.state.fold import Fold, went_back
from meshagent.state.keys import Interest, Keys
from meshagent.state.outside import refuse_outside
from meshagent.state.signing import Trust
from meshagent.store.base import Changes, Store

_log = structlog.get_logger(__name__)
_LONGEST_PAUSE = 1.0
_HEALTH_EVERY = (5.0, 8.0)
_HEALTH_EVERY_WHILE_LOST = (1.0, 2.0)
_ANSWER_SECONDS = 1.0  # for a person who waits
_LONGEST_START = timedelta(seconds=2)  # an agent that waited longer for its store has started during an outage


class Watching:
    """One loop that reads and watches the prefixes of interest. `on_world` gets each new World.

    With `trust`, policy counts only when one of its keys signed it; `keys.signed` says so too. `here` is this host's
    address, which tells which instances' addresses cannot be right.
    """

    def __init__(
        self,
        store: Store,
        keys: Keys,
        last_good: World | None,
        on_world: Callable[[World], None],
        clock: Callable[[], datetime],
        trust: Trust | None = None,
        here: str = "",
    ) -> None:
        self._store = store
        self._keys = keys
        self._fold = Fold(keys, Interest(), last_good, trust, here)
        self._on_world = on_world
        self._clock = clock
        self._interest = Interest()  # without what routes lead to, which the fold says
        self._followed = Interest()  # what is followed, with that
        self._moved = asyncio.Event()
        self._complete = asyncio.Event()
        self._told: dict[str, str] = {}
        self.stale_since: datetime | None = clock()
        self.heard_at: datetime | None = None  # the last word of the store
        self.outage_ended = float("-inf")  # by the event loop's clock: hosts need their time to register again
        self.on_upstreams: Callable[[frozenset[str]], None] = lambda _: None

    @property
    def world(self) -> World | None:
        """The World in force."""
        return self._fold.world

    @property
    def problems(self) -> dict[str, str]:
        """What of the store could not be used, by key."""
        return self._fold.problems

    def narrow(self, interest: Interest) -> None:
        """Say what this host needs to know. The next World is complete for it."""
        if interest != self._interest:
            self._interest = interest
            self._moved.set()

    async def complete(self) -> None:
        """Wait until the store was read whole once."""
        await self._complete.wait()

    def list(self, listing: Listing) -> None:
        """Take in the instances of an upstream."""
        self._tell(lambda: self._fold.list(listing))

    async def believable(self) -> bool:
        """Whether the store holds this mesh at this moment, and not the nothing of one that lost its data.

        Raises StoreUnavailable, StoreDenied.
        """
        entry = (await self._store.read(self._keys.manifest)).entries.get(self._keys.manifest)
        return entry is not None and not went_back(entry.value, self._fold.world)

    async def refuse_outside(self, name: str) -> None:
        """Raise UsageProblem where no service can have the name, since it is outside the mesh. A silent store refuses nothing."""
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                await refuse_outside(self._store, self._keys, name)
        except (StoreUnavailable, StoreDenied, TimeoutError) as error:
            _log.info("name_not_checked", service=name, problem=str(error) or "the store does not answer")

    async def run(self) -> Never:
        """Follow, for ever."""
        attempt = 0
        while True:
            self._moved.clear()
            try:
                await until_set(self._moved, self._follow())
            except (StoreUnavailable, StoreDenied) as error:
                attempt = 0 if self.stale_since is None else attempt + 1
                self._stale(str(error))
                await asyncio.sleep(random.uniform(0.05, min(_LONGEST_PAUSE, 0.1 * 2**attempt)))  # noqa: S311 - jitter

    async def run_health(self) -> Never:
        """Ask now and then whether the store still answers: a watch alone waits in silence."""
        while True:
            every = _HEALTH_EVERY if self.stale_since is None else _HEALTH_EVERY_WHILE_LOST
            await asyncio.sleep(random.uniform(*every))  # noqa: S311 - jitter
            try:
                health = await self._store.check()
            except (StoreUnavailable, StoreDenied) as error:
                self._stale(str(error))
                continue
            self.heard_at = self._clock()
            if not health.ok:
                self._stale("; ".join(health.problems))
            elif self._complete.is_set() and self.stale_since is not None:
                self._fresh()

    async def _follow(self) -> None:
        called = self._interest.upstreams | self._fold.called
        beyond = self._fold.beyond - called
        interest = replace(self._interest, upstreams=called, beyond=beyond, outside=self._fold.outside)
        prefixes = interest.prefixes(self._keys)
        snapshot = await self._store.read(*prefixes)
        self._fold.narrow(interest)
        self.on_upstreams(interest.reached)
        self._followed = interest
        self._take(Changes(snapshot.revision, tuple(snapshot.entries.values()), full=True))
        self._fresh()
        self._complete.set()
        gates = (self._keys.manifest, self._keys.bundle)  # no policy counts before the manifest says so
        async for changes in self._store.watch(prefixes, after=snapshot.revision, gates=gates):
            self._take(changes)

    def _take(self, changes: Changes) -> None:
        self.heard_at = self._clock()
        self._tell(lambda: self._fold.add(changes))

    def _tell(self, fold: Callable[[], World | None]) -> None:
        before = self._fold.world
        world = fold()
        self._tell_problems()
        if self._goes_further():
            self._moved.set()
        if world is not None and world is not before:
            self._on_world(world)

    def _goes_further(self) -> bool:
        """Whether a route or gateway leads to services that are not followed yet, or an upstream out of the mesh."""
        fold, followed = self._fold, self._followed
        further = fold.beyond - followed.beyond, fold.outside - followed.outside, fold.called - followed.upstreams
        return any(further)

    def _tell_problems(self) -> None:
        for key, problem in self._fold.problems.items():
            if self._told.get(key) == problem:
                continue
            if self._fold.world is None:
                _log.info("mesh_awaited", key=key, problem=problem)
            else:
                _log.error("record_unusable", key=key, problem=problem)
        self._told = dict(self._fold.problems)

    def _stale(self, problem: str) -> None:
        if self.stale_since is None or not self._told.get("store"):
            self.stale_since = self.stale_since or self._clock()
            self._told["store"] = problem
            _log.error("store_lost", problem=problem)

    def _fresh(self) -> None:
        self._told.pop("store", None)
        if self.stale_since is not None:
            if self._complete.is_set() or self._clock() - self.stale_since > _LONGEST_START:
                self.outage_ended = asyncio.get_running_loop().time()
            _log.info("store_followed", stale_since=self.stale_since.isoformat())
        self.stale_since = None
