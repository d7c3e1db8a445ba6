"""Faults of facts/security.md 3.3 on one host, by their numbers, each under load, with a denied pair probed all the while."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import time
from contextlib import suppress

import pytest
import websockets

from meshagent.store.sqlite import open_sqlite
from tests.system import apps
from tests.system.apps import Caller, HttpApp, Load, get
from tests.system.live import eventually, free_port, live_mesh
from tests.system.shop import RATE, shop, stop_all, two_hosts, until_status


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


async def test_fault_r10_envoy_killed_under_load_serves_again_within_a_second():
    async with shop() as it, Load(it.web, 8, RATE) as load:
        await asyncio.sleep(0.5)
        old = it.agent.envoy_pid()
        assert load.failed() == []
        it.agent.end_envoy(signal.SIGKILL)
        killed = time.monotonic()
        await asyncio.sleep(2.5)
        assert it.agent.envoy_pid() not in (0, old)
        late = [round(began - killed, 3) for began, status in load.answers if status != 200 and began >= killed + 1.0]
        assert late == [] and len(load.since(killed + 1.0)) > 150


async def test_fault_r10_the_envoy_of_one_of_two_hosts_is_killed_and_callers_lose_only_what_was_already_sent_to_it():
    async with shop() as it, two_hosts(it) as (second, other), Load(it.web, 8, RATE) as load:
        for _ in range(3):
            served = len(other.seen)
            await eventually(lambda served=served: len(other.seen) > served + 20, 10)
            second.end_envoy(signal.SIGKILL)
            await asyncio.sleep(0.7)
        # What was never sent is tried elsewhere. What was sent may have been done, and only the caller can know whether
        # it may be done twice: of the 8 requests under way at a time, each kill costs those at the dead host.
        assert load.not_cut() == set()
        assert set(load.failed()) <= {503} and len(load.failed()) == len(load.reasons) <= 3 * 4


async def test_fault_r21_without_the_store_agent_and_envoy_come_back_from_the_snapshot():
    async with shop() as it:
        await asyncio.sleep(0.3)
        await it.mesh.store.close()
        it.mesh.store = None
        bring_back = hide_store(it.mesh)
        await stop_all(it.agent)
        await it.agent.start()
        await until_status(it.web, 200)
        assert (await get(it.orders)).status == 403
        status = it.agent.status()
        assert any("manifest" in key for key in status["problems"]) or not status["store_ok"]
        bring_back()
        it.mesh.store = await open_sqlite(it.mesh.store_path)
        await it.mesh.applied(await it.mesh.intend("payments", web="deny", orders="deny"))
        await until_status(it.web, 403)


def hide_store(mesh):
    """Move the store's files away. Gives what brings them back."""
    away = mesh.directory / "away"
    away.mkdir()
    names = [file.name for file in mesh.directory.glob("mesh.db*") if file.is_file()]
    for name in names:
        (mesh.directory / name).rename(away / name)

    def bring_back():
        for file in [*mesh.directory.glob("mesh.db*")]:
            if file.is_file():
                file.unlink()  # what an agent made anew meanwhile
        for name in names:
            (away / name).rename(mesh.directory / name)

    return bring_back


def is_whole(data):
    try:
        return bool(json.loads(data)["checksum"])
    except (ValueError, KeyError):
        return False


def damaged(data, damage):
    """What is left of the file after a fault."""
    middle = len(data) // 2
    flipped = data[:middle] + bytes([data[middle] ^ 4]) + data[middle + 1 :]
    return {"truncated": data[:middle], "flipped": flipped, "empty": b""}[damage]


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty"])
async def test_fault_r21_a_damaged_snapshot_is_ignored_and_fetched_anew(damage):
    async with shop() as it:
        await asyncio.sleep(0.3)
        await stop_all(it.agent)
        snapshot = it.agent.directory / "data" / "snapshot.json"
        snapshot.write_bytes(damaged(snapshot.read_bytes(), damage))
        await it.agent.start()
        await until_status(it.web, 200)
        assert (await get(it.orders)).status == 403
        assert it.agent.events("snapshot_ignored")
        await eventually(lambda: is_whole(snapshot.read_bytes()), 5)


async def test_fault_r21_a_damaged_snapshot_and_no_store_let_nobody_through_until_the_store_is_back():
    async with shop() as it:
        await asyncio.sleep(0.3)
        await it.mesh.store.close()
        it.mesh.store = None
        await stop_all(it.agent)
        bring_back = hide_store(it.mesh)
        snapshot = it.agent.directory / "data" / "snapshot.json"
        snapshot.write_bytes(damaged(snapshot.read_bytes(), "flipped"))
        await it.agent.start()
        async with Load(it.web, 2, 20) as load:
            await asyncio.sleep(1.5)
        assert load.answers and 200 not in {status for _, status in load.answers}
        bring_back()
        await until_status(it.web, 200)


async def test_fault_r28_one_of_two_hosts_stops_under_load_with_long_requests_under_way(monkeypatch):
    monkeypatch.setattr(apps, "SLOW_SECONDS", 5.0)
    async with shop(drain="8s") as it, two_hosts(it) as (second, other), Load(it.web, 8, RATE) as load:
        slow = await long_requests(it, other)
        began = time.monotonic()
        assert await second.stop() == 0
        assert 4.0 < time.monotonic() - began < 10.0
        assert [answer.status for answer in await asyncio.gather(*slow)] == [200] * 6
        await asyncio.sleep(1.0)
        assert load.failed() == [] and len(load.answers) > 1000
        assert second.envoy_pid() == 0


async def long_requests(it, other):
    """Six requests of 5 s, of which the other instance has some."""
    await eventually(lambda: len(other.seen) > 20, 10)
    slow = [asyncio.create_task(Caller(it.web).get("/slow", timeout=15)) for _ in range(6)]
    await eventually(lambda: any("/slow" in head for head in other.seen), 3)
    return slow


async def test_fault_r28_one_of_two_instances_goes_down_under_load_with_long_requests_under_way(monkeypatch):
    monkeypatch.setattr(apps, "SLOW_SECONDS", 5.0)
    port = free_port()
    async with shop(drain="8s") as it, HttpApp(port, "second") as other, Load(it.web, 8, RATE) as load:
        await it.agent.up(name="payments", id="second", port=port, protocol="http")
        slow = await long_requests(it, other)
        answer = await it.agent.down("payments", "second")
        assert answer["http"] == 200 and 4000 < answer["drained_ms"] < 8000
        assert [answer.status for answer in await asyncio.gather(*slow)] == [200] * 6
        await asyncio.sleep(0.5)
        assert load.failed() == []


async def echo(connection):
    """A WebSocket app."""
    async for message in connection:
        await connection.send(message)


async def test_fault_r28_a_websocket_to_a_host_that_stops_goes_on_until_the_drain_time_is_over():
    async with shop(drain="4s") as it, two_hosts(it) as (second, _), Load(it.web, 8, RATE) as load:
        port, local = free_port(), free_port()
        server = await websockets.serve(echo, "127.0.0.1", port)
        await second.up(name="chat", port=port, protocol="http")
        upstreams = [{"service": "chat", "local_port": local}]
        await it.agent.up(name="batch", port=free_port(), protocol="http", upstreams=upstreams)
        await it.mesh.applied(await it.mesh.intend("chat", batch="allow"))
        connection = await websockets.connect(f"ws://127.0.0.1:{local}/")
        going = asyncio.create_task(second.stop())
        began = time.monotonic()
        with suppress(websockets.ConnectionClosed):
            while True:
                await connection.send("x")
                assert await connection.recv() == "x"
                await asyncio.sleep(0.05)
        assert 3.0 < time.monotonic() - began < 6.0
        assert await going == 0
        assert load.failed() == []
        server.close()


async def test_fault_r28_a_websocket_ends_only_when_the_drain_time_is_over():
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
        # The listener that was turned down holds up no other: one that comes now is served.
        late = free_port()
        upstreams = [{"service": "payments", "local_port": late}]
        await it.agent.up(name="reporting", port=free_port(), protocol="http", upstreams=upstreams)
        await it.mesh.applied(await it.mesh.intend("payments", web="allow", orders="deny", anyone="allow"))
        await until_status(late, 200)
        await it.mesh.applied(await it.mesh.intend("payments", web="allow", orders="deny", batch="allow"))
        await until_status(late, 403)
        assert name in it.agent.status()["rejected"]
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
