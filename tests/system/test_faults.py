"""Faults of facts/security.md 3.3 on one host, by their numbers, each under load, with a denied pair probed all the while."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import time
from contextlib import asynccontextmanager

import pytest
import websockets

from tests.system.apps import Caller, HttpApp, Load, get
from tests.system.live import eventually, free_port, live_mesh

RATE = 200


class Shop:
    """payments, web that may call it and orders that may not."""

    def __init__(self, mesh, agent, app, web, orders):
        self.mesh, self.agent, self.app, self.web, self.orders = mesh, agent, app, web, orders


@asynccontextmanager
async def shop():
    async with live_mesh() as mesh:
        agent = await mesh.agent()
        app, web, orders = free_port(), free_port(), free_port()
        async with HttpApp(app, "payments") as payments:
            await agent.up(name="payments", port=app, protocol="http")
            for name, local in (("web", web), ("orders", orders)):
                upstreams = [{"service": "payments", "local_port": local}]
                await agent.up(name=name, port=free_port(), protocol="http", upstreams=upstreams)
            await mesh.applied(await mesh.intend("payments", web="allow", orders="deny"))
            async with Load(orders, 1, 10) as denied:
                yield Shop(mesh, agent, payments, web, orders)
            assert not [status for _, status in denied.answers if isinstance(status, int) and status < 300]
            assert denied.answers


async def test_fault_r8_agent_killed_and_restarted_under_load_fails_nothing_and_re_sends_nothing():
    async with shop() as it, Load(it.web, 4, RATE) as load:
        pid = it.agent.envoy_pid()
        for _ in range(5):
            await asyncio.sleep(0.5)
            await it.agent.kill()
            await asyncio.sleep(0.3)
            await it.agent.start()
            status = it.agent.status()
            assert status["envoy"]["pid"] == pid and it.agent.events("envoy_adopted")
            assert sum(status["sent"].values()) == 0, status["sent"]
        await it.mesh.applied(await it.mesh.intend("payments", web="allow", orders="deny", batch="allow"))
        await asyncio.sleep(0.5)
        assert load.failed() == [] and len(load.answers) > 500


async def test_fault_r10_envoy_killed_serves_again_within_a_second():
    async with shop() as it:
        assert (await get(it.web)).status == 200
        old = it.agent.envoy_pid()
        it.agent.end_envoy(signal.SIGKILL)
        killed = time.monotonic()
        while True:
            try:
                if (await get(it.web)).status == 200:
                    break
            except (OSError, asyncio.IncompleteReadError):
                await asyncio.sleep(0.01)
            assert time.monotonic() - killed < 5
        took = time.monotonic() - killed
        assert it.agent.envoy_pid() != old
        assert took < 1.0, f"{took:.2f} s"


async def stop_all(agent):
    """Agent and Envoy both die at once."""
    await agent.kill()
    agent.end_envoy(signal.SIGKILL)
    await eventually(lambda: agent.envoy_pid() == 0, 5)


async def test_fault_r21_without_the_store_agent_and_envoy_come_back_from_the_snapshot():
    async with shop() as it:
        await asyncio.sleep(0.3)
        await it.mesh.store.close()
        it.mesh.store = None
        away = it.mesh.directory / "away"
        away.mkdir()
        for file in it.mesh.directory.glob("mesh.db*"):
            if file.is_file():
                file.rename(away / file.name)
        await stop_all(it.agent)
        await it.agent.start()
        await until_status(it.web, 200)
        assert (await get(it.orders)).status == 403
        status = it.agent.status()
        assert any("manifest" in key for key in status["problems"]) or not status["store_ok"]


def is_whole(data):
    try:
        return bool(json.loads(data)["checksum"])
    except (ValueError, KeyError):
        return False


async def until_status(port, wanted, wait=10.0):
    until = time.monotonic() + wait
    while True:
        try:
            if (await get(port)).status == wanted:
                return
        except (OSError, asyncio.IncompleteReadError):
            pass
        assert time.monotonic() < until
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty"])
async def test_fault_r21_a_damaged_snapshot_is_ignored_and_fetched_anew(damage):
    async with shop() as it:
        await asyncio.sleep(0.3)
        await stop_all(it.agent)
        snapshot = it.agent.directory / "data" / "snapshot.json"
        data = snapshot.read_bytes()
        middle = len(data) // 2
        flipped = data[:middle] + bytes([data[middle] ^ 4]) + data[middle + 1 :]
        snapshot.write_bytes({"truncated": data[:middle], "flipped": flipped, "empty": b""}[damage])
        await it.agent.start()
        await until_status(it.web, 200)
        assert (await get(it.orders)).status == 403
        assert it.agent.events("snapshot_ignored")
        await eventually(lambda: is_whole(snapshot.read_bytes()), 5)


async def test_fault_r28_one_of_two_hosts_stops_under_load_and_nobody_notices():
    async with shop() as it:
        second = await it.mesh.agent("vm-2")
        port = free_port()
        async with HttpApp(port, "second") as other:
            await second.up(name="payments", port=port, protocol="http")
            async with Load(it.web, 8, RATE) as load:
                await eventually(lambda: len(other.seen) > 20, 10)
                assert await second.stop() == 0
                await asyncio.sleep(1.0)
            assert load.failed() == [] and len(load.answers) > 200
            assert second.envoy_pid() == 0


async def test_fault_r28_one_of_two_instances_goes_down_under_load_with_long_requests_under_way():
    async with shop() as it:
        port = free_port()
        async with HttpApp(port, "second") as other:
            await it.agent.up(name="payments", id="second", port=port, protocol="http")
            async with Load(it.web, 8, RATE) as load:
                await eventually(lambda: len(other.seen) > 20, 10)
                slow = [asyncio.create_task(get(it.web, "/slow")) for _ in range(6)]
                await asyncio.sleep(0.3)
                assert any("/slow" in head for head in other.seen)
                assert (await it.agent.down("payments", "second"))["http"] == 200
                assert [answer.status for answer in await asyncio.gather(*slow)] == [200] * 6
                await asyncio.sleep(0.5)
            assert load.failed() == []


async def test_fault_r28_a_websocket_ends_only_when_the_drain_time_is_over():
    async def echo(connection):
        async for message in connection:
            await connection.send(message)

    async with live_mesh() as mesh:
        agent = await mesh.agent()
        port, local = free_port(), free_port()
        server = await websockets.serve(echo, "127.0.0.1", port)
        await agent.up(name="chat", port=port, protocol="http")
        await agent.up(
            name="web", port=free_port(), protocol="http", upstreams=[{"service": "chat", "local_port": local}]
        )
        await mesh.applied(await mesh.intend("chat", web="allow"))
        connection = await websockets.connect(f"ws://127.0.0.1:{local}/")
        going = asyncio.create_task(agent.down("chat"))
        began = time.monotonic()
        while time.monotonic() - began < 2.0:
            await connection.send("x")
            assert await connection.recv() == "x"
            await asyncio.sleep(0.1)
        assert (await going)["drained_ms"] >= 2500
        server.close()


async def test_fault_r32_a_listener_that_envoy_rejects_is_told_in_status_and_heals_when_the_port_is_free():
    async with shop() as it, Load(it.web, 4, RATE) as load:
        port = free_port()
        upstream = {"service": "payments", "local_port": port}
        await it.agent.up(name="batch", port=free_port(), protocol="http", upstreams=[upstream])
        await it.agent.kill()
        # While no agent runs, the definition on disk is given a port that another process takes.
        taken = free_port()
        roster = it.agent.directory / "data" / "services.json"
        roster.write_text(roster.read_text().replace(str(port), str(taken)))
        roster.chmod(0o600)
        squatter = socket.create_server(("127.0.0.1", taken))
        await it.agent.start()
        name = f"out/batch/payments:{taken}"
        await eventually(lambda: name in it.agent.status()["rejected"], 10)
        assert "ddress already in use" in it.agent.status()["rejected"][name]
        await it.mesh.applied(await it.mesh.intend("payments", web="allow", orders="deny", batch="allow"))
        assert (await get(it.web)).status == 200
        squatter.close()
        await eventually(lambda: it.agent.status()["rejected"] == {}, 15)
        await until_status(taken, 200)
        assert load.failed() == []


async def test_a_caller_keeps_its_connection_through_an_agent_restart():
    async with shop() as it:
        caller = Caller(it.web)
        assert (await caller.get()).status == 200
        await it.agent.kill()
        assert (await caller.get()).status == 200
        await it.agent.start()
        assert (await caller.get()).status == 200
        assert it.app.connections >= 1
