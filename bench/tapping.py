"""What watching costs: CPU per request of a proxy with a tap that is off, and with one that somebody watches.

Side by side as in bench/dataplane.py. Off: two hand-written lean chains with a log of errors, one of which has the place of
a tap at both ends. On: the configuration that the agent generates, twice, in two meshes, one of which is watched. Needs wrk
and nginx.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager, suppress

from bench.dataplane import _ratio, cpu, need, nginx, pin, rivals
from meshagent.api.client import AgentClient
from tests.system.apps import get
from tests.system.live import free_port, live_mesh


async def run() -> dict:
    """The ratios, what the agent needs of a core while it is watched, and how many requests were shown and missed."""
    need("wrk", "nginx", "taskset")
    backend = free_port()
    async with live_mesh() as one, live_mesh() as other:
        with nginx(one.directory, backend):
            with rivals(one.directory, backend, ("logged", "logged", "tapped")) as (without, control, tapped):
                pairs = {
                    "A/A control: lean / lean": (control, without),
                    "tap off: lean, its place / lean": (tapped, without),
                }
                found = {name: await _ratio(name, *pair) for name, pair in pairs.items()}
            watched, alone = [await _generated(mesh, backend) for mesh in (one, other)]
            name = "A/A control: generated / generated"
            found[name] = await _ratio(name, watched, alone)
            async with watching(one.agents[0]) as seen:
                name = "tap on: generated, watched / generated"
                began, before = time.monotonic(), cpu(one.agents[0].process.pid)
                found[name] = await _ratio(name, watched, alone)
                spent = (cpu(one.agents[0].process.pid) - before) / 1e9 / (time.monotonic() - began)
            found["while watched"] = {"agent_cores": spent, **seen}
            print(
                f"while watched: the agent uses {spent:.2f} of a core; {seen['shown']} shown, {seen['missed']} missed"
            )
    return found


async def _generated(mesh, backend: int) -> tuple[int, int]:
    """(pid of Envoy, local port) of web, which calls payments."""
    agent, local = await mesh.agent(), free_port()
    await agent.up(name="payments", port=backend, protocol="http")
    upstreams = [{"service": "payments", "local_port": local}]
    await agent.up(name="web", port=free_port(), protocol="http", upstreams=upstreams)
    await mesh.applied(await mesh.intend("payments", web="allow"))
    assert (await get(local)).status == 200
    pin(agent.envoy_pid())
    return agent.envoy_pid(), local


@asynccontextmanager
async def watching(agent):
    """Take all that a tap shows, and count it."""
    seen = {"shown": 0, "missed": 0}

    async def take(requests) -> None:
        async for each in requests:
            if "missed" in each:
                seen["missed"] += each["missed"]
            else:
                seen["shown"] += 1

    async with AgentClient(agent.api).tap() as requests:
        taking = asyncio.create_task(take(requests))
        try:
            yield seen
        finally:
            taking.cancel()
            with suppress(asyncio.CancelledError):
                await taking
