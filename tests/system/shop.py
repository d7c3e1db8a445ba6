"""The shop of the fault tests: payments, web that may call it, and orders that may not and tries all the while."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from contextlib import asynccontextmanager

from tests.system.apps import HttpApp, Load, get
from tests.system.live import eventually, free_port, live_mesh

RATE = 200
# How much of the length that the table of faults says an outage has: 1 in `make soak`, 0 (a few seconds) otherwise.
SOAK = float(os.environ.get("MESHAGENT_SOAK") or 0)


def lasting(soak, otherwise):
    """The length of an outage, in seconds or rounds."""
    return max(type(otherwise)(soak * SOAK), otherwise)


class Shop:
    """payments, web that may call it and orders that may not."""

    def __init__(self, mesh, agent, app, web, orders):
        self.mesh, self.agent, self.app, self.web, self.orders = mesh, agent, app, web, orders


@asynccontextmanager
async def shop(drain="3s", url="", access=None, agent_access=None, ttl="1h"):
    """The shop on one host, with orders' calls, which are denied, all the while. The store is a file unless told.

    `agent_access`: who the agent is to the store, if it is not who the test is.
    """
    async with live_mesh(ttl, url, access) as mesh:
        mesh.drain = drain
        mesh.agent_access = agent_access or mesh.access
        agent = await mesh.agent()
        app, web, orders = free_port(), free_port(), free_port()
        async with HttpApp(app, "payments") as payments:
            await agent.up(name="payments", port=app, protocol="http")
            for name, local in (("web", web), ("orders", orders)):
                upstreams = [{"service": "payments", "local_port": local}]
                await agent.up(name=name, port=free_port(), protocol="http", upstreams=upstreams)
            await mesh.applied(await mesh.intend("payments", web="allow", orders="deny"))
            async with Load(orders, 1, 10) as denied:
                yield Shop(mesh, agent, payments, web, orders)
                await until_status(orders, 403)
            assert not [status for _, status in denied.answers if isinstance(status, int) and status < 300]
            assert denied.answers


@asynccontextmanager
async def two_hosts(it):
    """Another instance of payments on another host."""
    second = await it.mesh.agent("vm-2")
    port = free_port()
    async with HttpApp(port, "second") as other:
        await second.up(name="payments", port=port, protocol="http")
        yield second, other


async def stop_all(agent):
    """Agent and Envoy both die at once."""
    await agent.kill()
    agent.end_envoy(signal.SIGKILL)
    await eventually(lambda: agent.envoy_pid() == 0, 5)


async def until_status(port, wanted, wait=10.0):
    until = time.monotonic() + wait
    while True:
        try:
            if (await get(port)).status == wanted:
                return
        except (OSError, asyncio.IncompleteReadError):
            pass
        assert time.monotonic() < until
        await asyncio.sleep(0.02)
