"""From a commit to its effect, on every store side by side: an intention, a route, an instance that appears.

The clock starts when the commit is sent and stops with the first answer of the new rule, on a keep-alive connection that is
open all the while. Beside each store's rows stands the bare store (from the commit until a watch of another client has it),
idle and beside the same stream of requests, which takes most of two cores; and one request while nothing changes. Consul's
own mesh is measured by new connections, for it leaves open ones alone.
"""

from __future__ import annotations

import asyncio
import os
import signal
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

from bench.consul_mesh import own_mesh
from meshagent.catalog.base import Offer
from meshagent.model.service import ServiceDefinition
from meshagent.state.reach import catalog_at
from meshagent.store import open_store
from meshagent.store.base import Put
from tests.servers import consul, etcd
from tests.system.apps import Caller, HttpApp
from tests.system.live import KEYS, free_port, live_mesh

CHANGES = 200
PAUSE = 0.04  # seconds between changes: each is seen alone


async def run() -> dict:
    """{store: {what: {p50_ms, p99_ms, max_ms, n}}}."""
    result = {}
    async with stores() as (urls, consul_servers):
        for name, url in urls.items():
            result[name] = await measure(url)
            show(name, result[name])
        own = "Consul's own mesh"
        result[own] = {"intention, new connection": row(await own_mesh(consul_servers, CHANGES, PAUSE))}
        show(own, result[own])
    return result


@asynccontextmanager
async def stores() -> AsyncIterator[tuple[dict[str, str], consul.Servers]]:
    """The URL of each store, "" for a file of the mesh's own; and Consul's servers, with its mesh switched on."""
    with consul.servers(settings={"connect": {"enabled": True}}) as consul_servers, etcd.servers() as etcd_servers:
        yield {"sqlite": "", "etcd": etcd_servers.url, "consul": consul_servers.url}, consul_servers


async def measure(url: str) -> dict:
    """All rows of one store."""
    async with live_mesh(url=url) as mesh:
        agent = await mesh.agent()
        app_port, local = free_port(), free_port()
        async with HttpApp(app_port, "one"):
            await agent.up(name="payments", port=app_port, protocol="http")
            upstreams = [{"service": "payments", "local_port": local}]
            await agent.up(name="web", port=free_port(), protocol="http", upstreams=upstreams)
            await mesh.applied(await mesh.intend("payments", web="allow"))
            return {
                "one request (control)": await _control(local),
                "the bare store": await _bare(mesh),
                "the bare store, same load": await _loaded(mesh, local),
                "intention": await _flips(mesh, local),
                "route": await _routes(mesh, local),
                "endpoint": await _endpoints(mesh),
            }


def show(name: str, rows: dict) -> None:
    """Print rows."""
    for what, each in rows.items():
        times = "   ".join(f"{key} {each[f'{key}_ms']:6.2f} ms" for key in ("p50", "p99", "max"))
        print(f"{name:18s} {what:26s} {times}   n {each['n']}")


class Clock:
    """Notes when the last commit of a store was sent."""

    def __init__(self, store) -> None:
        self.sent = 0.0
        self._store, self._commit = store, store.commit
        store.commit = self._noted

    async def _noted(self, operations):
        self.sent = time.perf_counter()
        return await self._commit(operations)

    def stop(self) -> None:
        self._store.commit = self._commit


async def _control(local: int) -> dict:
    caller, times = Caller(local), []
    for _ in range(CHANGES):
        began = time.perf_counter()
        assert (await caller.get()).status == 200
        times.append(time.perf_counter() - began)
        await asyncio.sleep(0.005)
    caller.close()
    return row(times)


async def _bare(mesh) -> dict:
    """The floor of all that follows."""
    key, times, seen = f"{KEYS.root}bench/probe", [], asyncio.Event()
    other = await open_store(mesh.url)

    async def watch() -> None:
        async for _ in other.watch((key,), after=(await other.read(key)).revision):
            seen.set()

    watching = asyncio.create_task(watch())
    await asyncio.sleep(0.3)
    for number in range(CHANGES):
        seen.clear()
        began = time.perf_counter()
        await mesh.store.commit([Put(key, b"%d" % number)])
        await seen.wait()
        times.append(time.perf_counter() - began)
        await asyncio.sleep(0.02)
    watching.cancel()
    await other.close()
    return row(times)


async def _loaded(mesh, local: int) -> dict:
    """The floor while requests are made without a pause, as all rows that follow have it."""
    caller = Caller(local)

    async def ask() -> None:
        while True:
            await caller.get()
            await asyncio.sleep(0)

    asking = asyncio.create_task(ask())
    try:
        return await _bare(mesh)
    finally:
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        caller.close()


async def _flips(mesh, local: int) -> dict:
    caller, times, clock = Caller(local), [], Clock(mesh.store)
    for number in range(CHANGES):
        action, wanted = ("deny", 403) if number % 2 == 0 else ("allow", 200)
        await mesh.intend("payments", web=action)
        while (await caller.get()).status != wanted:
            await asyncio.sleep(0)
        times.append(time.perf_counter() - clock.sent)
        await asyncio.sleep(PAUSE)
    caller.close()
    clock.stop()
    return row(times)


async def _routes(mesh, local: int) -> dict:
    """Two answers take turns: the caller's proxy gives them, so the other side has no part in it."""
    caller, times, clock = Caller(local), [], Clock(mesh.store)
    for number in range(CHANGES):
        status = 418 + number % 2
        await mesh.apply({"kind": "route", "name": "payments", "rules": [{"respond": {"status": status}}]})
        while (await caller.get()).status != status:
            await asyncio.sleep(0)
        times.append(time.perf_counter() - clock.sent)
        await asyncio.sleep(PAUSE)
    await mesh.applied(await mesh.apply({"kind": "route", "name": "payments", "rules": []}))
    caller.close()
    clock.stop()
    return row(times)


async def _endpoints(mesh) -> dict:
    """An instance on another host appears in the catalog: time until a call that found nobody finds it.

    The other host's agent is stopped meanwhile, so that it does not register what is taken out; its Envoy serves.
    """
    here, local, port = mesh.agents[0], free_port(), free_port()
    there = await mesh.agent("vm-2")
    definition = {"name": "late", "port": port, "protocol": "http"}
    async with HttpApp(port, "late"):
        await there.up(**definition)
        upstreams = [{"service": "late", "local_port": local}]
        await here.up(name="caller", port=free_port(), protocol="http", upstreams=upstreams)
        await mesh.applied(await mesh.intend("late", caller="allow"))
        catalog = catalog_at(mesh.url, mesh.access, mesh.store, KEYS)
        (listing,) = await catalog.read("late")
        (instance,) = listing.instances
        offer = Offer(instance, ServiceDefinition.model_validate(definition))
        lease = await mesh.store.lease(timedelta(minutes=10))
        os.kill(there.process.pid, signal.SIGSTOP)
        caller, times = Caller(local), []
        for _ in range(CHANGES):
            await catalog.deregister([instance])
            while (await caller.get()).status != 503:
                await asyncio.sleep(0.001)
            await asyncio.sleep(PAUSE)
            began = time.perf_counter()
            await catalog.register([offer], lease.id)
            while (await caller.get()).status != 200:
                await asyncio.sleep(0)
            times.append(time.perf_counter() - began)
        os.kill(there.process.pid, signal.SIGCONT)
        caller.close()
        await catalog.close()
    return row(times)


def row(times: list[float]) -> dict:
    """Percentiles of seconds, in milliseconds."""
    ordered = sorted(times)
    return {
        "n": len(ordered),
        "p50_ms": 1000 * statistics.median(ordered),
        "p99_ms": 1000 * ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))],
        "max_ms": 1000 * ordered[-1],
    }
