"""Faults of traffic (facts/security.md 3.3), by their numbers: what one bad instance costs the callers of the others."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

from tests.system.apps import Load, get
from tests.system.live import eventually, free_port, live_mesh
from tests.system.test_service_settings import answering

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
        assert all("connection termination" in reason for reason in load.reasons), load.reasons
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
