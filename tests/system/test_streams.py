"""A deny cuts what is already open, and only that source's: TCP connections, gRPC streams, WebSockets."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from contextlib import asynccontextmanager, suppress

import grpc
import pytest
import websockets

from tests.system.apps import Caller, HttpApp, TcpApp, get
from tests.system.clock import Clock
from tests.system.live import free_port, live_mesh
from tests.system.shop import until_status


@asynccontextmanager
async def called_by_two(app, protocol):
    """One service, called by web and by orders. Gives (mesh, web's port, orders' port)."""
    async with live_mesh() as mesh:
        agent = await mesh.agent()
        web, orders = free_port(), free_port()
        async with app:
            await agent.up(name="payments", port=app.port, protocol=protocol)
            for name, local in (("web", web), ("orders", orders)):
                upstreams = [{"service": "payments", "local_port": local}]
                await agent.up(name=name, port=free_port(), protocol="http", upstreams=upstreams)
            await both_allowed(mesh)
            yield mesh, web, orders


async def both_allowed(mesh):
    await mesh.applied(await mesh.intend("payments", web="allow", orders="allow"))
    await asyncio.sleep(0.2)


async def only_orders(mesh):
    """Deny web; gives the moment of the commit."""
    await mesh.intend("payments", web="deny", orders="allow")
    return time.monotonic()


async def test_open_tcp_connections_of_the_denied_source_end_and_fifty_of_another_stay_also_after_a_re_allow():
    async with called_by_two(TcpApp(free_port()), "tcp") as (mesh, web, orders):
        kept = [await asyncio.open_connection("127.0.0.1", orders) for _ in range(50)]
        for again in (False, True):
            if again:
                await both_allowed(mesh)
            denied = [await asyncio.open_connection("127.0.0.1", web) for _ in range(5)]
            await echoes(*denied, *kept)
            committed = await only_orders(mesh)
            async with asyncio.timeout(5):
                for reader, _ in denied:
                    with suppress(ConnectionError):
                        assert await reader.read(10) == b""
            took = time.monotonic() - committed
            assert took < 1.5, f"{took:.2f} s"
            await asyncio.sleep(0.5)
            await echoes(*kept)


async def echoes(*connections):
    for reader, writer in connections:
        writer.write(b"ping")
        async with asyncio.timeout(2):
            assert await reader.readexactly(4) == b"ping"


async def test_the_next_request_of_a_denied_http_source_is_refused_with_a_reason_and_never_reset():
    async with called_by_two(HttpApp(free_port()), "http") as (mesh, web, orders):
        caller, other = Caller(web), Caller(orders)
        assert (await caller.get()).status == 200
        await mesh.applied(await mesh.intend("payments", web="deny", orders="allow"))
        for _ in range(20):
            answer = await caller.get()
            assert answer.status == 403 and answer.headers["x-mesh-refused"] == "intention"
            assert (await other.get()).status == 200
            await asyncio.sleep(0.1)


class Stream:
    """An open gRPC stream."""

    def __init__(self, port):
        self._channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.use_local_subchannel_pool", 1)])
        self._call = self._channel.unary_stream("/shop.Clock/Ticks", None, None)(b"")

    async def hears(self):
        async with asyncio.timeout(3):
            return await self._call.read() == b"tick"

    async def ended(self, committed):
        """Seconds from the commit until the stream ends."""
        with suppress(grpc.aio.AioRpcError):
            async with asyncio.timeout(6):
                while await self._call.read() is not grpc.aio.EOF:
                    continue
        return time.monotonic() - committed

    async def close(self):
        self._call.cancel()
        await self._channel.close()


async def test_an_open_grpc_stream_of_the_denied_source_ends_also_after_a_deny_and_a_re_allow():
    async with called_by_two(Clock(), "grpc") as (mesh, web, orders):
        for again in (False, True):
            if again:
                early = Stream(web)  # the connection is made while denied
                with suppress(grpc.aio.AioRpcError):
                    assert not await early.hears()
                await both_allowed(mesh)
                await early.close()
            denied, kept = Stream(web), Stream(orders)
            assert await denied.hears() and await kept.hears()
            await asyncio.sleep(0.3)
            committed = await only_orders(mesh)
            assert await denied.ended(committed) < 3.0
            assert await kept.hears()
            await asyncio.sleep(0.5)
            assert await kept.hears()
            await denied.close()
            await kept.close()


class Sockets:
    """A WebSocket service that echoes."""

    def __init__(self):
        self.port = free_port()
        self._server = None

    async def __aenter__(self):
        async def echo(socket):
            async for message in socket:
                await socket.send(message)

        self._server = await websockets.serve(echo, "127.0.0.1", self.port)
        return self

    async def __aexit__(self, *_):
        self._server.close()


async def test_an_open_websocket_of_the_denied_source_ends_also_after_a_deny_and_a_re_allow():
    async with called_by_two(Sockets(), "http") as (mesh, web, orders):
        for again in (False, True):
            if again:
                assert (await Caller(web).get()).status == 403
                await both_allowed(mesh)
            denied = await websockets.connect(f"ws://127.0.0.1:{web}/")
            kept = await websockets.connect(f"ws://127.0.0.1:{orders}/")
            for socket in (denied, kept):
                await socket.send("ping")
                assert await socket.recv() == "ping"
            committed = await only_orders(mesh)
            async with asyncio.timeout(6):
                await denied.wait_closed()
            assert time.monotonic() - committed < 3.0
            await asyncio.sleep(0.5)
            await kept.send("still here")
            async with asyncio.timeout(2):
                assert await kept.recv() == "still here"
            await kept.close()


@pytest.mark.long
async def test_a_caller_that_fell_silent_holds_its_stream_no_longer_than_it_takes_to_answer_a_ping():
    """Frozen, its kernel still acknowledges: neither TCP nor an end of its process tells that nobody is there."""
    async with live_mesh() as mesh, HttpApp(free_port()) as app:
        called, calling, web = await mesh.agent(), await mesh.agent("vm-2"), free_port()
        await called.up(name="payments", port=app.port, protocol="http")
        upstreams = [{"service": "payments", "local_port": web}]
        await calling.up(name="web", port=free_port(), protocol="http", upstreams=upstreams)
        await mesh.applied(await mesh.intend("payments", web="allow"))
        await until_status(web, 200)
        app.delay = 300.0
        waiting = asyncio.create_task(get(web))
        await asyncio.sleep(1.0)
        frozen = (calling.process.pid, calling.envoy_pid())
        for pid in frozen:
            os.kill(pid, signal.SIGSTOP)
        try:
            began = time.monotonic()
            assert _under_way(called) == 1
            while _under_way(called):
                assert time.monotonic() < began + 100
                await asyncio.sleep(1.0)
        finally:
            for pid in frozen:
                os.kill(pid, signal.SIGCONT)
        assert time.monotonic() > began + 15  # by the ping, and not by an end
        waiting.cancel()


def _under_way(agent):
    told = agent.admin("/stats?filter=^http.in.payments/web.downstream_rq_active").decode()
    return int(told.rpartition(": ")[2] or 0)
