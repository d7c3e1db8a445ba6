"""Several hosts of one gateway: whichever of them a CA asks, the one that ordered gets its certificate."""

from __future__ import annotations

import asyncio

import pytest

from tests.servers.pebble import Pebble
from tests.system.live import eventually, live_mesh
from tests.system.namespaces import hosts

HTTP, TLS = 8080, 8443


@pytest.mark.long
async def test_a_ca_that_asks_another_host_is_answered_too():
    async with live_mesh() as mesh, hosts("a", "b") as made:
        pebble = Pebble(mesh.directory, HTTP, made.address("hub"), made.address("b"), made.within("hub"))
        try:
            await pebble.start()
            told = ("env", "MESHAGENT_GATEWAYS=edge")
            agents = [await mesh.agent(f"vm-{name}", within=(*made.within(name), *told)) for name in ("b", "a")]
            acme = {
                "directory": pebble.url,
                "hosts": ["shop.example.org"],
                "terms_agreed": True,
                "ca_file": str(pebble.root),
            }
            listeners = [{"port": TLS, "tls": {"acme": acme}}, {"port": HTTP}]
            await mesh.applied(await mesh.apply({"kind": "gateway", "name": "edge", "listeners": listeners}))
            for agent in agents:
                await eventually(lambda agent=agent: agent.events("gateway_certificate_issued"), 30, agent.tail())
                await eventually(lambda agent=agent: not agent.status()["problems"], 5, agent.tail())
            serials = {
                (agent.directory / "data/acme/shop.example.org.pem").read_bytes() for agent in agents
            }  # each has a key and a certificate of its own
            assert len(serials) == 2

            # what was answered is taken back, and no key went through the store
            async with asyncio.timeout(5):
                while (await mesh.store.read("meshagent/v1/acme/")).entries:
                    await asyncio.sleep(0.05)
        finally:
            pebble.stop()
