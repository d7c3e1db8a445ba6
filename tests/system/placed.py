"""Hosts that stand somewhere, and apps that die at once and come back: for tests of failover."""

from __future__ import annotations

from contextlib import asynccontextmanager, suppress

from tests.system.apps import HttpApp
from tests.system.live import free_port

PLACES = {"vm-1": ("eu", "eu-1a"), "vm-2": ("eu", "eu-1b"), "vm-3": ("us", "us-1a")}


class Mortal(HttpApp):
    """An app that can be killed: it is reached by nobody, and its connections end."""

    def __init__(self, name: str) -> None:
        super().__init__(free_port(), name)
        self._writers = set()

    async def _serve(self, reader, writer):
        self._writers.add(writer)
        await super()._serve(reader, writer)
        self._writers.discard(writer)

    async def die(self) -> None:
        self._server.close()
        for writer in self._writers:
            with suppress(RuntimeError):
                writer.transport.abort()
        self._writers.clear()

    async def rise(self) -> None:
        await self.__aenter__()


@asynccontextmanager
async def alive(*names):
    """Apps of these names."""
    apps = {name: Mortal(name) for name in names}
    try:
        for app in apps.values():
            await app.rise()
        yield apps
    finally:
        for app in apps.values():
            await app.die()


async def standing(mesh, monkeypatch, name):
    """An agent on a host in its place."""
    for what, value in zip(("REGION", "ZONE"), PLACES[name], strict=True):
        monkeypatch.setenv(f"MESHAGENT_HOST_{what}", value)
    return await mesh.agent(name)
