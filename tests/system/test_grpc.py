"""What is asked for a gRPC service alone: second tries by the status of the call, and checks by its health service.

And a check of connections, which no request tells of.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from contextlib import AsyncExitStack, asynccontextmanager

import grpc
import pytest

from tests.system.apps import TcpApp
from tests.system.live import free_port, live_mesh

SERVING, NOT_SERVING = b"\x08\x01", b"\x08\x02"  # grpc.health.v1.HealthCheckResponse


class Teller:
    """Says its name, or ends each call with `code`; and tells its `health`."""

    def __init__(self, name):
        self.port, self.name = free_port(), name.encode()
        self.code, self.health = None, SERVING
        self.calls = self.checks = 0
        self._server = grpc.aio.server()

    async def __aenter__(self):
        async def say(_, context):
            self.calls += 1
            if self.code:
                await context.abort(self.code, "as asked")
            return self.name

        async def check(_, context):
            self.checks += 1
            return self.health

        for service, method, handler in (("shop.Teller", "Say", say), ("grpc.health.v1.Health", "Check", check)):
            handlers = {method: grpc.unary_unary_rpc_method_handler(handler, None, None)}
            self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
        self._server.add_insecure_port(f"127.0.0.1:{self.port}")
        await self._server.start()
        return self

    async def __aexit__(self, *_):
        await self._server.stop(0)


@asynccontextmanager
async def told(instances, *documents):
    """payments of gRPC with so many instances, which web may call. Gives (apps, web's channel)."""
    async with live_mesh() as mesh, AsyncExitStack() as stack:
        agent, local = await mesh.agent(), free_port()
        apps = [await stack.enter_async_context(Teller(f"p{number}")) for number in range(instances)]
        upstreams = [{"service": "payments", "local_port": local}]
        await agent.up(name="web", port=free_port(), protocol="http", upstreams=upstreams)
        for number, app in enumerate(apps):
            await agent.up(name="payments", id=f"p{number}", port=app.port, protocol="grpc")
        await mesh.intend("payments", web="allow")
        for document in documents:
            revision = await mesh.apply(document)
        await mesh.applied(revision)
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(f"127.0.0.1:{local}"))
        await until(lambda: answered(channel))
        yield apps, channel


async def answered(channel):
    """What the app says, or the code it ends the call with."""
    try:
        return await channel.unary_unary("/shop.Teller/Say", None, None)(b"", timeout=5)
    except grpc.aio.AioRpcError as error:
        return error.code()


async def until(found, wait=15.0):
    """Until it gives a name."""
    began = time.monotonic()
    while not isinstance(await found(), bytes):
        assert time.monotonic() < began + wait
        await asyncio.sleep(0.1)


async def test_calls_are_tried_again_by_their_status_and_no_others():
    codes = ("cancelled", "deadline-exceeded", "internal", "resource-exhausted", "unavailable")
    grpc_codes = {name: grpc.StatusCode[name.replace("-", "_").upper()] for name in codes}
    for asked in codes:
        retry = {"attempts": 2, "on": [asked], "backoff": {"base": "1ms", "max": "2ms"}}
        route = {"kind": "route", "name": "payments", "rules": [{"retry": retry}]}
        async with told(1, {"kind": "service", "name": "payments", "protocol": "grpc"}, route) as (apps, channel):
            for name, code in grpc_codes.items():
                apps[0].code, apps[0].calls = code, 0
                assert await answered(channel) == code
                assert apps[0].calls == (3 if name == asked else 1), (asked, name)


async def test_proxies_ask_the_health_service_of_each_instance():
    check = {"grpc": True, "interval": "100ms", "timeout": "500ms", "unhealthy_threshold": 2}
    async with told(2, {"kind": "service", "name": "payments", "protocol": "grpc", "health_check": check}) as (
        apps,
        web,
    ):
        assert all(app.checks for app in apps)
        for health, wanted in ((NOT_SERVING, {b"p1"}), (SERVING, {b"p0", b"p1"})):
            apps[0].health, began = health, time.monotonic()
            while {await answered(web) for _ in range(12)} != wanted:
                assert time.monotonic() < began + 10
                await asyncio.sleep(0.05)


@pytest.mark.parametrize("checked", [True, False], ids=["checked", "not-checked"])
async def test_a_host_that_takes_no_connections_is_left_out_by_a_check_of_connections(checked):
    """Its proxy alone is frozen: its agent and its lease live on, so the catalog calls it in service."""
    check = {"tcp": True, "interval": "100ms", "timeout": "300ms", "unhealthy_threshold": 2}
    settings = {"health_check": check} if checked else {}
    async with live_mesh() as mesh, AsyncExitStack() as stack:
        near, far, local = await mesh.agent(), await mesh.agent("vm-2"), free_port()
        for agent, name in ((near, b"near"), (far, b"far")):
            app = await stack.enter_async_context(TcpApp(free_port(), name))
            await agent.up(name="ledger", id=name.decode(), port=app.port, protocol="tcp")
        upstreams = [{"service": "ledger", "local_port": local}]
        await near.up(name="web", port=free_port(), protocol="http", upstreams=upstreams)
        await mesh.intend("ledger", web="allow")
        await mesh.applied(await mesh.apply({"kind": "service", "name": "ledger", "protocol": "tcp", **settings}))
        began, heard = time.monotonic(), set()
        while heard != {b"near", b"far"}:
            assert time.monotonic() < began + 10
            heard |= {await _greeted(local)}
        os.kill(far.envoy_pid(), signal.SIGSTOP)
        try:
            began, found = time.monotonic(), {b""}
            while found != {b"near"} and time.monotonic() < began + (8 if checked else 3):
                found = {await _greeted(local) for _ in range(8)}
        finally:
            os.kill(far.envoy_pid(), signal.SIGCONT)
        assert (found == {b"near"}) == checked, found


async def _greeted(port):
    """Who answers a new connection within a second; nothing where nobody does."""
    writer = None
    try:
        async with asyncio.timeout(1):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            return await reader.read(10)
    except (TimeoutError, ConnectionError):
        return b""
    finally:
        if writer:
            writer.close()
