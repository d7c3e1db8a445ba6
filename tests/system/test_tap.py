"""Live requests of a real Envoy: what is asked for and nothing else, the same as the log has; and nothing stays behind."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys

import pytest
import pytest_asyncio

from meshagent.api.client import AgentClient
from meshagent.errors import NotFound
from tests.system.apps import Caller, HttpApp, TcpApp, get, raw
from tests.system.live import eventually, free_port, live_mesh

pytestmark = pytest.mark.asyncio(loop_scope="module")
ALIKE = ("time", "side", "service", "source", "method", "path", "authority", "status", "reason", "flags", "details")
COUNTED = ("bytes_received", "bytes_sent", "request_id", "remote", "rule", "route", "subset", "instance", "refused")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shop():
    """web calls payments, which refuses /secret, db by TCP, and pay outside; edge leads to payments; all is logged."""
    async with live_mesh() as mesh:
        agent = await mesh.agent(within=("env", "MESHAGENT_GATEWAYS=edge"))
        async with HttpApp(free_port(), "payments") as payments, TcpApp(free_port()) as db, HttpApp(free_port()) as pay:
            mesh.http, mesh.tcp, mesh.out, mesh.front = free_port(), free_port(), free_port(), free_port()
            await agent.up(name="payments", port=payments.port, protocol="http")
            await agent.up(name="db", port=db.port, protocol="tcp")
            upstreams = [
                {"service": "payments", "local_port": mesh.http},
                {"service": "db", "local_port": mesh.tcp},
                {"service": "pay", "local_port": mesh.out},
            ]
            await agent.up(name="web", port=free_port(), protocol="http", upstreams=upstreams)
            await mesh.apply({"kind": "mesh", "access_log": {"only": "all"}}, *around(mesh, pay))
            await mesh.intend("pay", web="allow")
            await mesh.intend("db", web="allow")
            refused = {"action": "deny", "http": {"path_prefix": "/secret"}}
            allowed = {"action": "allow", "http": {"path_prefix": "/"}}
            await mesh.applied(await mesh.intend("payments", edge="allow", web=[refused, allowed]))
            yield mesh, agent


def around(mesh, pay: HttpApp) -> list[dict]:
    """The gateway edge, and the name outside pay."""
    listeners = [{"address": "127.0.0.1", "port": mesh.front}]
    edge = {
        "kind": "gateway",
        "name": "edge",
        "listeners": listeners,
        "routes": [{"hosts": ["*"], "service": "payments"}],
    }
    at = {"hosts": ["localhost"], "port": pay.port, "protocol": "http", "tls": {"mode": "none"}}
    return [edge, {"kind": "external", "name": "pay", **at}]


@pytest_asyncio.fixture(autouse=True, loop_scope="module")
async def nothing_stays(shop):
    """Whatever a test did, nothing of it is left for the next one to see."""
    yield
    await eventually(lambda: is_clean(shop[1]), 5)


def switched_on(agent) -> list[str]:
    """The services that Envoy is told to send live requests of."""
    return sorted(re.findall(r"meshagent\.tap\.([a-z-]+)", agent.admin("/runtime").decode()))


def connected(agent) -> int:
    """Connections on which Envoy sends live requests."""
    found = re.search(rb"upstream_cx_active: (\d+)", agent.admin("/stats?filter=^cluster.tap.upstream_cx_active$"))
    return int(found[1]) if found else 0


def is_clean(agent) -> bool:
    """Whether nobody could tell that somebody watched."""
    return not switched_on(agent) and not connected(agent) and not (agent.directory / "run" / "tap.sock").exists()


async def first(requests, count: int) -> list[dict]:
    """So many of what is told."""
    found = []
    async with asyncio.timeout(10):
        async for each in requests:
            found.append(each)
            if len(found) == count:
                return found
    raise AssertionError(f"only {found}")


async def command(agent, *arguments: str):
    """`meshagent tap` as a process, once it watches."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "meshagent", "tap", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "MESHAGENT_API": agent.api, "PYTHONUNBUFFERED": "1"},
    )
    async with asyncio.timeout(15):
        line = await process.stderr.readline()
    assert b"watching" in line, line
    return process


async def test_a_tap_shows_exactly_what_was_asked_for_with_nothing_secret(shop):
    mesh, agent = shop
    client = AgentClient(agent.api)
    async with client.tap(service="payments", path="/v1/*") as some, client.tap(side="outbound", failed="1") as failed:
        assert switched_on(agent) == ["db", "edge", "payments", "web"]
        for path in ("/v1/carts?token=secret", "/other", "/secret/x", "/v1/end"):
            await get(mesh.http, path)
        told = await first(some, 2)
        assert [(each["side"], each["path"], each["status"]) for each in told] == [
            ("inbound", "/v1/carts", 200),
            ("inbound", "/v1/end", 200),
        ]
        assert "token" not in json.dumps(told)
        (refused,) = await first(failed, 1)
        assert (refused["source"], refused["destination"], refused["path"]) == ("web", "payments", "/secret/x")
        assert (refused["status"], refused["reason"]) == (403, "intention")
    await eventually(lambda: is_clean(agent), 5)


async def test_what_a_tap_shows_is_what_the_log_has(shop):
    mesh, agent = shop
    client = AgentClient(agent.api)
    async with client.tap() as requests:
        await get(mesh.http, "/same/fine")
        await get(mesh.http, "/secret/same")
        told = await first(requests, 4)
    logged = []
    for each in told:
        await eventually(lambda each=each: in_log(agent, each), 5, str(each))
        logged.append(in_log(agent, each))
    assert [{name: each[name] for name in ALIKE} for each in told] == [
        {name: each[name] for name in ALIKE} for each in logged
    ]
    for one, other in zip(told, logged, strict=True):
        assert all(one[name] == other[name] for name in COUNTED if name in other), (one, other)
        assert one["destination"] == other["destination"] == "payments"
        if one["ticket"] or one["far_ticket"]:
            assert (one["ticket"] or other["ticket"], one["far_ticket"]) == (other["ticket"], other["far_ticket"])
    assert sum(bool(each["ticket"]) for each in told) == 1 and sum(bool(each["far_ticket"]) for each in told) == 1


def in_log(agent, seen: dict) -> dict | None:
    """The same request as the agent reads it from the log."""
    rows = agent.call("GET", f"/v1/requests?side={seen['side']}")["requests"]
    return next((row for row in rows if (row["path"], row["time"]) == (seen["path"], seen["time"])), None)


async def test_gateways_and_names_outside_are_shown_too(shop):
    mesh, agent = shop
    await eventually(lambda: f"gateway/edge:{mesh.front}".encode() in agent.admin("/listeners"), 5)
    while (await get(mesh.out, "/resolved")).status != 200:  # the name has to be resolved first
        await asyncio.sleep(0.05)
    async with AgentClient(agent.api).tap() as requests:
        await get(mesh.front, "/front?who=me")
        await get(mesh.out, "/out")
        told = await first(requests, 3)
    assert {(each["side"], each["service"], each["source"], each["destination"], each["path"]) for each in told} == {
        ("gateway", "edge", "edge", "payments", "/front"),
        ("inbound", "payments", "edge", "payments", "/front"),
        ("external", "web", "web", "pay", "/out"),
    }
    for each in told:
        await eventually(lambda each=each: in_log(agent, each), 5, str(each))
        logged = in_log(agent, each)
        assert {name: each[name] for name in (*ALIKE, "destination")} == {
            name: logged[name] for name in (*ALIKE, "destination")
        }


async def test_connections_are_shown_when_they_end(shop):
    mesh, agent = shop
    async with AgentClient(agent.api).tap(destination="db") as requests:
        await raw(mesh.tcp, b"hello")
        told = await first(requests, 2)
    assert {(each["side"], each["source"], each["destination"]) for each in told} == {
        ("outbound", "web", "db"),
        ("inbound", "web", "db"),
    }
    assert {each["bytes_received"] for each in told} == {5}


async def test_watching_changes_no_listener_and_a_killed_watcher_leaves_nothing(shop):
    mesh, agent = shop
    before = agent.admin("/stats?filter=^listener_manager.*(modified|in_place_updated|added|removed)$")
    one, other = await command(agent, "web"), await command(agent, "payments", "--count", "1", "--output", "table")
    assert switched_on(agent) == ["payments", "web"]
    one.kill()
    await one.wait()
    await eventually(lambda: switched_on(agent) == ["payments"], 5)
    await get(mesh.http, "/counted")
    out, _ = await asyncio.wait_for(other.communicate(), 10)
    assert other.returncode == 0 and b"web -> payments" in out and b"GET /counted 200" in out
    await eventually(lambda: is_clean(agent), 5)
    assert agent.admin("/stats?filter=^listener_manager.*(modified|in_place_updated|added|removed)$") == before


async def test_an_agent_that_takes_nothing_holds_up_no_request_and_what_went_by_is_told(shop):
    mesh, agent = shop
    async with AgentClient(agent.api).tap() as requests:
        agent.process.send_signal(signal.SIGSTOP)
        try:
            assert set(await many(mesh.http, 16, 100)) == {200}
        finally:
            agent.process.send_signal(signal.SIGCONT)
        async with asyncio.timeout(15):
            missed = [each async for each in until_missed(requests)][-1]["missed"]
    assert 0 < missed < 3200


async def many(local: int, callers: int, each: int) -> list[int]:
    """The statuses of so many requests of so many callers at once."""

    async def some() -> list[int]:
        caller = Caller(local)
        found = [(await caller.get("/many")).status for _ in range(each)]
        caller.close()
        return found

    return [status for found in await asyncio.gather(*(some() for _ in range(callers))) for status in found]


async def until_missed(requests):
    """What is told until it is said that something went by."""
    async for each in requests:
        yield each
        if "missed" in each:
            return


async def test_a_service_that_comes_while_all_are_watched_is_watched_too(shop):
    _, agent = shop
    async with AgentClient(agent.api).tap() as requests:
        await agent.up(name="late", port=free_port(), protocol="http")
        await eventually(lambda: "late" in switched_on(agent), 5)
        await agent.down("late")
        await eventually(lambda: "late" not in switched_on(agent), 5)
        assert requests


async def test_a_service_that_runs_elsewhere_is_not_watched_here(shop):
    _, agent = shop
    with pytest.raises(NotFound, match="no proxy of ghosts runs on this host"):
        async with AgentClient(agent.api).tap(service="ghosts"):
            raise AssertionError("it is not here")
    assert not switched_on(agent)


async def test_the_next_agent_switches_off_what_a_killed_one_left_on(shop):
    mesh, agent = shop
    watching = await command(agent)
    pid = agent.envoy_pid()
    await agent.kill()
    _, said = await asyncio.wait_for(watching.communicate(), 10)
    assert watching.returncode == 4 and b"the agent ended" in said
    assert switched_on(agent) == ["db", "edge", "payments", "web"]
    assert (await get(mesh.http, "/alone")).status == 200
    await agent.start()
    assert agent.envoy_pid() == pid
    await eventually(lambda: is_clean(agent), 5)
    async with AgentClient(agent.api).tap(service="web") as requests:
        await get(mesh.http, "/after")
        assert (await first(requests, 1))[0]["path"] == "/after"
