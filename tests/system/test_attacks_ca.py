"""Attack test 43 on a whole agent: its CA begins to lie while traffic flows, and is believed again when it stops."""

from __future__ import annotations

import asyncio
from datetime import datetime

import pytest

from tests.servers.openssl import documented_program, openssl_root
from tests.system.apps import HttpApp, get
from tests.system.live import TRUST_DOMAIN, eventually, free_port, live_mesh

NOW = ("-d '-30 seconds'", "-d '-1 second'")  # half of such a short life would be over at birth
NAME = "URI:$MESHAGENT_SPIFFE_ID"
LIES = {
    "a second URI": (NAME, f"{NAME},URI:spiffe://{TRUST_DOMAIN}/svc/orders", "must have one name"),
    "a CA": ("CA:FALSE", "CA:TRUE", "is a CA's"),
    "slowness": ('cat "$work/leaf"', "sleep 60", "no answer within 1s"),
}


@pytest.mark.parametrize("lie", LIES)
async def test_attack_43_an_agent_keeps_its_certificates_while_its_ca_lies(lie: str) -> None:
    old, new, words = LIES[lie]
    async with live_mesh("16s") as mesh, HttpApp(free_port(), "payments") as payments:
        root, program = openssl_root(mesh.directory / "mesh-ca"), mesh.directory / "sign"
        documented_program(program, NOW)
        command = f"provider: exec, command: [{program}, {root.parent}], roots_file: {root}, timeout: 1s"
        mesh.ca_settings = command
        agent = await mesh.agent()
        local = free_port()
        await agent.up(name="payments", port=payments.port, protocol="http")
        web = {"name": "web", "port": free_port(), "protocol": "http"}
        await agent.up(**web, upstreams=[{"service": "payments", "local_port": local}])
        await mesh.applied(await mesh.intend("payments", web="allow"))
        assert (await get(local)).status == 200

        documented_program(program, NOW, (old, new))
        held = {event["serial"] for event in agent.events("svid_renewed")}
        await eventually(lambda: agent.events("svid_not_renewed"), 15, agent.tail())
        await eventually(lambda: words in str(agent.status()), 5, agent.tail())
        ends = min(datetime.fromisoformat(event["expires_at"]) for event in agent.events("svid_renewed"))
        asked = 0
        while datetime.now(ends.tzinfo) < ends and len(agent.events("svid_not_renewed")) < 4:
            assert (await get(local)).status == 200
            asked += 1
            await asyncio.sleep(0.1)
        assert asked
        assert {event["serial"] for event in agent.events("svid_renewed")} == held
        assert all(words in event["problem"] for event in agent.events("svid_not_renewed"))

        documented_program(program, NOW)
        await eventually(lambda: len(agent.events("svid_renewed")) >= len(held) + 2, 20, agent.tail())
        assert (await get(local)).status == 200
        assert words not in str(agent.status())
