"""Attack tests 19 and 20: an instance that somebody registered at his own address, and certificates that have ended."""

from __future__ import annotations

import asyncio
import ssl
import time
from datetime import timedelta

from meshagent.model.service import Instance
from meshagent.state.catalog import put_instance
from tests.system.apps import Caller, HttpApp, get, read_answer
from tests.system.forged import DOMAIN, Forger, Peer, context, uri
from tests.system.live import KEYS, eventually, free_port, live_mesh

WEB_TO_PAYMENTS = f"web.payments.{DOMAIN}"


async def test_attack_19_an_instance_registered_at_an_attackers_address_gets_no_request_and_is_left_out():
    stolen: list[bytes] = []

    async def listen(reader, writer):
        stolen.append(await reader.read(65536))
        writer.close()

    async with live_mesh() as mesh:
        agent = await mesh.agent()
        port, local, evil = free_port(), free_port(), free_port()
        outliers = {"consecutive_5xx": 0, "consecutive_local_origin_failure": 3, "interval": "200ms"}
        async with HttpApp(port, "payments") as app:
            await agent.up(name="payments", port=port, protocol="http")
            upstreams = [{"service": "payments", "local_port": local}]
            await agent.up(name="web", port=free_port(), protocol="http", upstreams=upstreams)
            await mesh.intend("payments", web="allow")
            await mesh.applied(await mesh.apply({"kind": "service", "name": "payments", "outlier_detection": outliers}))
            made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            made.load_cert_chain(Forger(mesh.directory, mesh.directory / "ca").service("orders").path)
            made.set_alpn_protocols(["h2"])
            server = await asyncio.start_server(listen, "127.0.0.1", evil, ssl=made)
            lease = await mesh.store.lease(timedelta(seconds=30))
            fields = {"service": "payments", "host": "evil", "id": "payments", "address": "127.0.0.1", "port": evil}
            await mesh.store.commit([put_instance(KEYS, Instance(**fields, protocol="http"), lease.id)])
            await eventually(lambda: f"127.0.0.1:{evil}" in agent.admin("/clusters").decode(), 5)
            answers = [await get(local, headers="x-secret: for-payments\r\n") for _ in range(60)]
            assert {answer.status for answer in answers} == {200}  # the honest one serves, nothing is lost
            assert len(app.seen) == 60
            assert not any(stolen)
            line = f"127.0.0.1:{evil}::health_flags::/failed_outlier_check"
            await eventually(lambda: line in agent.admin("/clusters").decode(), 5)
            server.close()
            await lease.revoke()


async def test_attack_20_a_certificate_that_has_ended_opens_nothing_and_keeps_nothing_open():
    async with live_mesh(ttl="3s") as mesh:
        agent = await mesh.agent()
        port, local = free_port(), free_port()
        async with HttpApp(port, "payments"):
            await agent.up(name="payments", port=port, protocol="http")
            upstreams = [{"service": "payments", "local_port": local}]
            await agent.up(name="web", port=free_port(), protocol="http", upstreams=upstreams)
            await mesh.applied(await mesh.intend("payments", web="allow"))
            forger = Forger(mesh.directory, mesh.directory / "ca")
            short = forger.sign(uri("web"), ends=timedelta(seconds=2))
            tls = context(short)
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", agent.inbound_port, ssl=tls, server_hostname=WEB_TO_PAYMENTS
            )
            began = time.monotonic()
            assert (await ask(reader, writer)).status == 200
            session = writer.get_extra_info("ssl_object").session
            await asyncio.sleep(2.5)
            peer = Peer(agent.inbound_port, short, WEB_TO_PAYMENTS)
            assert isinstance(await peer.get(), str)  # refused below HTTP
            assert isinstance(await resumed(agent.inbound_port, tls, session), str)
            ended = await ended_after(reader, writer, began)
            assert ended < 11, ended  # the life of a certificate (3 s), and Envoy's time to drain a connection (5 s)
            caller = Caller(local)  # who renews its certificate notices nothing of all this
            assert {(await caller.get()).status for _ in range(20)} == {200}


async def ask(reader, writer):
    writer.write(b"GET / HTTP/1.1\r\nhost: app\r\n\r\n")
    async with asyncio.timeout(5):
        return await read_answer(reader)


async def ended_after(reader, writer, began):
    """Requests on the connection until it is closed; how old it became."""
    while time.monotonic() - began < 12:
        try:
            answer = await ask(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            return time.monotonic() - began
        assert answer.status == 200
        await asyncio.sleep(0.1)
    return time.monotonic() - began


async def resumed(port, tls, session):
    """One request over a TLS session of before, in a thread: asyncio takes no session. What came of it."""

    def call():
        import socket

        with socket.create_connection(("127.0.0.1", port), 5) as plain:
            try:
                wrapped = tls.wrap_socket(plain, server_hostname=WEB_TO_PAYMENTS, session=session)
                wrapped.settimeout(5)
                wrapped.sendall(b"GET / HTTP/1.1\r\nhost: app\r\n\r\n")
                answer = wrapped.recv(65536)
            except OSError as error:
                return f"refused: {type(error).__name__}"
            return answer or "refused: closed"

    return await asyncio.to_thread(call)
