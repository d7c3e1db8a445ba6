"""What one change costs a host in a mesh of 100, 1,000 and 10,000 services, each with ten instances.

A real agent and its real Envoy, with one service that calls 50 of the others, on SQLite, etcd and Consul (or those that the
environment variable STORES names); what both use while nothing changes is subtracted. The intention takes one of ten callers
away or gives it back, so a filter chain goes or comes. An endpoint changes in Consul's own catalog where that is the store.
Besides, without a store or an Envoy: the time that the agent's own part takes (fold, resolve, translate, cache) with 50
and 500 upstreams. `bench/fanout.py` has the many agents.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path

from bench.population import HERE, KEYS, Population, bump, changes, everything, here, populate, registering
from meshagent.agent.converge import Converger
from meshagent.model.world import World
from meshagent.state.catalog import Shelf, put_instance
from meshagent.state.fold import Fold
from meshagent.state.records import Manifest, encode
from meshagent.store.base import Changes, Put
from meshagent.telemetry.log import set_up_log
from meshagent.translate.settings import Settings
from meshagent.xds.cache import Cache
from tests.servers.either import servers
from tests.system.live import Agent, free_port, live_mesh

STORES = os.environ.get("STORES", "sqlite etcd consul").split()
SIZES = (100, 1_000, 10_000)
UPSTREAMS = 50
ROUNDS = 60
PAUSE = 0.05  # seconds between changes, so that each is alone
PURE_UPSTREAMS = (50, 500)
PURE_ROUNDS = 300


async def run() -> dict:
    """By store: figures by size and the ratios to the smallest one; and the agent's own part by number of upstreams."""
    set_up_log("warning")
    own = {f"{count} upstreams": await _own_part(count) for count in PURE_UPSTREAMS}
    for name, row in own.items():
        print(f"own part, {name:14s} " + "   ".join(f"{kind} {value:6.0f} us" for kind, value in row.items()))
    result: dict = {"own part, us": own}
    for store in STORES:
        print(f"on {store}:")
        sizes = {size: await _on(store, Population(size)) for size in SIZES}
        for name in sizes[SIZES[0]]:
            print(f"{name:44s} " + "   ".join(f"{row[name]:12.2f}" for row in sizes.values()))
        result[store] = {"by services": sizes, "ratios": _ratios(sizes)}
    return result


async def _on(store: str, population: Population) -> dict[str, float]:
    """One mesh of this size in a new store of this kind."""
    if store == "sqlite":
        return await measure(population)
    async with servers(store) as made:
        return await measure(population, made.url)


async def measure(population: Population, url: str = "") -> dict[str, float]:
    """One mesh of this size: from empty to converged, then endpoint by endpoint, intention by intention."""
    async with live_mesh(url=url) as mesh, AsyncExitStack() as stack:
        agent = await mesh.agent()
        register = await stack.enter_async_context(registering(mesh.store, url))
        agent.settings["services_dir"] = agent.directory / "services.d"
        began = time.perf_counter()
        revision = await populate(mesh.store, population, url)
        figures = {"the store filled, s": time.perf_counter() - began}
        figures["from empty to converged, s"] = await _converged(agent, population)
        await asyncio.sleep(2.0)
        figures["agent RSS, MB"] = memory(agent.process.pid)
        figures["Envoy RSS, MB"] = memory(agent.envoy_pid())
        called = population.called(UPSTREAMS)

        async def endpoint(number: int) -> None:
            name = called[number % len(called)]
            await register([population.instance(name, 0, 22000 + number)])

        async def intention(number: int) -> None:
            name = population.names[0]
            denied = population.callers(name)[0] if number % 2 == 0 else ""
            put = population.policy(name, revision + 1 + number, denied)
            await bump(mesh.store, revision + 1 + number, put)

        figures |= await _changes(agent, "endpoint", endpoint)
        figures |= await _changes(agent, "intention", intention)
        return figures


async def _converged(agent: Agent, population: Population) -> float:
    """Seconds from the registration of the caller to all its upstreams' endpoints in Envoy."""
    calls = [{"service": name, "local_port": free_port()} for name in population.called(UPSTREAMS)]
    began = time.perf_counter()
    await agent.up(name=population.names[0], port=free_port(), protocol="http", upstreams=calls)
    wanted = UPSTREAMS * population.instances
    while await asyncio.to_thread(_endpoints, agent) < wanted:
        assert time.perf_counter() - began < 30, agent.tail()
        await asyncio.sleep(0.01)
    return time.perf_counter() - began


def _endpoints(agent: Agent) -> int:
    text = agent.admin("/clusters").decode()
    return sum("out/" in line and "::cx_active::" in line for line in text.splitlines())


async def _changes(agent: Agent, kind: str, change: Callable[[int], Awaitable[None]]) -> dict[str, float]:
    """CPU and bytes for each change."""
    before, sent = (cpu(agent.process.pid), cpu(agent.envoy_pid())), _sent(agent)
    began = time.perf_counter()
    for number in range(ROUNDS):
        await change(number)
        await asyncio.sleep(PAUSE)
    await asyncio.sleep(0.3)
    took = time.perf_counter() - began
    after = (cpu(agent.process.pid), cpu(agent.envoy_pid()))
    resources, size = (now - then for now, then in zip(_sent(agent), sent, strict=True))
    assert resources >= ROUNDS, (resources, agent.tail())
    idle = await _idle(agent, took)
    return {
        f"{kind}: agent CPU, ms": 1000 * (after[0] - before[0] - idle[0]) / ROUNDS,
        f"{kind}: Envoy CPU, ms": 1000 * (after[1] - before[1] - idle[1]) / ROUNDS,
        f"{kind}: resources sent": resources / ROUNDS,
        f"{kind}: bytes sent": size / ROUNDS,
    }


async def _idle(agent: Agent, seconds: float) -> tuple[float, float]:
    """The CPU seconds that both would have taken in that time without a change."""
    before = (cpu(agent.process.pid), cpu(agent.envoy_pid()))
    await asyncio.sleep(2.0)
    after = (cpu(agent.process.pid), cpu(agent.envoy_pid()))
    return (after[0] - before[0]) * seconds / 2.0, (after[1] - before[1]) * seconds / 2.0


def _sent(agent: Agent) -> tuple[int, int]:
    types = agent.call("GET", "/v1/proxy/status")["types"].values()
    return sum(each["sent"] for each in types), sum(each["bytes_sent"] for each in types)


def _ratios(sizes: dict[int, dict[str, float]]) -> dict[str, list[float]]:
    """Of each cost of a change, to that in the smallest mesh."""
    first, found = sizes[SIZES[0]], {}
    for name in first:
        if ": " in name:
            found[name] = [row[name] / first[name] for row in sizes.values()]
            print(f"{name:44s} " + "   ".join(f"{ratio:11.2f}x" for ratio in found[name]))
    return found


async def _own_part(upstreams: int) -> dict[str, float]:
    """Median microseconds from a change of the store to the changed cache."""
    population = Population(1_000)
    locals_, interest = here(population, upstreams)
    fold, shelf = Fold(KEYS, interest), Shelf(KEYS)

    def folded(change: Changes) -> World:
        world = fold.add(change)
        for service in shelf.add(change):
            world = fold.list(shelf.listing(service))
        assert world
        return world

    world = folded(everything(population, interest))
    converger = Converger(HERE, Settings("/log"), Cache(), lambda: datetime.now(UTC))
    converger.offer(world=world, locals_=locals_)
    converger.serve(world)
    called, own = population.called(upstreams), population.names[0]
    denied = population.callers(own)[0]

    def puts(kind: str, number: int) -> list[Put]:
        if kind == "endpoint":
            return [put_instance(KEYS, population.instance(called[number % upstreams], 0, 22000 + number), None)]
        manifest = Put(KEYS.manifest, encode(Manifest(revision=2 + number)))
        return [population.policy(own, 2 + number, denied if number % 2 == 0 else ""), manifest]

    times: dict[str, list[float]] = {"endpoint": [], "intention": []}
    for kind, found in times.items():
        for number in range(PURE_ROUNDS):
            change = changes(number, puts(kind, number))
            began = time.perf_counter()
            converger.serve(folded(change))
            found.append(1e6 * (time.perf_counter() - began))
            await asyncio.sleep(0)
    return {kind: statistics.median(found) for kind, found in times.items()}


def memory(pid: int) -> float:
    """Resident megabytes of a process."""
    rows = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(row.split()[1]) for row in rows if row.startswith("VmRSS")) / 1024


def cpu(pid: int) -> float:
    """CPU seconds of a process, all threads, by its own clock (clock_getcpuclockid(3))."""
    return time.clock_gettime(~pid << 3 | 2)
