"""Two hosts, as network namespaces, with a real Consul and a real etcd: calls by mTLS, and a deny from a third place."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from contextlib import asynccontextmanager

import pytest

from tests.servers.either import KINDS, servers
from tests.system.live import TRUST_DOMAIN, live_mesh
from tests.system.namespaces import hosts, passed_on

INBOUND, APP, LOCAL = 21000, 8080, 9191


@asynccontextmanager
async def app(made, host, name, port):
    """A service in a process of its own on that host, on its loopback."""
    arguments = ("-m", "meshagent.demo.apps", "http", "--name", name, "--port", str(port), "--parent", str(os.getpid()))
    process = await asyncio.create_subprocess_exec(*made.within(host), sys.executable, *arguments)
    try:
        yield
    finally:
        process.terminate()
        await process.wait()


async def call(made, host, port):
    """(status, body) of one request on that host."""
    program = (
        "import http.client, sys\n"
        f"connection = http.client.HTTPConnection('127.0.0.1', {port}, timeout=5)\n"
        "connection.request('GET', '/')\n"
        "answer = connection.getresponse()\n"
        "print(answer.status, answer.read().decode())\n"
    )
    process = await asyncio.create_subprocess_exec(
        *made.within(host), sys.executable, "-c", program, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    out, error = await process.communicate()
    status, _, body = out.decode().partition(" ")
    return (int(status), body) if process.returncode == 0 else (0, error.decode())


async def until(made, host, port, wanted, wait=10.0):
    """Wait until calls are answered so; gives the answer."""
    end = time.monotonic() + wait
    while (found := await call(made, host, port))[0] != wanted:
        assert time.monotonic() < end, found
    return found[1]


async def command(url, *words):
    """One `meshagent` command of an operator at another place."""
    environment = os.environ | {"MESHAGENT_STORE": url}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "meshagent", *words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    said = (await process.communicate())[0].decode()
    assert process.returncode == 0, said
    return said


@pytest.mark.parametrize("kind", KINDS)
async def test_two_hosts_speak_mtls_and_a_deny_from_a_third_place_ends_it(kind):
    async with servers(kind) as store, live_mesh(url=store.url) as mesh, hosts("a", "b") as made:
        (port,) = store.ports
        async with passed_on(made, port) as place, app(made, "b", "payments", APP):
            mesh.url = f"{kind}://{place}"
            for name in ("a", "b"):
                own = {"host_address": made.address(name)}
                agent = await mesh.agent(f"vm-{name}", within=made.within(name), **own)
                agent.inbound_port = INBOUND
            there, here = mesh.agents[1], mesh.agents[0]
            await there.up(name="payments", port=APP, protocol="http")
            await here.up(
                name="web", port=APP, protocol="http", upstreams=[{"service": "payments", "local_port": LOCAL}]
            )
            assert "intention" in await until(made, "a", LOCAL, 403)
            await command(store.url, "intention", "allow", "web", "payments", "--wait")
            answer = json.loads(await until(made, "a", LOCAL, 200))
            assert answer["service"] == "payments"
            assert answer["caller"] == f"spiffe://{TRUST_DOMAIN}/svc/web"
            await command(store.url, "intention", "deny", "web", "payments", "--wait")
            assert (await call(made, "a", LOCAL))[0] == 403
            assert "payments" in await command(store.url, "services", "--all")
