"""Another Envoy takes over where a gateway listens: clients by TLS and by HTTP/3 notice nothing."""

from __future__ import annotations

import asyncio
import time
from collections import Counter

import pytest

from tests.system.live import eventually
from tests.system.quic import http3
from tests.system.test_gateway import fronted, running
from tests.system.upgrades import another_envoy

pytestmark = pytest.mark.asyncio(loop_scope="module")
__all__ = ["fronted", "running"]
HOST = "shop.example.org"


KEPT_SECONDS = 4.0  # longer than another Envoy takes to serve


class Clients:
    """What clients of a gateway are answered, by how they call."""

    def __init__(self, front) -> None:
        self.front = front
        self.answers = {name: Counter() for name in ("tls", "new quic", "kept quic")}
        self._tasks = []

    async def __aenter__(self):
        asks = (
            self.ask("tls", self.by_tls),
            self.ask("new quic", self.by_quic),
            self.ask("kept quic", self.by_kept_quic),
        )
        self._tasks = [asyncio.create_task(each) for each in asks]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def ask(self, name, once):
        while True:
            try:
                self.answers[name][str(await once())] += 1
            except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
                self.answers[name][repr(error)] += 1
            await asyncio.sleep(0.02)

    async def by_tls(self):
        return (await self.front.get(HOST)).status

    async def by_quic(self):
        async with http3(self.front.tls_port, HOST) as client:
            return (await client.get(HOST))[0][":status"]

    async def by_kept_quic(self):
        """Until the server ends the connection, or some seconds have passed."""
        until = time.monotonic() + KEPT_SECONDS
        async with http3(self.front.tls_port, HOST) as client:
            while time.monotonic() < until and not client.closed.is_set():
                found = (await client.get(HOST))[0][":status"]
                if found != "200":
                    return found
                await asyncio.sleep(0.02)
        return found


@pytest.mark.long
async def test_clients_of_a_gateway_notice_nothing_when_another_envoy_takes_over(fronted):
    mesh, agent, front, _ = fronted
    before, kept = agent.envoy_pid(), agent.directory / "data" / "snapshot.json"
    await eventually(lambda: str(front.tls_port).encode() in kept.read_bytes(), 10)  # else the next agent knows less
    async with Clients(front) as clients:
        await agent.kill()
        agent.settings["envoy_path"] = another_envoy(mesh.directory)
        await agent.start()
        await eventually(lambda: agent.events("envoy_retired"), 40)
        await asyncio.sleep(1)
    assert agent.envoy_pid() not in (0, before)
    for name, counted in clients.answers.items():
        assert counted.keys() == {"200"}, (name, counted)
