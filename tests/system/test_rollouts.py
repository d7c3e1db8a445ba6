"""Rollouts with real Envoys: a bad version is taken back by itself, a good one goes all the way, whoever of the hosts dies."""

from __future__ import annotations

import asyncio
import signal
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from tests.servers.either import servers
from tests.system.apps import HttpApp
from tests.system.live import free_port, live_mesh
from tests.system.rolling import SERVICE, Ailing, Rolling, calling
from tests.system.routed import answering


@asynccontextmanager
async def two_versions():
    """payments in v1 and v2 on one host, web calling. Gives the mesh, the agent, the new app and the calls."""
    async with live_mesh() as mesh, AsyncExitStack() as stack:
        agent = await mesh.agent()
        old = await stack.enter_async_context(HttpApp(free_port(), "v1"))
        new = await stack.enter_async_context(Ailing(free_port(), "v2"))
        for app in (old, new):
            await up(agent, app)
        local = free_port()
        upstreams = [{"service": "payments", "local_port": local}]
        await agent.up(name="web", port=free_port(), protocol="http", upstreams=upstreams)
        await mesh.intend("payments", web="allow")
        await mesh.applied(await mesh.apply(SERVICE))
        await answering(local)
        yield mesh, agent, new, await stack.enter_async_context(calling(local))


async def up(agent, app):
    """Register an instance of payments in the app's version."""
    meta = {"version": app.name}
    await agent.up(name="payments", id=f"p-{app.name}", port=app.port, protocol="http", meta=meta)


async def settled(calls, seconds=0.5):
    """What is answered from now on, once what is under way has ended."""
    await asyncio.sleep(0.3)
    calls.forget()
    await asyncio.sleep(seconds)
    return calls.answers


async def test_a_bad_version_is_taken_back_before_its_second_step_and_a_good_one_goes_all_the_way():
    async with two_versions() as (mesh, agent, new, calls):
        new.nth = 20  # 5 % of its answers are errors
        bad = await Rolling(mesh, steps=[5, 25, 50, 100], every="2s", max_error_rate=1, min_requests=40).begin()
        back = await bad.until(lambda found: found.phase == "rolled_back")
        assert back.step == 0 and "requests failed, and 1 % may" in back.why
        answers = await settled(calls)
        assert answers["v1"] and not answers["v2"]

        new.nth = 0
        new.delay = 0.1
        slow = await Rolling(mesh, steps=[25, 50, 100], every="20s", max_p99="50ms").begin()
        back = await slow.until(lambda found: found.phase == "rolled_back", 40.0)
        assert back.step == 0 and "took longer than 50ms, and 1 % may" in back.why
        assert not (await settled(calls))["v2"]

        new.delay = 0.0
        good = await Rolling(mesh, steps=[25, 50, 100]).begin()
        begun = await good.until(lambda found: found.step == 1)
        calls.forget()
        await agent.down("payments", "p-v2")  # in the midst of it the new version goes
        assert set(calls.answers) <= {"v1", "v2", 200}
        assert set(await settled(calls, 1.5)) == {"v1", 200}
        assert (await good.progress()).turn == begun.turn
        await up(agent, new)
        await good.until(lambda found: found.phase == "done")
        assert set(await settled(calls)) == {"v2", 200}
        assert agent.status()["rollouts"] == [{"service": "payments", "to": "v2", "phase": "done", "percent": 100}]

        await agent.kill()
        await agent.start()
        assert set(await settled(calls)) == {"v2", 200}
        calls.forget()
        await agent.down("payments", "p-v2")
        assert set(calls.answers) <= {"v1", "v2", 200}
        assert set(await settled(calls)) == {"v1", 200}


@pytest.mark.parametrize("kind", ["etcd", pytest.param("consul", marks=pytest.mark.long)])
async def test_a_rollout_goes_on_when_the_host_that_drives_it_dies(kind):
    async with servers(kind) as made, live_mesh(url=made.url) as mesh, AsyncExitStack() as stack:
        first, second = [await agent_with_room(mesh, name) for name in ("vm-a", "vm-b")]
        for agent in (first, second):
            for version in ("v1", "v2"):
                await up(agent, await stack.enter_async_context(HttpApp(free_port(), version)))
        local = free_port()
        upstreams = [{"service": "payments", "local_port": local}]
        await second.up(name="web", port=free_port(), protocol="http", upstreams=upstreams)
        await mesh.intend("payments", web="allow")
        await mesh.applied(await mesh.apply(SERVICE))
        await answering(local)
        calls = await stack.enter_async_context(calling(local))
        rolling = await Rolling(mesh, steps=[10, 30, 60, 100]).begin()
        await rolling.until(lambda found: found.host == "vm-a")
        first.end_envoy(signal.SIGKILL)
        await first.kill()
        calls.forget()
        done = await rolling.until(lambda found: found.phase == "done")
        assert done.host == "vm-b"
        assert not calls.answers["broken"] and calls.answers["v2"]
        assert not (await settled(calls))["v1"]


async def agent_with_room(mesh, name):
    """An agent on this machine, beside others of the mesh: each further instance of a service takes one more port."""
    agent = await mesh.agent(name, host_address="127.0.0.1")
    free_port()
    return agent
