"""How much an app is given: rates for all and for each caller, and as many requests at once as it bears."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import asynccontextmanager

from tests.system.apps import Caller, HttpApp, get
from tests.system.live import free_port, live_mesh

CALLERS = ("web", "batch")


@asynccontextmanager
async def shop(**settings):
    """payments under these settings, and web and batch that may call it. Gives (mesh, agent, app, ports by caller)."""
    async with live_mesh() as mesh:
        agent = await mesh.agent()
        ports = {name: free_port() for name in CALLERS}
        async with HttpApp(free_port(), "payments") as app:
            await agent.up(name="payments", port=app.port, protocol="http")
            for name, port in ports.items():
                upstreams = [{"service": "payments", "local_port": port}]
                await agent.up(name=name, port=free_port(), protocol="http", upstreams=upstreams)
            await mesh.intend("payments", web="allow", batch="allow")
            await mesh.applied(await mesh.apply({"kind": "service", "name": "payments", **settings}))
            yield mesh, agent, app, ports


async def statuses(port, count):
    caller = Caller(port)
    found = Counter([(await caller.get()).status for _ in range(count)])
    caller.close()
    return found


async def test_every_calling_service_has_a_measure_of_its_own():
    limit = {"requests_per_second": 1, "burst": 5, "per": "source"}
    async with shop(rate_limit=limit) as (_, _, app, ports):
        web = await statuses(ports["web"], 20)
        assert web[200] in (5, 6) and web[429] == 20 - web[200]
        batch = await statuses(ports["batch"], 5)
        assert batch == {200: 5}
        assert len(app.seen) == web[200] + 5  # what was refused never reached the app
        refused = next(answer for answer in [await get(ports["web"]) for _ in range(3)] if answer.status == 429)
        assert refused.headers["x-mesh-refused"] == "rate-limit"
        await asyncio.sleep(2.1)
        assert (await statuses(ports["web"], 2))[200] == 2  # refilled


async def test_one_measure_for_all_and_a_new_one_drains_nothing():
    async with shop(rate_limit={"requests_per_second": 1, "burst": 6}) as (mesh, _, _, ports):
        both = await asyncio.gather(*(statuses(port, 10) for port in ports.values()))
        assert sum(found[200] for found in both) in (6, 7)
        caller = Caller(ports["web"])
        await caller.get()
        more = {"requests_per_second": 1000, "burst": 1000}
        await mesh.applied(await mesh.apply({"kind": "service", "name": "payments", "rate_limit": more}))
        assert {(await caller.get()).status for _ in range(50)} == {200}  # on the same connection
        await mesh.applied(await mesh.apply({"kind": "service", "name": "payments"}))
        assert (await statuses(ports["batch"], 50)) == {200: 50}


async def test_denied_calls_use_up_nothing():
    async with shop(rate_limit={"requests_per_second": 1, "burst": 3}) as (mesh, _, _, ports):
        await mesh.applied(await mesh.intend("payments", web="allow", batch="deny"))
        assert await statuses(ports["batch"], 20) == {403: 20}
        assert (await statuses(ports["web"], 3)) == {200: 3}


async def test_an_app_that_slows_down_is_given_fewer_requests_at_once():
    asked = {"measured_each": "1h", "most": 200, "fewest": 3}
    async with shop(adaptive_concurrency=asked) as (_, agent, app, ports):
        app.delay = 0.01
        await asyncio.gather(*(statuses(ports["web"], 30) for _ in range(3)))  # the best latency is measured
        app.delay = 0.2
        until, refused = time.monotonic() + 15, 0
        while not refused:
            assert time.monotonic() < until
            found = await asyncio.gather(*(statuses(ports["web"], 3) for _ in range(60)))
            refused = sum(each[503] for each in found)
        assert sum(each[200] for each in found) > 0
        crowded = [
            each for each in agent.call("GET", "/v1/requests?status=503&side=inbound")["requests"] if each["ticket"]
        ]
        assert crowded and {each["reason"] for each in crowded} == {"crowded"}
