"""Fault R7 of facts/security.md 3.3: two hosts that do not reach each other, while the store sees both. Needs root."""

from __future__ import annotations

import asyncio
import time
from collections import Counter

from tests.system.apps import Load
from tests.system.live import KEYS, eventually, live_mesh
from tests.system.namespaces import hosts
from tests.system.test_two_hosts import APP, app

RATE, CONNECTIONS = 40, 4
LEFT_OUT = {"consecutive_5xx": 0, "consecutive_gateway_failure": 2, "interval": "200ms", "base_ejection_time": "60s"}
SERVICE = {
    "kind": "service",
    "name": "payments",
    "protocol": "http",
    "outlier_detection": LEFT_OUT,
    "connection_pool": {"connect_timeout": "300ms"},
    "retry_budget": {"percent": 20, "min_concurrent": 2 * CONNECTIONS},
}
# What is lost on the way is only noticed by its absence, so a rule says how long a try may take and that reads are safe.
RETRY = {"attempts": 3, "per_try_timeout": "250ms", "on": ["gateway-error", "connect-failure", "reset"]}
ROUTE = {"kind": "route", "name": "payments", "rules": [{"match": {"methods": ["GET"]}, "retry": RETRY}]}


async def test_fault_r7_hosts_that_are_parted_are_left_out_in_five_seconds_and_no_request_fails():
    async with live_mesh() as mesh, hosts("a", "b", "c") as made, app(made, "b", "b", APP), app(made, "c", "c", APP):
        for name in ("a", "b", "c"):
            await mesh.agent(f"vm-{name}", within=made.within(name), host_address=made.address(name))
        socket = str(mesh.directory / "payments.sock")
        here, *there = mesh.agents
        upstreams = [{"service": "payments", "local_socket": socket}]
        await here.up(name="web", port=APP, protocol="http", upstreams=upstreams)
        for agent in there:
            await agent.up(name="payments", port=APP, protocol="http")
        await mesh.intend("payments", web="allow")
        await mesh.apply(SERVICE)
        await mesh.applied(await mesh.apply(ROUTE))
        await eventually(lambda: len(endpoints(here)) == 2, 10)
        async with Load(socket, CONNECTIONS, RATE) as load:
            await asyncio.sleep(1)
            made.partition("a", "b")
            cut = time.monotonic()
            await eventually(lambda: made.address("b") in ejected(here), 5, "not left out")
            assert time.monotonic() - cut < 5
            await asyncio.sleep(1)
            seen = await mesh.store.read(KEYS.instances_of("payments"))
            assert len(seen.entries) == 2, "the store sees both"
            made.heal()
        assert load.failed() == [], Counter(load.failed())
        assert len(load.answers) > 60


def endpoints(agent):
    """The addresses of payments that the proxy knows, each with its state."""
    lines = agent.admin("/clusters").decode().splitlines()
    found = (line.split("::") for line in lines if line.startswith("out/web/payments::"))
    return {parts[1].rpartition(":")[0]: parts[3] for parts in found if parts[2] == "health_flags"}


def ejected(agent):
    """The addresses of payments that the proxy leaves out."""
    return {address for address, flags in endpoints(agent).items() if "failed_outlier_check" in flags}
