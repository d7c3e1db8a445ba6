"""Two agents and a real Consul, in whose own catalog their services are: calls by mTLS, and what ends them."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from contextlib import asynccontextmanager

from tests.servers import consul
from tests.servers.programs import program
from tests.system.apps import HttpApp, get
from tests.system.live import eventually, free_port, live_mesh
from tests.system.shop import until_status

TTL_SECONDS = 10


@asynccontextmanager
async def two_hosts():
    """web on vm-a may call payments on vm-b. Gives the servers, the mesh and web's port for payments."""
    async with consul.one_node() as servers, live_mesh(url=servers.url) as mesh:
        here = await mesh.agent("vm-a", host_address="127.0.0.1")
        there = await mesh.agent("vm-b", host_address="127.0.0.1")
        port, local = free_port(), free_port()
        async with HttpApp(port, "payments"):
            await there.up(name="payments", port=port, protocol="http", meta={"version": "7"})
            upstreams = [{"service": "payments", "local_port": local}]
            await here.up(name="web", port=free_port(), protocol="http", upstreams=upstreams)
            yield servers, mesh, local


async def command(servers, *words):
    """One `meshagent` command of an operator elsewhere."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "meshagent", *words),
        env=os.environ | {"MESHAGENT_STORE": servers.url},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    said = (await process.communicate())[0].decode()
    assert process.returncode == 0, said
    return said


def listed(servers, *words):
    """What Consul's own command says."""
    environment = os.environ | {"CONSUL_HTTP_ADDR": servers.nodes[0].place}
    command_line = (program("consul"), "catalog", *words)
    return subprocess.run(command_line, env=environment, capture_output=True, text=True, check=True).stdout


def passing(servers, service):
    """The addresses that Consul itself calls healthy."""
    rows = servers.call("GET", f"/v1/health/service/{service}?passing")
    return [(row["Service"]["Address"], row["Service"]["Port"]) for row in rows]


def called(agent):
    """How many healthy instances of payments the agent's Envoy has."""
    text = agent.admin("/clusters").decode()
    return sum("out/web/payments" in line and line.endswith("health_flags::healthy") for line in text.splitlines())


async def test_services_are_in_consuls_own_catalog_and_a_deny_ends_their_calls():
    async with two_hosts() as (servers, mesh, local):
        assert (await get(local)).status == 403
        await command(servers, "intention", "allow", "web", "payments", "--wait")
        answer = await get(local)
        assert answer.status == 200 and answer.headers["x-app"] == "payments"

        assert {"payments", "payments-sidecar-proxy", "web"} <= set(listed(servers, "services").split())
        (proxy,) = servers.call("GET", "/v1/health/connect/payments")
        assert (proxy["Service"]["Kind"], proxy["Service"]["Port"]) == ("connect-proxy", mesh.agents[1].inbound_port)
        assert all(check["Status"] == "passing" for check in proxy["Checks"]), proxy["Checks"]
        shown = await command(servers, "services", "--all")
        assert "payments" in shown and "version=7" in shown and "vm-b" in shown
        assert servers.call("GET", "/v1/kv/meshagent/v1/config/?keys")
        assert not [key for key in servers.call("GET", "/v1/kv/?keys") if "/instances/" in key]

        await command(servers, "intention", "deny", "web", "payments", "--wait")
        assert (await get(local)).status == 403


async def test_an_instance_goes_with_down_and_with_its_agent_and_within_the_ttl_when_that_is_killed():
    async with two_hosts() as (servers, mesh, local):
        here, there = mesh.agents
        await mesh.applied(await mesh.intend("payments", web="allow"))
        await until_status(local, 200)
        await there.kill()
        killed = time.monotonic()
        await eventually(lambda: passing(servers, "payments") == [], TTL_SECONDS + 2)
        assert time.monotonic() - killed > 1.0
        await eventually(lambda: called(here) == 0, 2, here.tail())
        assert (await get(local)).status == 503
        await there.start()
        await until_status(local, 200)

        assert (await there.down("payments"))["http"] == 200
        assert "payments" not in listed(servers, "services")
        await there.up(name="payments", port=free_port(), protocol="http")
        await eventually(lambda: "payments" in listed(servers, "services"), 5)
        assert await there.stop() == 0
        assert "payments" not in listed(servers, "services").split()


async def test_consul_that_lost_its_data_gets_the_services_back_and_no_call_fails_meanwhile():
    async with two_hosts() as (servers, mesh, local):
        await mesh.applied(await mesh.intend("payments", web="allow"))
        await until_status(local, 200)
        servers.call("PUT", "/v1/agent/service/deregister/payments.vm-b")
        await eventually(lambda: len(passing(servers, "payments")) == 1, TTL_SECONDS)
        await until_status(local, 200)

        statuses = []

        async def calls():
            while True:
                statuses.append((await get(local)).status)
                await asyncio.sleep(0.02)

        calling = asyncio.create_task(calls())
        await asyncio.to_thread(servers.kill)
        await eventually(lambda: not mesh.agents[0].status()["store_ok"], 15)
        await asyncio.sleep(TTL_SECONDS)
        await asyncio.to_thread(servers.start)
        await eventually(lambda: len(passing(servers, "payments")) == 1, TTL_SECONDS)
        await asyncio.sleep(2)
        calling.cancel()
        assert set(statuses) == {200}


async def test_what_others_registered_is_called_in_plain_text_only_where_a_document_says_permissive():
    async with two_hosts() as (servers, mesh, local):
        here = mesh.agents[0]
        await mesh.applied(await mesh.intend("payments", web="allow"))
        await until_status(local, 200)
        port = free_port()
        async with HttpApp(port, "legacy"):
            native = {"Name": "payments", "ID": "old", "Address": "127.0.0.1", "Port": port, "Meta": {"team": "red"}}
            servers.call("PUT", "/v1/agent/service/register", native)
            await eventually(lambda: "not called" in here.status()["problems"].get("catalog/payments", ""), 5)
            assert {(await get(local)).headers["x-app"] for _ in range(20)} == {"payments"}

            document = {"kind": "service", "name": "payments", "protocol": "http", "mtls": "permissive"}
            await mesh.applied(await mesh.apply(document))
            assert {(await get(local)).headers["x-app"] for _ in range(40)} == {"payments", "legacy"}
            assert "catalog/payments" not in here.status()["problems"]

            await mesh.agents[1].down("payments")
            assert {(await get(local)).headers["x-app"] for _ in range(20)} == {"legacy"}
            servers.call("PUT", "/v1/agent/check/register", {"Name": "bad", "ServiceID": "old", "TTL": "1h"})
            await until_status(local, 503)
            await mesh.applied(await mesh.apply(document | {"mtls": "strict"}))
            servers.call("PUT", "/v1/agent/service/register", native | {"Checks": []})
            await until_status(local, 503)


async def test_a_tcp_service_of_others_is_called_in_plain_text_beside_the_meshs():
    async with two_hosts() as (servers, mesh, _):
        here, there = mesh.agents

        async def answer(_, writer, name):
            writer.write(name)
            await writer.drain()
            writer.close()

        async def told():
            reader, writer = await asyncio.open_connection("127.0.0.1", local)
            said = await reader.read()
            writer.close()
            return said

        local, ports = free_port(), (free_port(), free_port())
        listening = [
            await asyncio.start_server(lambda r, w, name=name: answer(r, w, name), "127.0.0.1", port)
            for name, port in zip((b"mesh", b"native"), ports, strict=True)
        ]
        await there.up(name="queue", port=ports[0], protocol="tcp")
        upstreams = [{"service": "queue", "local_port": local}]
        await here.up(name="worker", port=free_port(), protocol="http", upstreams=upstreams)
        native = {"Name": "queue", "ID": "old", "Address": "127.0.0.1", "Port": ports[1]}
        servers.call("PUT", "/v1/agent/service/register", native)
        await mesh.applied(await mesh.intend("queue", worker="allow"))
        await eventually(lambda: "catalog/queue" in here.status()["problems"], 5)
        assert {await told() for _ in range(20)} == {b"mesh"}
        await mesh.applied(
            await mesh.apply({"kind": "service", "name": "queue", "protocol": "tcp", "mtls": "permissive"})
        )
        assert {await told() for _ in range(40)} == {b"mesh", b"native"}
        for server in listening:
            server.close()
