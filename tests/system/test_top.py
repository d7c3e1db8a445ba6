"""`meshagent top` and `graph` on two hosts: the rates that they tell are those of the calls that are made."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from xml.etree import ElementTree as ET

import pytest
import pytest_asyncio

from tests.system.apps import Caller, HttpApp
from tests.system.live import eventually, free_port, live_mesh

pytestmark = pytest.mark.asyncio(loop_scope="module")
PAUSE, DELAY = 0.04, 0.03  # seconds between two calls, and that the app takes for one
WINDOW = "6s"  # Envoy tells latencies every 5 s


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pair():
    """web on vm-1 calls api on vm-2; both tell numbers on a page of their own."""
    async with live_mesh() as mesh:
        first = await mesh.agent("vm-1", metrics=f"127.0.0.1:{free_port()}")
        second = await mesh.agent("vm-2", metrics=f"127.0.0.1:{free_port()}")
        async with HttpApp(free_port(), "api") as app:
            app.delay = DELAY
            await second.up(name="api", port=app.port, protocol="http")
            mesh.local = free_port()
            upstreams = [{"service": "api", "local_port": mesh.local}]
            await first.up(name="web", port=free_port(), protocol="http", upstreams=upstreams)
            await mesh.applied(await mesh.intend("api", web="allow"))
            yield mesh, first, second, app


async def asked(agent, *arguments: str) -> bytes:
    """What a command prints."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "meshagent", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "MESHAGENT_API": agent.api, "MESHAGENT_STORE": agent.mesh.url},
    )
    out, said = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, said
    return out


async def calling(local: int, times: list[float]) -> None:
    """Call again and again, and keep when each call ended."""
    caller = Caller(local)
    while True:
        await caller.get("/")
        times.append(time.monotonic())
        await asyncio.sleep(PAUSE)


async def test_the_rates_that_are_told_on_either_host_are_those_of_the_calls(pair):
    mesh, first, second, app = pair
    await eventually(lambda: first.status()["applied_revision"] == second.status()["applied_revision"], 10)
    times: list[float] = []
    making = asyncio.create_task(calling(mesh.local, times))
    try:
        await eventually(lambda: len(times) > 5, 20)
        top, other, picture = await asyncio.gather(
            asked(first, "top", "--output", "json", "--window", WINDOW),
            asked(second, "graph", "--output", "json", "--window", WINDOW),
            asked(first, "graph", "api", "--output", "svg", "--window", "1s"),
        )
    finally:
        making.cancel()
    true = (len(times) - 1) / (times[-1] - times[0])
    for out in (json.loads(top), json.loads(other)):
        assert out["hosts"] == ["vm-1", "vm-2"] and out["missing"] == {}
        (edge,) = (each for each in out["edges"] if (each["source"], each["destination"]) == ("web", "api"))
        assert 0.5 * true < edge["rps"] < 1.8 * true, (edge, true)
        assert edge["error_ratio"] == 0
        assert DELAY * 1000 / 1.6 < edge["p50_ms"] < 500 and edge["p50_ms"] <= edge["p99_ms"]
    nodes = {node["name"]: node["health"] for node in json.loads(other)["nodes"]}
    assert nodes == {"api": "passing", "web": "passing"}
    assert {"api", "web"} <= {each.text for each in ET.fromstring(picture).iter("{http://www.w3.org/2000/svg}text")}


async def test_errors_are_told_and_a_host_that_cannot_be_asked_is_named(pair):
    mesh, first, second, app = pair
    app.status = 503
    times: list[float] = []
    making = asyncio.create_task(calling(mesh.local, times))
    try:
        await eventually(lambda: len(times) > 5, 20)
        await second.kill()
        out = json.loads(await asked(first, "top", "web", "--output", "json", "--window", "1s"))
    finally:
        making.cancel()
        app.status = 200
        await second.start()
    assert out["hosts"] == ["vm-1"] and list(out["missing"]) == ["vm-2"]
    assert [each["error_ratio"] for each in out["edges"]] == [1.0]
