"""A whole agent whose keys and certificates somebody else puts on disk."""

from __future__ import annotations

import asyncio
import time

from tests.conformance.provided_files import pair, put
from tests.servers.openssl import documented_program, openssl_root
from tests.system.apps import HttpApp, get
from tests.system.live import eventually, free_port, live_mesh


async def test_a_pair_that_is_replaced_on_disk_is_in_use_within_seconds_and_no_request_fails() -> None:
    async with live_mesh("10m") as mesh, HttpApp(free_port(), "payments") as payments:
        root, program = openssl_root(mesh.directory / "mesh-ca"), documented_program(mesh.directory / "sign")
        pairs = mesh.directory / "pairs"
        pairs.mkdir()
        (pairs / "roots.pem").write_bytes(root.read_bytes())
        for service in ("payments", "web"):
            put(pairs, service, *pair(program, root, service))
        mesh.ca_settings = f"provider: files, directory: {pairs}"
        agent, local = await mesh.agent(), free_port()
        await agent.up(name="payments", port=payments.port, protocol="http")
        web = {"name": "web", "port": free_port(), "protocol": "http"}
        await agent.up(**web, upstreams=[{"service": "payments", "local_port": local}])
        await mesh.applied(await mesh.intend("payments", web="allow"))
        assert (await get(local)).status == 200
        before = len(agent.events("svid_renewed"))

        for service in ("payments", "web"):
            put(pairs, service, *await asyncio.to_thread(pair, program, root, service))
        began = time.monotonic()
        while len(agent.events("svid_renewed")) < before + 2:
            assert (await get(local)).status == 200
            assert time.monotonic() - began < 5, agent.tail()
        for event in agent.events("svid_renewed")[-2:]:
            serial = event["serial"]
            await eventually(lambda serial=serial: serial in agent.admin("/certs").decode().lower(), 5, agent.tail())
        assert (await get(local)).status == 200
        assert not agent.events("svid_not_renewed")
