"""One machine: real services talk mTLS through Envoy, and an intention decides."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import asynccontextmanager

import pytest

from tests.system.apps import Caller, HttpApp, TcpApp, get
from tests.system.live import free_port, live_mesh

pytestmark = pytest.mark.system


@asynccontextmanager
async def shop():
    """payments (http) and ledger (tcp), called by web and orders."""
    async with live_mesh() as mesh:
        agent = await mesh.agent()
        ports = {name: free_port() for name in ("payments", "ledger", "web", "orders")}
        local = {(s, u): free_port() for s in ("web", "orders") for u in ("payments", "ledger")}
        async with HttpApp(ports["payments"], "payments") as payments, TcpApp(ports["ledger"]) as ledger:
            await agent.up(name="payments", port=ports["payments"], protocol="http")
            await agent.up(name="ledger", port=ports["ledger"], protocol="tcp")
            for source in ("web", "orders"):
                upstreams = [{"service": up, "local_port": local[source, up]} for up in ("payments", "ledger")]
                await agent.up(name=source, port=ports[source], protocol="http", upstreams=upstreams)
            yield mesh, agent, local, payments, ledger


async def test_denied_by_default_with_a_reason_then_allowed_as_the_caller_that_the_certificate_proves():
    async with shop() as (mesh, agent, local, payments, _):
        refused = await get(local["web", "payments"])
        assert refused.status == 403 and refused.headers["x-mesh-refused"] == "intention"
        reason = json.loads(refused.body)
        assert reason["caller"] == "spiffe://mesh.internal/svc/web" and reason["destination"] == "payments"
        assert payments.seen == []
        await mesh.applied(await mesh.intend("payments", web="allow"))
        allowed = await get(local["web", "payments"])
        assert allowed.status == 200 and "URI=spiffe://mesh.internal/svc/web" in allowed.text
        assert (await get(local["orders", "payments"])).status == 403


async def test_an_l7_rule_decides_each_request():
    async with shop() as (mesh, agent, local, _, _):
        read = {"action": "allow", "http": {"methods": ["GET"], "path_prefix": "/reports"}}
        await mesh.applied(await mesh.intend("payments", web=[read]))
        caller = Caller(local["web", "payments"])
        assert (await caller.get("/reports/2026")).status == 200
        assert (await caller.get("/reports/2026", "DELETE")).status == 403
        assert (await caller.get("/admin")).status == 403
        assert (await caller.get("/reports")).status == 200
        caller.close()


async def test_a_deny_cuts_that_sources_tcp_connection_and_no_other():
    async with shop() as (mesh, agent, local, _, ledger):
        await mesh.applied(await mesh.intend("ledger", web="allow", orders="allow"))
        web = await asyncio.open_connection("127.0.0.1", local["web", "ledger"])
        orders = await asyncio.open_connection("127.0.0.1", local["orders", "ledger"])
        for reader, writer in (web, orders):
            writer.write(b"ping")
            assert await reader.readexactly(4) == b"ping"
        began = time.monotonic()
        await mesh.intend("ledger", orders="allow")
        async with asyncio.timeout(5):
            assert await web[0].read(10) == b""
        assert time.monotonic() - began < 1.5
        orders[1].write(b"still here")
        assert await orders[0].readexactly(10) == b"still here"


async def test_down_takes_a_service_out_and_up_brings_it_back():
    async with shop() as (mesh, agent, local, payments, _):
        await mesh.applied(await mesh.intend("payments", web="allow"))
        assert (await get(local["web", "payments"])).status == 200
        assert (await agent.down("payments"))["http"] == 200
        assert (await get(local["web", "payments"])).status == 503
        await agent.up(name="payments", port=payments.port, protocol="http")
        assert (await get(local["web", "payments"])).status == 200
        calls = [{"service": name, "local_port": local["web", name]} for name in ("payments", "ledger")]
        for _ in range(2):  # Envoy says that a listener is gone before its port is free
            assert (await agent.down("web"))["http"] == 200
            await agent.up(name="web", port=free_port(), protocol="http", upstreams=calls)
            assert (await get(local["web", "payments"])).status == 200
