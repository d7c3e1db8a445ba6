"""Rollouts with real Envoys: a bad version is taken back by itself, a good one goes all the way."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager

from tests.system.apps import HttpApp
from tests.system.live import free_port, live_mesh
from tests.system.rolling import SERVICE, Ailing, calling, rollout, until
from tests.system.routed import answering


@asynccontextmanager
async def two_versions():
    """payments in v1 and v2 on one host, web calling. Gives the mesh, the agent, both apps and the calls."""
    async with live_mesh() as mesh, AsyncExitStack() as stack:
        agent = await mesh.agent()
        old = await stack.enter_async_context(HttpApp(free_port(), "v1"))
        new = await stack.enter_async_context(Ailing(free_port(), "v2"))
        for app in (old, new):
            meta = {"version": app.name}
            await agent.up(name="payments", id=f"p-{app.name}", port=app.port, protocol="http", meta=meta)
        local = free_port()
        upstreams = [{"service": "payments", "local_port": local}]
        await agent.up(name="web", port=free_port(), protocol="http", upstreams=upstreams)
        await mesh.intend("payments", web="allow")
        await mesh.applied(await mesh.apply(SERVICE))
        await answering(local)
        yield mesh, agent, old, new, await stack.enter_async_context(calling(local))


async def test_a_bad_version_is_taken_back_before_its_second_step_and_a_good_one_goes_all_the_way():
    async with two_versions() as (mesh, agent, _, new, calls):
        new.nth = 20
        await mesh.applied(await mesh.apply(rollout(steps=[5, 25, 50, 100], every="2s", max_error_rate=1)))
        new.seen.clear()
        back = await until(mesh, lambda found: found.phase == "rolled_back")

        assert back.step == 0 and "requests failed, and 1 % may" in back.why
        await asyncio.sleep(0.3)
        calls.forget()
        await asyncio.sleep(0.5)
        assert calls.answers["v1"] and not calls.answers["v2"]

        new.nth = 0
        calls.forget()
        await mesh.apply(rollout(steps=[25, 50, 100]))
        done = await until(mesh, lambda found: found.phase == "done")

        await asyncio.sleep(0.3)
        calls.forget()
        await asyncio.sleep(0.5)
        assert calls.answers["v2"] and not calls.answers["v1"] and not calls.answers["broken"]
