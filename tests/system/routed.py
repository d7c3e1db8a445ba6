"""A mesh for tests of routes: payments in two versions and one without, ledger and shadow beside it, web and orders calling."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager

from tests.system.apps import Caller, HttpApp, TcpApp, get, read_answer
from tests.system.live import free_port, live_mesh

SUBSETS = {"v1": {"version": "v1"}, "v2": {"version": "v2"}, "v9": {"version": "v9"}}


class Routed:
    """The mesh, its apps by name, and the local port at which each caller finds payments."""

    def __init__(self, mesh, agent, apps, ports):
        self.mesh, self.agent, self.apps, self.ports = mesh, agent, apps, ports

    @property
    def web(self):
        return self.ports["web"]

    async def route(self, *rules):
        """Put these rules in force for callers of payments."""
        await self.mesh.applied(await self.mesh.apply({"kind": "route", "name": "payments", "rules": list(rules)}))

    def seen(self, name):
        """What an app was asked, without what checks ask."""
        return self.apps[name].seen

    def forget(self):
        for app in self.apps.values():
            app.seen.clear()


@asynccontextmanager
async def routed(protocol="http", **settings):
    """payments (v1, v2), ledger and shadow, which web and orders may call."""
    make = TcpApp if protocol == "tcp" else HttpApp
    async with live_mesh() as mesh, AsyncExitStack() as stack:
        agent = await mesh.agent(**settings)
        apps = {}
        for name in ("v1", "v2", "ledger", "shadow"):
            apps[name] = await stack.enter_async_context(make(free_port(), name.encode() if make is TcpApp else name))
        for version in ("v1", "v2"):
            port = apps[version].port
            meta = {"version": version}
            await agent.up(name="payments", id=f"p-{version}", port=port, protocol=protocol, meta=meta)
        for name in ("ledger", "shadow"):
            await agent.up(name=name, port=apps[name].port, protocol=protocol)
        ports = {"web": free_port(), "orders": free_port()}
        for name, local in ports.items():
            upstreams = [{"service": "payments", "local_port": local}]
            await agent.up(name=name, port=free_port(), protocol="http", upstreams=upstreams)
        for name in ("payments", "ledger", "shadow"):
            revision = await mesh.intend(name, web="allow", orders="allow")
        revision = await mesh.apply({"kind": "service", "name": "payments", "protocol": protocol, "subsets": SUBSETS})
        await mesh.applied(revision)
        if protocol != "tcp":
            await answering(*ports.values())
        yield Routed(mesh, agent, apps, ports)


async def answering(*ports, wait=5.0):
    until = time.monotonic() + wait
    for port in ports:
        while (await get(port)).status != 200:
            assert time.monotonic() < until
            await asyncio.sleep(0.02)


async def many(port, count, path="/", headers="", connections=8, batch=50):
    """Which apps answered so many requests, pipelined over some connections for speed.

    Envoy closes a connection behind an answer of its own when more requests are waiting in it: `batch=1` for those.
    """
    counts = Counter()
    request = f"GET {path} HTTP/1.1\r\nhost: app\r\n{headers}\r\n".encode()

    async def some(left):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while left > 0:
            now = min(batch, left)
            writer.write(request * now)
            for _ in range(now):
                answer = await read_answer(reader)
                counts[answer.headers.get("x-app", answer.status)] += 1
            left -= now
        writer.close()

    await asyncio.gather(*(some(count // connections) for _ in range(connections)))
    return counts


async def on_one_connection(port, *requests):
    """The answers to (method, path, headers)."""
    caller = Caller(port)
    answers = [await caller.get(path, method, headers) for method, path, headers in requests]
    caller.close()
    return answers
