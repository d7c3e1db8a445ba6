"""One change reaches hundreds of agents: the time until each of them has worked out what follows from it.

The agents are simulated in a few processes on this machine: each has its own connection to the store, its own watch, fold
and view, and no Envoy. They share the machine with the store's server, so on a few cores the figures are upper bounds:
nearly all of the time is the agents' own work, which 500 hosts would do at once.
"""

from __future__ import annotations

import asyncio
import json
import random
import statistics
import sys
import tempfile
import time
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta

from bench.population import HERE, KEYS, Population, populate
from bench.scale import cpu
from meshagent.agent.upstreams import Upstreams
from meshagent.agent.watching import Watching
from meshagent.catalog.base import Offer
from meshagent.model.identity import TrustBundle
from meshagent.model.mesh import Mesh
from meshagent.model.service import ServiceDefinition
from meshagent.model.world import Local, World
from meshagent.policy.resolve import Resolved, resolve_next
from meshagent.state.changes import Author
from meshagent.state.foundation import lay_foundation
from meshagent.state.keys import Interest
from meshagent.state.reach import TTL, catalog_at
from meshagent.state.records import Manifest, PolicyRecord, encode
from meshagent.store import open_store
from meshagent.store.access import Access
from meshagent.store.base import Put, Store
from meshagent.telemetry.log import set_up_log
from tests.servers import consul, etcd

AGENTS = {"sqlite": 200, "etcd": 500, "consul": 500}  # one machine's file is not shared by more
PROCESSES = 4
UPSTREAMS = 5
ROUNDS = 30
PAUSE = 0.3  # seconds between changes; and each is seen by all before the next
MESH = Population(100)
COMMON = MESH.names[0]  # a service that every agent calls
COLUMN = {"intention": 1, "endpoint": 2}  # of what an agent has seen: (time, revision, port)
_PATIENCE = 60.0


async def run() -> dict:
    """{store: {kind of change: {p50_ms, p99_ms, last_ms, …}}}."""
    result = {}
    async with stores() as urls:
        for name, (url, pids) in urls.items():
            result[name] = await measure(url, pids, AGENTS[name])
            for kind, row in result[name].items():
                times = "   ".join(f"{key} {value:7.1f}" for key, value in row.items())
                print(f"{name:8s} {AGENTS[name]} agents, {kind:10s} {times}")
    return result


@asynccontextmanager
async def stores():
    """{name: (URL, pids of its servers)}, all empty."""
    async with AsyncExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="fanout-"))
        limits = {"limits": {"http_max_conns_per_client": 15_000}}
        one = stack.enter_context(etcd.servers())
        other = stack.enter_context(consul.servers(settings=limits))
        yield {
            "sqlite": (f"sqlite://{directory}/mesh.db", []),
            "etcd": (one.url, [each.process.pid for each in one.members]),
            "consul": (other.url, [each.process.pid for each in other.nodes]),
        }


async def measure(url: str, pids: list[int], agents: int) -> dict[str, dict[str, float]]:
    """Both kinds of change on one store, whose servers are `pids`."""
    store = await open_store(url)
    author = Author("bench", datetime.now(UTC))
    await lay_foundation(store, KEYS, Mesh(), TrustBundle((("mesh.internal", ()),)), author)
    revision = await populate(store, MESH, url)
    share = agents // PROCESSES
    workers = [await _start(url, number * share, share) for number in range(PROCESSES)]
    try:
        async with asyncio.timeout(_PATIENCE):
            for worker in workers:
                assert await worker.stdout.readline() == b"ready\n"
        rows = {}
        for kind in ("endpoint", "intention"):
            await asyncio.sleep(2.0)
            async with asyncio.timeout(_PATIENCE * ROUNDS / 3):
                rows[kind] = await _changes(kind, url, store, revision, pids, workers)
    finally:
        for worker in workers:
            worker.stdin.close()
        texts = [await worker.stdout.read() for worker in workers]
        await asyncio.gather(*(worker.wait() for worker in workers))
        await store.close()
    seen = [each for text in texts for each in json.loads(text)]
    assert len(seen) == share * PROCESSES
    return {kind: _row(row, seen, COLUMN[kind]) for kind, row in rows.items()}


async def _start(url: str, first: int, count: int) -> asyncio.subprocess.Process:
    command = [sys.executable, "-m", "bench.fanout", url, str(first), str(count)]
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, limit=1 << 20)


async def _changes(kind: str, url: str, store: Store, revision: int, pids: list[int], workers) -> dict:
    """When each change was sent and what marks it, and the CPU seconds of servers and agents for all of them."""
    sent = []
    catalog = catalog_at(url, Access(), store, KEYS)
    lease = await store.lease(timedelta(hours=1))
    before = [sum(map(cpu, pids)), sum(cpu(worker.pid) for worker in workers)]
    for number in range(1, ROUNDS + 1):
        mark = revision + number if kind == "intention" else 22000 + number
        sent.append((time.monotonic(), mark))
        if kind == "intention":
            await store.commit(_intention(mark))
        else:
            await catalog.register([_offer(mark)], lease.id)
        for worker in workers:
            worker.stdin.write(f"{kind} {mark}\n".encode())
        for worker in workers:
            assert await worker.stdout.readline() == b"seen\n"
        await asyncio.sleep(PAUSE)
    after = [sum(map(cpu, pids)), sum(cpu(worker.pid) for worker in workers)]
    await catalog.close()
    return {"sent": sent, "server": after[0] - before[0], "agents": after[1] - before[1]}


def _offer(port: int) -> Offer:
    """An instance of the service that all call, on another port."""
    definition = ServiceDefinition(name=COMMON, port=8080, protocol="http")
    return Offer(MESH.instance(COMMON, 0, port), definition)


def _intention(revision: int) -> list[Put]:
    """One that concerns every host."""
    rows = [{"name": COMMON, "action": "deny" if revision % 2 else "allow"}]
    document = {"kind": "intention", "name": "*", "sources": rows}
    record = PolicyRecord(revision=revision, document=document)
    return [
        Put(KEYS.document("intention", "*"), encode(record)),
        Put(KEYS.manifest, encode(Manifest(revision=revision))),
    ]


def _row(changes: dict, seen: list[list[list[float]]], column: int) -> dict[str, float]:
    """`seen`: of each agent, each (time, revision, port) that it worked out, in order."""
    times, last = [], []
    for sent, mark in changes["sent"]:
        found = [next(row[0] - sent for row in rows if row[column] >= mark) for rows in seen]
        times += found
        last.append(max(found))
    ordered = sorted(times)
    return {
        "p50_ms": 1000 * statistics.median(ordered),
        "p99_ms": 1000 * ordered[int(0.99 * len(ordered))],
        "last_p50_ms": 1000 * statistics.median(last),
        "last_max_ms": 1000 * max(last),
        "server_cpu_ms": 1000 * changes["server"] / ROUNDS,
        "one_agent_cpu_ms": 1000 * changes["agents"] / ROUNDS / len(seen),
    }


class SimulatedAgent:
    """Follows the store as an agent does, up to the view that it would serve."""

    def __init__(self, number: int) -> None:
        service = MESH.names[1 + number % (MESH.services - 1)]
        called = {COMMON, *random.Random(number).sample(MESH.names, UPSTREAMS - 1)} - {service}
        calls = [{"service": name, "local_port": 13000 + place} for place, name in enumerate(sorted(called))]
        definition = {"name": service, "port": 8080, "protocol": "http", "upstreams": calls}
        self._locals = (Local(ServiceDefinition.model_validate(definition), 21000),)
        self._interest = Interest(frozenset({service}), frozenset(called))
        self._resolved: Resolved | None = None
        self._store: Store | None = None
        self._moved = asyncio.Event()
        self.seen: list[tuple[float, int, int]] = []

    async def start(self, url: str) -> None:
        """Returns when the store was read once."""
        self._store = await open_store(url)
        watching = Watching(self._store, KEYS, None, self._take, lambda: datetime.now(UTC))
        self._catalog = catalog_at(url, Access(), self._store, KEYS)
        upstreams = Upstreams(self._catalog, watching, TTL)
        watching.on_upstreams = upstreams.want
        watching.narrow(self._interest)
        self._tasks = [asyncio.create_task(each.run()) for each in (watching, upstreams)]
        await watching.complete()

    async def until(self, kind: str, mark: int) -> None:
        """Wait until the change is worked out."""
        while self.seen[-1][COLUMN[kind]] < mark:
            self._moved.clear()
            await self._moved.wait()

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)
        await self._catalog.close()
        await self._store.close()

    def _take(self, world: World) -> None:
        self._resolved = resolve_next(world, HERE, self._locals, self._resolved, datetime.now(UTC))
        port = max((each.port for each in world.instances.get(COMMON, ())), default=0)
        self.seen.append((time.monotonic(), world.revision, port))
        self._moved.set()


async def work(url: str, first: int, count: int) -> None:
    """`count` agents. Each line of input names a change, and is answered when all have seen it; the end is the end."""
    set_up_log("warning")
    agents = [SimulatedAgent(number) for number in range(first, first + count)]
    for agent in agents:
        await agent.start(url)
    print("ready", flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        kind, mark = line.split()
        for agent in agents:
            await agent.until(kind, int(mark))
        print("seen", flush=True)
    for agent in agents:
        await agent.stop()
    print(json.dumps([agent.seen for agent in agents]), flush=True)


if __name__ == "__main__":
    asyncio.run(work(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
