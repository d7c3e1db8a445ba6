"""From the store's commit to the first answer of the new rule, on an open keep-alive connection; and for a new endpoint.

The whole way: SQLite commit, watch, fold, resolve, translate, delta ADS, Envoy. The bare store's own wake-up (commit to
another process's watch) is measured in the same run beside it, and a control that changes nothing bounds the probe itself.
"""

from __future__ import annotations

import asyncio
import statistics
import time

from meshagent.state.catalog import put_instance, read_instances
from meshagent.store.base import Delete, Put
from meshagent.store.sqlite import open_sqlite
from tests.system.apps import Caller, HttpApp
from tests.system.live import KEYS, free_port, live_mesh

CHANGES = 200
PAUSE = 0.04  # seconds between changes: each is seen alone


async def run() -> dict:
    """{"allow/deny": …, "endpoint": …, "store: commit and watch": …, "one request": …}, each with p50, p99 and max in ms."""
    async with live_mesh() as mesh:
        agent = await mesh.agent()
        app_port, other_port, local = free_port(), free_port(), free_port()
        async with HttpApp(app_port, "one"), HttpApp(other_port, "two"):
            await agent.up(name="payments", port=app_port, protocol="http")
            await agent.up(
                name="web", port=free_port(), protocol="http", upstreams=[{"service": "payments", "local_port": local}]
            )
            await mesh.applied(await mesh.intend("payments", web="allow"))
            result = {
                "one request (control)": await _control(local),
                "store: commit and watch": await _store_wake_up(mesh),
                "intention, open connection": await _flips(mesh, local),
                "endpoint": await _endpoints(mesh),
            }
    for name, row in result.items():
        print(
            f"{name:30s} p50 {row['p50_ms']:6.2f} ms   p99 {row['p99_ms']:6.2f} ms   max {row['max_ms']:6.2f} ms   n {row['n']}"
        )
    return result


async def _control(local: int) -> dict:
    caller, times = Caller(local), []
    for _ in range(CHANGES):
        began = time.perf_counter()
        assert (await caller.get()).status == 200
        times.append(time.perf_counter() - began)
        await asyncio.sleep(0.005)
    caller.close()
    return _row(times)


async def _store_wake_up(mesh) -> dict:
    """From before the commit to the change at a watch of another opening of the store: the floor of all that follows."""
    key, times, seen = f"{KEYS.root}bench/probe", [], asyncio.Event()
    other = await open_sqlite(mesh.store_path)

    async def watch() -> None:
        async for _ in other.watch((key,), after=(await other.read(key)).revision):
            seen.set()

    watching = asyncio.create_task(watch())
    await asyncio.sleep(0.1)
    for number in range(CHANGES):
        seen.clear()
        began = time.perf_counter()
        await mesh.store.commit([Put(key, b"%d" % number)])
        await seen.wait()
        times.append(time.perf_counter() - began)
        await asyncio.sleep(0.005)
    watching.cancel()
    await other.close()
    return _row(times)


async def _flips(mesh, local: int) -> dict:
    caller, times = Caller(local), []
    for number in range(CHANGES):
        action, wanted = ("deny", 403) if number % 2 == 0 else ("allow", 200)
        await mesh.intend("payments", web=action)
        began = time.perf_counter()
        while (await caller.get()).status != wanted:
            await asyncio.sleep(0)
        times.append(time.perf_counter() - began)
        await asyncio.sleep(PAUSE)
    caller.close()
    return _row(times)


async def _endpoints(mesh) -> dict:
    """An instance on another host appears in the catalog: time until a call that found nobody finds it."""
    here, local, port = mesh.agents[0], free_port(), free_port()
    there = await mesh.agent("vm-2")
    async with HttpApp(port, "late"):
        await there.up(name="late", port=port, protocol="http")
        await here.up(
            name="caller", port=free_port(), protocol="http", upstreams=[{"service": "late", "local_port": local}]
        )
        await mesh.applied(await mesh.intend("late", caller="allow"))
        instance = next(each for each in await read_instances(mesh.store, KEYS, "late"))
        key = KEYS.instance("late", "vm-2", "late")
        caller, times = Caller(local), []
        for _ in range(CHANGES):
            await mesh.store.commit([Delete(key)])
            while (await caller.get()).status != 503:
                await asyncio.sleep(0.001)
            await asyncio.sleep(PAUSE)
            await mesh.store.commit([put_instance(KEYS, instance, None)])
            began = time.perf_counter()
            while (await caller.get()).status != 200:
                await asyncio.sleep(0)
            times.append(time.perf_counter() - began)
        caller.close()
    return _row(times)


def _row(times: list[float]) -> dict:
    ordered = sorted(times)
    at = lambda part: 1000 * ordered[min(len(ordered) - 1, int(part * len(ordered)))]  # noqa: E731
    return {
        "n": len(ordered),
        "p50_ms": 1000 * statistics.median(ordered),
        "p99_ms": at(0.99),
        "max_ms": 1000 * ordered[-1],
    }
