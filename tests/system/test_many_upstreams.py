"""A service that calls a thousand others."""

from __future__ import annotations

import pytest

from bench.population import Population, populate
from tests.system.live import free_port, live_mesh

pytestmark = pytest.mark.long
UPSTREAMS = 1000
FIRST_PORT = 22_000


async def test_a_service_with_a_thousand_new_upstreams_is_in_service_and_no_stream_was_taken_for_a_flood():
    async with live_mesh() as mesh:
        agent = await mesh.agent()
        population = Population(UPSTREAMS + 1, instances=1, sources=1)
        await populate(mesh.store, population)
        caller, *names = population.names
        calls = [{"service": name, "local_port": FIRST_PORT + number} for number, name in enumerate(names)]
        await agent.up(name=caller, port=free_port(), protocol="http", upstreams=calls)
        log = (agent.directory / "agent.log").read_text()
        assert "proxy_disconnected" not in log and log.count("world_served") < 8, log[-2000:]
        updated = agent.admin("/stats?filter=listener_manager.listener_(in_place_updated|modified)").decode()
        counts = [int(line.split(": ")[1]) for line in updated.splitlines()]
        assert sum(counts) < 10, updated  # each upstream's listener was made once, as what it stays
