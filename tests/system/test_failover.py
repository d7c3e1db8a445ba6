"""Failover, seen at the apps: tiers die one by one and come back, and other services take a service's place."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import asynccontextmanager, suppress

from tests.system.apps import Load, TcpApp, get
from tests.system.live import eventually, free_port, live_mesh
from tests.system.placed import alive, standing
from tests.system.test_service_settings import answering, who

STEPS = [{"zone": "any"}, {"region": "any"}, {"service": "backup"}]
NEAREST_FIRST = ("own", "near", "far")


def failing_over(*steps, **more):
    """The service document. All callers of a test at once may have to be answered elsewhere."""
    document = {"kind": "service", "name": "payments", "protocol": "http", "failover": list(steps)}
    return document | {"retry_budget": {"percent": 20, "min_concurrent": 16}} | more


def watched(app, **more):
    """The definition of an instance whose host sees at once that it is gone."""
    return {"port": app.port, "checks": [{"tcp": f"127.0.0.1:{app.port}", "interval": "100ms"}], **more}


async def until_only(local, wanted, path="/", wait=10.0):
    """Wait until all requests are answered by the apps that are wanted."""
    end = time.monotonic() + wait
    while set(found := await who(local, 12, path=path)) != set(wanted):
        assert time.monotonic() < end, (found, wanted)
        await asyncio.sleep(0.02)


@asynccontextmanager
async def three_places(monkeypatch):
    """web, and payments in three places: on its own host, in another zone, in another region, where backup is too."""
    async with live_mesh() as mesh, alive(*NEAREST_FIRST, "backup") as apps:
        agents = [await standing(mesh, monkeypatch, name) for name in ("vm-1", "vm-2", "vm-3")]
        local = free_port()
        upstreams = [{"service": "payments", "local_port": local}]
        await agents[0].up(name="web", port=free_port(), protocol="http", upstreams=upstreams)
        for agent, name in zip(agents, NEAREST_FIRST, strict=True):
            await agent.up(name="payments", protocol="http", **watched(apps[name]))
        await agents[2].up(name="backup", protocol="http", **watched(apps["backup"]))
        await mesh.intend("payments", web="allow")
        await mesh.applied(await mesh.intend("backup", web="allow"))
        await answering(local)
        yield mesh, agents, apps, local


async def test_calls_leave_a_place_only_while_it_has_nobody_in_service_and_come_back_and_none_fails(monkeypatch):
    async with three_places(monkeypatch) as (mesh, agents, apps, local), Load(local, 4, 100) as load:
        assert set(await who(local, 60)) == set(NEAREST_FIRST)
        await mesh.applied(await mesh.apply(failing_over(*STEPS)))
        assert set(await who(local, 30)) == {"own"}
        for gone, (name, then) in enumerate(zip(NEAREST_FIRST, (*NEAREST_FIRST[1:], "backup"), strict=True), 1):
            await apps[name].die()
            await until_only(local, [then])
            await eventually(lambda gone=gone: failing(agents[0]) == gone, 5)
        await mesh.applied(await mesh.intend("backup", web="deny"))
        assert (await get(local)).status == 403, "its own intentions decide"
        await mesh.applied(await mesh.intend("backup", web="allow"))
        await asyncio.sleep(0.1)
        for name in reversed(NEAREST_FIRST):
            await apps[name].rise()
            await until_only(local, [name])
        await mesh.applied(await mesh.apply(failing_over({"region": "any"}, {"service": "backup"})))
        await until_only(local, ["own", "near"])
        await mesh.applied(await mesh.apply(failing_over()))
        await until_only(local, NEAREST_FIRST)
    refused = sum(status == 403 for _, status in load.answers)
    assert load.not_cut() == set()
    assert len(load.failed()) == len(load.reasons) + refused and len(load.reasons) <= 4, Counter(load.failed())


def failing(agent):
    """How many instances of payments the caller's proxy knows to be out of service."""
    text = agent.admin("/clusters").decode()
    return sum("out/web/payments::" in line and "failed_eds_health" in line for line in text.splitlines())


@asynccontextmanager
async def one_place():
    """payments in two versions, and backup; db and its standby, which speak TCP. All on one host."""
    async with live_mesh() as mesh, alive("v1", "v2", "backup") as apps:
        agent = await mesh.agent()
        locals_ = {"payments": free_port(), "db": free_port()}
        upstreams = [{"service": name, "local_port": port} for name, port in locals_.items()]
        await agent.up(name="web", port=free_port(), protocol="http", upstreams=upstreams)
        for name in ("v1", "v2"):
            more = watched(apps[name], id=name, meta={"version": name})
            await agent.up(name="payments", protocol="http", **more)
        await agent.up(name="backup", protocol="http", meta={"version": "v1"}, **watched(apps["backup"]))
        for name in ("payments", "backup", "db", "standby"):
            revision = await mesh.intend(name, web="allow")
        await mesh.applied(revision)
        await answering(locals_["payments"])
        yield mesh, agent, apps, locals_


async def test_a_subset_leaves_its_service_only_when_no_target_of_the_split_is_in_service():
    subsets = {"v1": {"version": "v1"}, "v2": {"version": "v2"}}
    rules = [
        {"match": {"path_prefix": "/one"}, "to": [{"subset": "v1"}]},
        {"to": [{"subset": "v1", "weight": 9}, {"subset": "v2", "weight": 1}]},
    ]
    async with one_place() as (mesh, _, apps, locals_):
        local = locals_["payments"]
        await mesh.apply(
            {"kind": "service", "name": "backup", "protocol": "http", "subsets": {"v9": {"version": "v9"}}}
        )
        await mesh.apply({"kind": "route", "name": "payments", "rules": rules})
        await mesh.applied(await mesh.apply(failing_over({"service": "backup"}, subsets=subsets)))
        await until_only(local, ["v1"], "/one")
        async with Load(local, 4, 100) as load:
            await apps["v1"].die()
            await until_only(local, ["v2"])
            await until_only(local, ["backup"], "/one")
            await apps["v2"].die()
            await until_only(local, ["backup"])
            await apps["v2"].rise()
            await until_only(local, ["v2"])
        assert load.not_cut() == set()
        assert len(load.failed()) == len(load.reasons) <= 4


async def test_connections_of_a_tcp_service_go_to_the_standby_while_it_has_no_instance():
    async with (
        one_place() as (mesh, agent, _, locals_),
        TcpApp(free_port(), b"db") as db,
        TcpApp(free_port(), b"standby") as standby,
    ):
        await agent.up(name="db", port=db.port, protocol="tcp")
        await agent.up(name="standby", port=standby.port, protocol="tcp")
        document = {"kind": "service", "name": "db", "protocol": "tcp", "failover": [{"service": "standby"}]}
        await mesh.applied(await mesh.apply(document))
        assert await until_greeted(locals_["db"], b"db")
        await agent.down("db")
        assert await until_greeted(locals_["db"], b"standby")
        await agent.up(name="db", port=db.port, protocol="tcp")
        assert await until_greeted(locals_["db"], b"db")


async def until_greeted(port, wanted, wait=8.0):
    """Whether a new connection is greeted so within that time."""
    end = time.monotonic() + wait
    while time.monotonic() < end:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        with suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(1):
                if await reader.read(len(wanted)) == wanted:
                    writer.close()
                    return True
        writer.close()
        await asyncio.sleep(0.05)
    return False
