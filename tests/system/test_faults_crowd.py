"""Fault R38 of the security facts, 3.3: a hundred agents start at once. What each store is asked is counted on the way to it."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from contextlib import asynccontextmanager

import pytest

from tests.servers.either import servers
from tests.system.apps import Load
from tests.system.counting import counting
from tests.system.crowd import SIZE
from tests.system.shop import shop, two_hosts

PROCESSES = 2
# Requests a second, in the worst two seconds. All hosts share one agent of Consul here, where in life each has its own.
BAR = 200


@asynccontextmanager
async def crowd(url):
    """The agents, about to start. Gives what starts them, and returns when (monotonic) each was ready."""
    pipe, share = asyncio.subprocess.PIPE, SIZE // PROCESSES
    command = [sys.executable, "-m", "tests.system.crowd", url]
    processes = [
        await asyncio.create_subprocess_exec(*command, str(number * share), str(share), stdin=pipe, stdout=pipe)
        for number in range(PROCESSES)
    ]

    async def start():
        for process in processes:
            process.stdin.write(b"go\n")
        return [each for process in processes for each in json.loads(await process.stdout.readline())]

    try:
        for process in processes:
            assert await process.stdout.readline() == b"here\n"
        yield start
    finally:
        for process in processes:
            process.kill()
        await asyncio.gather(*(process.wait() for process in processes))


def make_known(store):
    """Consul has heard of the crowd's services before: of one that it does not know it tells nothing in particular."""
    for number in range(SIZE if store.kind == "consul" else 0):
        service = {"ID": f"crowd-{number}", "Service": f"crowd-{number}", "Port": 1}
        node = {"Node": "elsewhere", "Address": "10.9.9.9", "Service": service}
        store.made.call("PUT", "/v1/catalog/register", node)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("kind", ["consul", pytest.param("etcd", marks=pytest.mark.long)])
async def test_fault_r38_a_hundred_agents_that_boot_together_are_ready_in_30_s_and_no_store_is_stormed(kind):
    async with (
        servers(kind) as store,
        counting(store.ports[0]) as way,
        crowd(f"{kind}://127.0.0.1:{way.port}") as start,
    ):
        await asyncio.to_thread(make_known, store)
        url = f"{kind}://127.0.0.1:{way.port}"
        async with shop(url=url) as it, two_hosts(it) as (second, _), Load(it.web, 2, 50) as load:
            await asyncio.sleep(1.0)  # their snapshots are on disk
            for agent in (it.agent, second):
                await agent.kill()
            began = time.monotonic()
            starting = asyncio.create_task(start())
            await asyncio.gather(it.agent.start(wait=30), second.start(wait=30))
            serving = time.monotonic() - began
            async with asyncio.timeout(40):
                ready = await starting
            last, most = max(ready) - began, way.most(2.0, since=began) / 2
            print(f"{kind}: Envoys served after {serving:.1f} s, all after {last:.1f} s, at most {most:.0f} requests/s")
            assert len(ready) == SIZE and last < 30.0
            assert most < BAR
            await it.mesh.applied(await it.mesh.intend("payments", web="allow", orders="deny", batch="allow"))
            assert load.failed() == [] and len(load.answers) > 500
