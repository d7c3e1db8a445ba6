"""Faults of traffic (facts/security.md 3.3), by their numbers: what one bad instance costs the callers of the others."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import subprocess
import sys
import time
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from itertools import pairwise
from pathlib import Path

from tests.system.apps import Caller, HttpApp, Load, get
from tests.system.live import eventually, free_port, live_mesh
from tests.system.test_service_settings import answering, shop

RATE = 200


@asynccontextmanager
async def process(name):
    """An app in a process of its own, which can be killed. Gives (process, port)."""
    port = free_port()
    words = ("-m", "meshagent.demo.apps", "http", "--name", name, "--port", str(port), "--parent", str(os.getpid()))
    started = await asyncio.create_subprocess_exec(sys.executable, *words, stdout=subprocess.DEVNULL)
    try:
        yield started, port
    finally:
        if started.returncode is None:
            started.kill()
        await started.wait()


def listens(port):
    with socket.socket() as caller:
        return caller.connect_ex(("127.0.0.1", port)) == 0


@asynccontextmanager
async def killable(*documents):
    """payments as two processes, and web that calls it. Nobody checks their health. Gives (mesh, processes, local)."""
    async with live_mesh() as mesh, AsyncExitStack() as stack:
        agent = await mesh.agent()
        local, processes = free_port(), []
        await agent.up(
            name="web", port=free_port(), protocol="http", upstreams=[{"service": "payments", "local_port": local}]
        )
        for name in ("p0", "p1"):
            started, port = await stack.enter_async_context(process(name))
            processes.append(started)
            await eventually(partial(listens, port), 10)
            await agent.up(name="payments", id=name, port=port, protocol="http")
        await mesh.applied(await mesh.intend("payments", web="allow"))
        for document in documents:
            await mesh.applied(await mesh.apply(document))
        await answering(local)
        yield mesh, processes, local


LEFT_OUT = {"consecutive_5xx": 3, "interval": "200ms", "base_ejection_time": "30s"}
# All 8 callers at once may have to be answered by the other instance.
SERVICE = {
    "kind": "service",
    "name": "payments",
    "outlier_detection": LEFT_OUT,
    "retry_budget": {"percent": 20, "min_concurrent": 8},
}


async def test_fault_r16_a_killed_app_costs_at_most_what_it_had_begun():
    async with killable(SERVICE) as (_, (first, _), local), Load(local, 8, RATE) as load:
        await asyncio.sleep(0.7)
        first.kill()
        await asyncio.sleep(2)
        assert len(load.answers) > 200
        # What was sent may have been done, and only the caller knows whether it may be done twice.
        assert load.not_cut() == set()
        assert len(load.failed()) == len(load.reasons) <= 8


async def test_fault_r16_a_killed_app_costs_nothing_where_a_request_may_be_made_twice():
    retry = {"attempts": 2, "on": ["connect-failure", "gateway-error", "reset"], "methods": ["GET"]}
    route = {"kind": "route", "name": "payments", "rules": [{"retry": retry}]}
    async with killable(SERVICE, route) as (_, (first, _), local), Load(local, 8, RATE) as load:
        await asyncio.sleep(0.7)
        first.kill()
        await asyncio.sleep(2)
        assert len(load.answers) > 200 and load.failed() == []


async def test_what_proxies_say_of_an_app_that_is_not_reached_stays_among_them():
    async with killable() as (_, processes, local):
        for each in processes:
            each.kill()
            await each.wait()
        answer = await get(local)
        assert answer.status == 503 and "x-mesh-unreached" not in answer.headers
        assert "retried" in answer.text


async def test_fault_r17_a_slow_instance_holds_nobody_up_beyond_the_time_of_one_try():
    retry = {"attempts": 2, "per_try_timeout": "300ms", "on": ["connect-failure", "gateway-error"]}
    left_out = {**LEFT_OUT, "consecutive_5xx": 0, "consecutive_gateway_failure": 3}
    async with shop(3, outlier_detection=left_out) as (mesh, _, apps, local):
        await mesh.applied(await mesh.apply({"kind": "route", "name": "payments", "rules": [{"retry": retry}]}))
        apps[1].delay = 5.0
        began = time.monotonic()
        async with Load(local, 4, 100) as load:
            await asyncio.sleep(4)
        assert load.failed() == [], load.failed()
        assert len(load.since(began + 1.5)) > 100
        caller, times = Caller(local), []
        for _ in range(100):
            asked = time.monotonic()
            assert (await caller.get()).headers["x-app"] != "p1"
            times.append(time.monotonic() - asked)
        caller.close()
        assert sorted(times)[98] < 0.3, times


class Hop(HttpApp):
    """Asks the next service for each request, and says what that said."""

    onward = 0

    async def _serve(self, reader, writer):
        caller = Caller(self.onward)
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                self.seen.append((await reader.readuntil(b"\r\n\r\n")).decode())
                answer = await caller.get(timeout=30)
                writer.write(b"HTTP/1.1 %d Said\r\ncontent-length: 0\r\n\r\n" % answer.status)
                await writer.drain()
        caller.close()
        writer.close()


async def test_fault_r18_retries_over_three_hops_do_not_become_a_storm():
    retry = {"attempts": 3, "on": ["gateway-error"], "backoff": {"base": "1ms", "max": "5ms"}}
    names = ("web", "first", "second", "third")
    async with live_mesh() as mesh, AsyncExitStack() as stack:
        agent = await mesh.agent()
        hops = [await stack.enter_async_context(Hop(free_port(), name)) for name in names[:3]]
        last = await stack.enter_async_context(HttpApp(free_port(), "third"))
        for hop, called in zip(hops, names[1:], strict=True):
            hop.onward = free_port()
            upstreams = [{"service": called, "local_port": hop.onward}]
            await agent.up(name=hop.name, port=hop.port, protocol="http", upstreams=upstreams)
        await agent.up(name="third", port=last.port, protocol="http")
        for source, called in pairwise(names):
            await mesh.intend(called, **{source: "allow"})
            revision = await mesh.apply({"kind": "route", "name": called, "rules": [{"retry": retry}]})
        await mesh.applied(revision)
        await answering(hops[0].onward)
        for app in (*hops, last):
            app.seen.clear()
        last.status, last.delay = 503, 0.3
        asked: list[int] = []
        calling = [asyncio.create_task(storm(hops[0].onward, asked)) for _ in range(40)]
        await asyncio.sleep(5)
        first, second, third = (len(app.seen) for app in (*hops[1:], last))
        for task in calling:
            task.cancel()
        await asyncio.gather(*calling, return_exceptions=True)
        assert set(asked) <= {0, 503}
        assert len(asked) > 60 and third > second >= first, (len(asked), first, second, third)
        assert first <= 1.2 * len(asked) and third <= 1.7 * len(asked), (len(asked), first, second, third)


async def storm(port, asked):
    """Ask without a pause; `asked` has the status of each request, 0 while there is none."""
    caller = Caller(port)
    while True:
        asked.append(0)
        number = len(asked) - 1
        asked[number] = (await caller.get(timeout=30)).status


async def test_fault_r19_what_is_beyond_the_limits_is_shed_and_afterwards_all_is_served():
    pool = {"max_requests": 20, "max_pending_requests": 20}
    async with shop(1, connection_pool=pool) as (_, agent, apps, local):
        apps[0].delay = 0.1  # 20 at once: 200 requests a second are what it takes
        before = resident(agent.envoy_pid())
        async with Load(local, 200, 2000) as load:
            await asyncio.sleep(4)
        grown = resident(agent.envoy_pid()) - before
        counts = Counter(status for _, status in load.answers)
        assert counts.keys() <= {200, 503} and counts[503] > counts[200] > 50, counts
        assert grown < 60, grown
        ended = time.monotonic()
        while (await get(local)).status != 200:
            assert time.monotonic() < ended + 5
        assert {(await get(local)).status for _ in range(10)} == {200}


def resident(pid):
    """The memory that a process holds, in MiB."""
    found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) / 1024
