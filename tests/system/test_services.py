"""Services come and go, are checked, and are reached in every way that a definition can say."""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import yaml

from tests.system.apps import Caller, HttpApp, TcpApp, get, read_answer
from tests.system.live import eventually, free_port, live_mesh


@asynccontextmanager
async def pair(*, protocol="http", checks=(), **settings):
    """payments, and web that may call it. Gives (mesh, agent, the app, web's local port)."""
    async with live_mesh() as mesh:
        agent = await mesh.agent(**settings)
        port, local = free_port(), free_port()
        app = HttpApp(port, "payments") if protocol == "http" else TcpApp(port, b"HELLO\n")
        async with app:
            await agent.up(name="payments", port=port, protocol=protocol, checks=list(checks))
            upstreams = [{"service": "payments", "local_port": local}]
            await agent.up(name="web", port=free_port(), protocol="http", upstreams=upstreams)
            await mesh.applied(await mesh.intend("payments", web="allow"))
            yield mesh, agent, app, local


async def status_is(local, wanted, wait=5.0):
    """Wait until a call is answered so."""
    until = time.monotonic() + wait
    caller = Caller(local)
    while (status := (await caller.get()).status) != wanted:
        assert time.monotonic() < until, f"{status} for {wait} s, not {wanted}"
        await asyncio.sleep(0.02)
    caller.close()


async def test_an_app_that_fails_its_check_is_not_called_and_one_that_recovers_is():
    health = free_port()
    check = {"http": f"http://127.0.0.1:{health}/health", "interval": "100ms", "timeout": "500ms"}
    async with pair(checks=[check]) as (_, agent, _, local):
        await status_is(local, 503)
        async with HttpApp(health):
            await status_is(local, 200)
        await status_is(local, 503)
        row = next(row for row in agent.call("GET", "/v1/services")["services"] if row["name"] == "payments")
        assert row["health"] == "failing" and row["checks"][0]["status"] == "failing"


async def test_a_ttl_check_counts_what_the_app_says_and_its_silence():
    async with pair(checks=[{"ttl": "1s"}]) as (_, agent, _, local):
        await status_is(local, 503)
        assert agent.call("PUT", "/v1/services/payments/ttl", {"status": "passing"})["http"] == 200
        await status_is(local, 200, 1.0)
        await status_is(local, 503, 4.0)


async def test_an_intention_ends_at_its_time():
    async with pair() as (mesh, _, _, local):
        ends = datetime.now(UTC) + timedelta(seconds=1.5)
        source = {"name": "web", "action": "allow", "expires_at": ends.isoformat()}
        await mesh.applied(await mesh.apply({"kind": "intention", "name": "payments", "sources": [source]}))
        assert (await get(local)).status == 200
        await asyncio.sleep((ends - datetime.now(UTC)).total_seconds() + 0.1)
        assert (await get(local)).status == 403


async def test_two_instances_on_one_host_are_both_called_each_by_a_port_of_its_own():
    async with pair() as (_, agent, app, local):
        second = free_port()
        async with HttpApp(second, "second"):
            row = await agent.up(name="payments", id="payments-2", port=second, protocol="http")
            assert row["mtls_port"] != agent.inbound_port
            answers = [(await get(local)).text.partition("\n")[0] for _ in range(40)]
            assert set(answers) == {"payments", "second"}
            assert app.connections >= 1


async def test_an_upstream_on_a_unix_socket_is_for_its_owner_and_group():
    async with pair() as (mesh, agent, _, _):
        path = agent.directory / "run" / "payments.sock"
        await agent.up(
            name="batch",
            port=free_port(),
            upstreams=[{"service": "payments", "local_socket": str(path), "mode": 0o600}],
        )
        await mesh.applied(await mesh.intend("payments", web="allow", batch="allow"))
        assert path.stat().st_mode & 0o777 == 0o600
        reader, writer = await asyncio.open_unix_connection(str(path))
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        answer = await read_answer(reader)
        assert answer.status == 200 and "svc/batch" in answer.text
        writer.close()


async def test_a_host_with_an_ipv6_address_is_called_on_it():
    async with pair(host_address="::1") as (_, agent, _, local):
        assert (await get(local)).status == 200
        with socket.create_connection(("::1", agent.inbound_port), 2):
            pass


async def test_permissive_takes_plain_text_and_lets_strangers_do_only_what_anyone_may():
    async with pair(host_address="127.0.0.2") as (mesh, agent, app, local):
        revision = await mesh.apply({"kind": "service", "name": "payments", "mtls": "permissive"})
        await mesh.applied(revision)

        async def plain() -> int:
            reader, writer = await asyncio.open_connection("127.0.0.2", app.port)
            writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            answer = await read_answer(reader)
            writer.close()
            return answer.status

        await eventually(
            lambda: any(f":{app.port}" in line for line in agent.admin("/listeners").decode().splitlines()), 5
        )
        assert await plain() == 403
        assert (await get(local)).status == 200
        await mesh.applied(await mesh.intend("payments", anyone="allow"))
        assert await plain() == 200


async def test_a_tcp_source_that_is_denied_while_strangers_are_allowed_is_not_even_greeted():
    async with pair(protocol="tcp") as (mesh, _, app, local):
        await mesh.applied(await mesh.intend("payments", web="deny", anyone="allow"))
        reader, writer = await asyncio.open_connection("127.0.0.1", local)
        async with asyncio.timeout(5):
            assert await reader.read(100) == b""
        writer.close()
        await mesh.applied(await mesh.intend("payments", anyone="allow"))
        reader, writer = await asyncio.open_connection("127.0.0.1", local)
        async with asyncio.timeout(5):
            assert await reader.readexactly(6) == b"HELLO\n"
        writer.close()


async def test_services_d_is_read_again_on_sighup_and_a_file_that_went_retires_its_service():
    async with live_mesh() as mesh:
        agent = await mesh.agent()
        directory = agent.directory / "services.d"
        directory.mkdir()
        file = directory / "late.yaml"
        file.write_text(yaml.safe_dump({"name": "late", "port": free_port()}))
        (directory / "bad.yaml").write_text("name: Late\nport: 1\n")
        agent.process.send_signal(signal.SIGHUP)
        await eventually(lambda: agent.status()["services"] == ["late"], 5)
        await eventually(lambda: agent.events("definition_unusable"), 5)
        assert "bad.yaml:1: name" in agent.events("definition_unusable")[0]["problem"]
        (directory / "bad.yaml").unlink()
        file.unlink()
        agent.process.send_signal(signal.SIGHUP)
        await eventually(lambda: agent.status()["services"] == [], 10)


async def test_http_1_0_clients_are_served():
    async with pair() as (_, _, _, local):
        reader, writer = await asyncio.open_connection("127.0.0.1", local)
        writer.write(b"GET / HTTP/1.0\r\n\r\n")
        async with asyncio.timeout(5):
            assert (await reader.readline()).split()[1] == b"200"
        writer.close()


async def test_a_certificate_is_renewed_in_time_and_no_call_fails():
    async with live_mesh(ttl="6s") as mesh:
        agent = await mesh.agent()
        port, local = free_port(), free_port()
        async with HttpApp(port):
            await agent.up(name="payments", port=port, protocol="http")
            await agent.up(
                name="web", port=free_port(), protocol="http", upstreams=[{"service": "payments", "local_port": local}]
            )
            await mesh.applied(await mesh.intend("payments", web="allow"))
            first = agent.status()["svids"]["web"]["serial"]
            until = time.monotonic() + 9
            while time.monotonic() < until:
                assert (await get(local)).status == 200
                await asyncio.sleep(0.05)
            assert agent.status()["svids"]["web"]["serial"] != first


async def test_down_waits_for_what_is_under_way_http_and_tcp():
    async with pair() as (_, agent, app, local):
        app.delay = 1.0
        slow = asyncio.create_task(get(local))
        await asyncio.sleep(0.3)
        answer = await agent.down("payments")
        assert answer["http"] == 200 and (await slow).status == 200
    async with pair(protocol="tcp") as (_, agent, _, local):
        reader, writer = await asyncio.open_connection("127.0.0.1", local)
        assert await reader.readexactly(6) == b"HELLO\n"
        going = asyncio.create_task(agent.down("payments"))
        await asyncio.sleep(1.5)
        writer.write(b"still")
        async with asyncio.timeout(3):
            assert await reader.readexactly(5) == b"still"
        writer.close()
        assert (await going)["drained_ms"] < 5000


async def test_slow_requests_are_logged_where_the_mesh_asks_for_them():
    async with pair() as (mesh, agent, _, local):
        log = {"only": "errors", "slower_than": "500ms"}
        await mesh.applied(await mesh.apply({"kind": "mesh", "name": "mesh", "access_log": log}))
        assert (await get(local, "/quick")).status == 200
        assert (await get(local, "/slow")).status == 200
        await eventually(lambda: len(agent.events("request_logged")) >= 2, 5)
        lines = agent.events("request_logged")
        assert {(line["path"], line["side"]) for line in lines} == {
            ("/slow", "inbound"),
            ("/slow", "outbound to payments"),
        }
        assert all(line["duration_ms"] >= 500 and line["status"] == 200 for line in lines)
