"""Follows the catalog: the instances of the upstreams, and what of them is to be believed after an outage."""

from __future__ import annotations

import asyncio
import random
from contextlib import aclosing
from dataclasses import replace
from datetime import timedelta
from typing import Never

import structlog

from meshagent.agent.interrupt import until_set
from meshagent.agent.watching import Watching
from meshagent.catalog.base import Catalog, Listing
from meshagent.errors import StoreDenied, StoreUnavailable
from meshagent.model.service import Instance
from meshagent.state.listings import doubted, shrinks

_log = structlog.get_logger(__name__)
_LONGEST_PAUSE = 1.0
_ASK_AGAIN = 0.5


class Upstreams:
    """Hands listings on to `policy`, which makes the World.

    What a listing takes away counts only while the store holds this mesh, and not within `grace` (how long silence of a
    host means that it lives) after an outage: a catalog that lost its data, or could not be told for a while who lives,
    would else take everything out of service at once.
    """

    def __init__(self, catalog: Catalog, policy: Watching, grace: timedelta) -> None:
        self._catalog = catalog
        self._policy = policy
        self._grace = grace.total_seconds()
        self._services: frozenset[str] = frozenset()
        self._moved = asyncio.Event()
        self._news = asyncio.Event()
        self._pending: dict[str, Listing] = {}
        self.problem = ""

    def want(self, services: frozenset[str]) -> None:
        """Say which services to follow."""
        if services != self._services:
            self._services = services
            self._pending = {name: each for name, each in self._pending.items() if name in services}
            self._moved.set()

    async def run(self) -> Never:
        """Follow, for ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._settle())
            await self._follow()
        raise AssertionError("follows for ever")

    async def _follow(self) -> Never:
        attempt = 0
        while True:
            self._moved.clear()
            if not self._services:
                await self._moved.wait()
                continue
            try:
                await until_set(self._moved, self._watch(self._services))
                attempt = 0
            except (StoreUnavailable, StoreDenied) as error:
                self._lost(str(error))
                await asyncio.sleep(random.uniform(0.05, min(_LONGEST_PAUSE, 0.1 * 2**attempt)))  # noqa: S311 - jitter
                attempt = min(attempt + 1, 10)

    async def _watch(self, services: frozenset[str]) -> None:
        async with aclosing(self._catalog.watch(services)) as listings:
            async for listing in listings:
                self._lost("")
                self._pending[listing.service] = listing
                self._news.set()
        await asyncio.Event().wait()  # the catalog is closed

    async def _settle(self) -> Never:
        """Pass on what came; what is doubted is looked at again."""
        while True:
            try:
                async with asyncio.timeout(_ASK_AGAIN if self._pending else None):
                    await self._news.wait()
            except TimeoutError:
                pass
            self._news.clear()
            listings = dict(self._pending)
            certain = await self._certain(listings)
            for name, listing in listings.items():
                if name not in self._services:
                    continue
                told = listing.instances
                self._policy.list(replace(listing, instances=told if certain else doubted(self._held(name), told)))
                if certain and self._pending.get(name) is listing:
                    del self._pending[name]

    async def _certain(self, listings: dict[str, Listing]) -> bool:
        """Whether what the listings take away is gone."""
        now = asyncio.get_running_loop().time()
        if self._policy.stale_since is not None or now < self._policy.outage_ended + self._grace:
            return not any(self._worsens(each) for each in listings.values())
        if not any(shrinks(self._held(each.service), each.instances) for each in listings.values()):
            return True
        try:
            return await self._policy.believable()
        except (StoreUnavailable, StoreDenied):
            return False

    def _worsens(self, listing: Listing) -> bool:
        return doubted(self._held(listing.service), listing.instances) != listing.instances

    def _held(self, service: str) -> tuple[Instance, ...]:
        world = self._policy.world
        return world.instances.get(service, ()) if world else ()

    def _lost(self, problem: str) -> None:
        """Log once that the catalog is lost, or followed again."""
        if problem and problem != self.problem:
            _log.error("catalog_lost", problem=problem)
        elif self.problem and not problem:
            _log.info("catalog_followed")
        self.problem = problem
