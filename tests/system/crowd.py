"""Many agents in one process, for what a store has to bear: each with its own connection, lease, watches and view.

They have no Envoy; what an agent asks of its store is the same. `python -m tests.system.crowd URL FIRST COUNT` makes them,
starts all at once when it is told to, and says when each of them was ready.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from datetime import UTC, datetime

from meshagent.agent.membership import Membership
from meshagent.agent.pace import chance_of, start_pause
from meshagent.agent.upstreams import Upstreams
from meshagent.agent.watching import Watching
from meshagent.catalog.base import Offer
from meshagent.model.service import Instance, ServiceDefinition
from meshagent.model.world import World
from meshagent.state.keys import Interest, Keys
from meshagent.state.reach import TTL, catalog_at
from meshagent.state.records import ReportRecord
from meshagent.store import open_store
from meshagent.store.access import Access
from meshagent.store.base import Store
from meshagent.store.lazy import LazyStore
from meshagent.telemetry.log import set_up_log

KEYS = Keys()
UPSTREAMS = 5
SIZE = 100
JUST_BOOTED = 20.0  # seconds ago


class Bystander:
    """One host: a service of its own that calls five others of the crowd."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.host = f"crowd-{number}"
        called = frozenset(f"crowd-{(number + step) % SIZE}" for step in range(1, UPSTREAMS + 1))
        self._interest = Interest(frozenset({self.host}), called)
        self._chance = chance_of(self.host)
        self._moved = asyncio.Event()
        self.world: World | None = None

    async def run(self, url: str) -> float:
        """Start, and say when (monotonic) all was read, all that it calls was there and all of its own was known."""
        store = LazyStore(lambda: self._open(url))
        catalog = catalog_at(url, Access(), store, KEYS)
        watching = Watching(store, KEYS, None, self._take, lambda: datetime.now(UTC))
        upstreams = Upstreams(catalog, watching, TTL)
        watching.on_upstreams = upstreams.want
        watching.narrow(self._interest)
        self._membership = Membership(store, KEYS, catalog, TTL)
        loops = (watching.run(), watching.run_health(), upstreams.run(), self._membership.run())
        self.tasks = [asyncio.create_task(loop) for loop in loops]
        await watching.complete()
        await self._until_called()
        await self._membership.settled()
        return time.monotonic()

    async def _open(self, url: str) -> Store:
        await asyncio.sleep(start_pause(JUST_BOOTED, self._chance))
        return await open_store(url)

    async def _until_called(self) -> None:
        while not self.world or not all(self.world.instances.get(name) for name in self._interest.upstreams):
            self._moved.clear()
            await self._moved.wait()

    def _take(self, world: World) -> None:
        first, self.world = self.world is None, world
        self._moved.set()
        if first:
            instance = Instance(service=self.host, host=self.host, id=self.host, address="10.1.0.1", port=21000)
            definition = ServiceDefinition(name=self.host, port=8080)
            self._membership.offer({(self.host, self.host): Offer(instance, definition)})
        now = datetime.now(UTC)
        report = ReportRecord(host=self.host, revision=world.revision, services=[], agent_version="1", at=now)
        self._membership.report(report, urgent=first)


async def main(url: str, first: int, count: int) -> None:
    set_up_log("error")
    crowd = [Bystander(number) for number in range(first, first + count)]
    print("here", flush=True)
    assert await asyncio.to_thread(sys.stdin.readline) == "go\n"
    ready = await asyncio.gather(*(each.run(url) for each in crowd))
    print(json.dumps(ready), flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    for each in crowd:
        for task in each.tasks:
            task.cancel()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
