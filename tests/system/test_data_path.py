"""`data_path: l4`: bytes between the apps, a reason for who is refused, and requests judged where permissions judge them."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from types import SimpleNamespace

import grpc
import pytest
import pytest_asyncio

from tests.system.apps import Caller, HttpApp, get
from tests.system.clock import Clock
from tests.system.forged import DOMAIN, Forger, Peer
from tests.system.live import free_port, live_mesh

L4 = "meshagent-l4"  # what a sidecar offers by ALPN that carries bytes
CERT = "x-forwarded-client-cert"  # an app sees it only where its proxy saw the request
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shop():
    """payments (http) and clock (grpc), called by web and orders; every test says itself who may and how it is carried."""
    async with live_mesh() as mesh, HttpApp(free_port(), "payments") as payments, Clock() as clock:
        agent = await mesh.agent()
        local = {(source, to): free_port() for source in ("web", "orders") for to in ("payments", "clock")}
        await agent.up(name="payments", port=payments.port, protocol="http")
        await agent.up(name="clock", port=clock.port, protocol="grpc")
        for source in ("web", "orders"):
            upstreams = [{"service": to, "local_port": local[source, to]} for to in ("payments", "clock")]
            await agent.up(name=source, port=free_port(), protocol="http", upstreams=upstreams)
        forger = Forger(mesh.directory, mesh.directory / "ca")
        peer = Peer(agent.inbound_port, forger.service("web"), f"web.payments.{DOMAIN}")
        yield SimpleNamespace(mesh=mesh, agent=agent, local=local, payments=payments, web=peer, forger=forger)


async def carried(shop, by, service="payments"):
    await shop.mesh.applied(await shop.mesh.apply({"kind": "service", "name": service, "data_path": by}))


async def allowed(shop, service="payments", **sources):
    revision = await shop.mesh.intend(service, **({"web": "allow", "orders": "allow"} | sources))
    await shop.mesh.applied(revision)
    return revision


async def until_bytes(port, wait=5.0):
    """Calls on new connections until the app is reached by bytes."""
    until = time.monotonic() + wait
    while True:
        with suppress(OSError, asyncio.IncompleteReadError):
            answer = await get(port)
            if answer.status == 200 and CERT not in answer.text:
                return
        assert time.monotonic() < until
        await asyncio.sleep(0.02)


async def test_allowed_bytes_reach_the_app_as_they_were_written_over_one_kept_connection(shop):
    await allowed(shop)
    await carried(shop, "l4")
    await until_bytes(shop.local["web", "payments"])
    before, caller = shop.payments.connections, Caller(shop.local["web", "payments"])
    for number in range(20):
        written = f"GET //a/../b%2fc?{number} HTTP/1.1\r\nHoSt: app\r\nX_Odd:  1 \r\n\r\n"
        answer = await caller.send(written.encode())
        assert answer.status == 200 and answer.text == f"payments\n{written}"
    assert shop.payments.connections == before + 1
    caller.close()


async def test_grpc_calls_and_streams_pass_as_bytes_and_a_refused_caller_is_told_so(shop):
    await allowed(shop, "clock", orders="deny")
    await carried(shop, "l4", "clock")
    async with grpc.aio.insecure_channel(f"127.0.0.1:{shop.local['web', 'clock']}") as channel:
        async with asyncio.timeout(5):
            assert await channel.unary_unary("/shop.Clock/Echo")(b"hello", wait_for_ready=True) == b"hello"
            ticks = channel.unary_stream("/shop.Clock/Ticks")(b"")
            assert [await ticks.read() for _ in range(3)] == [b"tick"] * 3
        ticks.cancel()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{shop.local['orders', 'clock']}") as channel:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await channel.unary_unary("/shop.Clock/Echo")(b"hello", timeout=5)
        assert refused.value.code() == grpc.StatusCode.PERMISSION_DENIED, refused.value


async def test_a_refused_caller_is_answered_with_the_reason_and_one_that_is_allowed_again_passes_bytes(shop):
    await allowed(shop, web="deny")
    await carried(shop, "l4")
    caller = Caller(shop.local["web", "payments"])
    before = len(shop.payments.seen)
    for _ in range(3):
        answer = await caller.get()
        assert (answer.status, answer.headers["x-mesh-refused"]) == (403, "intention")
        assert f"spiffe://{DOMAIN}/svc/web" in answer.text
    assert len(shop.payments.seen) == before
    await allowed(shop)
    await until_bytes(shop.local["web", "payments"])
    caller.close()


async def test_a_deny_cuts_open_connections_of_the_source_and_of_nobody_else(shop):
    await allowed(shop)
    await carried(shop, "l4")
    callers = {}
    for source in ("web", "orders"):
        await until_bytes(shop.local[source, "payments"])
        callers[source] = Caller(shop.local[source, "payments"])
        assert (await callers[source].get()).status == 200
    reader, _ = callers["web"].streams
    committed = time.monotonic()
    await shop.mesh.intend("payments", web="deny", orders="allow")
    async with asyncio.timeout(5):
        with suppress(ConnectionError):
            assert await reader.read(1) == b""
    took = time.monotonic() - committed
    assert took < 2.5, f"{took:.2f} s"
    callers["web"].close()
    answer = await callers["web"].get()
    assert (answer.status, answer.headers["x-mesh-refused"]) == (403, "intention")
    assert (await callers["orders"].get()).status == 200
    for caller in callers.values():
        caller.close()


ONLY_REPORTS = [{"action": "allow", "http": {"methods": ["GET"], "path_prefix": "/reports"}}]


async def test_attack_a_source_with_permissions_offers_to_pass_bytes_on_and_is_judged_by_request_all_the_same(shop):
    """By itself, and under another's name; and what it had open before it had permissions ends."""
    await allowed(shop)
    await carried(shop, "l4")
    await until_bytes(shop.local["web", "payments"])
    early = Caller(shop.local["web", "payments"])
    assert (await early.get("/admin")).status == 200
    reader, _ = early.streams
    await allowed(shop, web=ONLY_REPORTS)
    async with asyncio.timeout(2.5):
        with suppress(ConnectionError):
            assert await reader.read(1) == b""
    early.close()
    before = len(shop.payments.seen)
    assert (await get(shop.local["web", "payments"], "/admin")).status == 403
    stolen = Peer(shop.web.port, shop.web.identity, f"orders.payments.{DOMAIN}")
    hidden = b"GET /reports HTTP/1.1\r\nhost: app\r\n\r\nGET /admin HTTP/1.1\r\nhost: app\r\n\r\n"
    for alpn in (L4, f"{L4},h2", f"h2,{L4}", f"{L4},http/1.1", ""):
        received = await shop.web.everything(b"GET /admin HTTP/1.1\r\nhost: app\r\n\r\n", alpn, wait=0.3)
        assert b" 200 " not in received.partition(b"\r\n")[0], (alpn, received)
        assert await stolen.everything(b"GET /reports HTTP/1.1\r\nhost: app\r\n\r\n", alpn, wait=0.3) == b"", alpn
    assert len(shop.payments.seen) == before
    received = await shop.web.everything(hidden, L4, wait=0.5)
    assert received.startswith(b"HTTP/1.1 200") and b"HTTP/1.1 403" in received
    answer = await get(shop.local["web", "payments"], "/reports/1")
    assert answer.status == 200 and CERT in answer.text  # its proxy saw the request
    assert all(" /reports" in each.partition("\r\n")[0] for each in shop.payments.seen[before:])


async def test_who_speaks_as_before_is_understood_by_a_service_that_takes_bytes_and_the_other_way_round(shop):
    """Sidecars that do not know of `l4` yet, and such as still offer it to a service that went back."""
    await allowed(shop)
    for by in ("l4", "l7"):
        await carried(shop, by)
        answer = await shop.web.http2([(":method", "GET"), (":scheme", "http"), (":authority", "app"), (":path", "/")])
        assert answer.status == 200 and CERT in answer.text, (by, answer)
        received = await shop.web.everything(b"GET / HTTP/1.1\r\nhost: app\r\n\r\n", L4, wait=0.3)
        assert received.startswith(b"HTTP/1.1 200"), (by, received)
        assert (CERT.encode() in received) == (by == "l7")


class Client:
    """Requests one after another on a kept connection, as HTTP clients do it.

    It looks whether the connection still stands, does as `connection: close` says, and asks anew (RFC 9110, 9.2.2) where
    a connection that had served before ends without a byte of the answer.
    """

    def __init__(self, port):
        self.answers, self.again, self.failed = 0, 0, []
        self._port, self._caller, self._served = port, Caller(port), False

    async def run(self, stop, pause=0.01):
        while not stop.is_set():
            await self._one()
            await asyncio.sleep(pause)
        self._caller.close()

    async def _one(self):
        streams = self._caller.streams
        if streams and streams[0].at_eof():
            self._anew()
        try:
            answer = await self._caller.get(timeout=2)
        except (OSError, asyncio.IncompleteReadError) as error:
            partial = getattr(error, "partial", b"")
            if not self._served or partial:
                self.failed.append(repr(error))
            self.again += 1
            self._anew()
            return
        self._served = True
        self.answers += 1
        if answer.status != 200:
            self.failed.append(answer.status)
        if answer.headers.get("connection") == "close":
            self._anew()

    def _anew(self):
        self._caller.close()
        self._served = False


async def test_a_change_of_the_data_path_under_load_fails_no_request_that_was_not_under_way(shop):
    await allowed(shop)
    await carried(shop, "l7")
    clients = [Client(shop.local[source, "payments"]) for source in ("web", "orders") for _ in range(4)]
    stop = asyncio.Event()
    running = [asyncio.create_task(client.run(stop)) for client in clients]
    again = []
    for by in ("l4", "l7", "l4", "l7"):
        before = sum(client.again for client in clients)
        await carried(shop, by)
        await asyncio.sleep(1.6)  # drained connections end after 1 s
        assert (CERT in (await get(shop.local["web", "payments"])).text) == (by == "l7")
        again.append(sum(client.again for client in clients) - before)
    stop.set()
    await asyncio.gather(*running)
    assert sum(client.answers for client in clients) > 500
    assert [each for client in clients for each in client.failed] == []
    assert again[0] == again[2] == 0  # requests are drained: nobody is cut
    assert max(again) <= len(clients)  # bytes are cut, so each connection may lose the one that is under way
