"""Consul or etcd, for tests that want the same of both."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.servers import consul, etcd

KINDS = ("consul", "etcd")


class Servers:
    """Running servers of one kind; `nodes` have place, directory, start(nodes) and kill()."""

    def __init__(self, kind: str, made: consul.Servers | etcd.Servers) -> None:
        self.kind = kind
        self.made = made
        self.nodes = made.nodes if isinstance(made, consul.Servers) else made.members
        self.url = made.url

    @property
    def ports(self) -> list[int]:
        """Where clients come in."""
        return [int(node.place.rpartition(":")[2]) for node in self.nodes]

    def url_of(self, *nodes: consul.Node | etcd.Member) -> str:
        """The store's URL with these nodes, in this order."""
        return f"{self.kind}://{','.join(node.place for node in nodes)}"

    def leader(self) -> consul.Node | etcd.Member:
        """The node that leads now."""
        found = self.made.leader()
        return self.nodes[found] if isinstance(found, int) else found

    async def start(self) -> None:
        """Start what does not run, and wait until all serve."""
        await asyncio.to_thread(self.made.start)

    async def kill(self) -> None:
        """End all of them without warning."""
        await asyncio.to_thread(self.made.kill)


@asynccontextmanager
async def store_url(kind: str) -> AsyncIterator[str]:
    """The URL of a new store of this kind; "" for sqlite, which every mesh of a test makes by itself."""
    if kind == "sqlite":
        yield ""
        return
    async with servers(kind) as made:
        yield made.url


@asynccontextmanager
async def servers(kind: str, count: int = 1) -> AsyncIterator[Servers]:
    """Running servers; they and their data are gone afterwards."""
    context = {"consul": consul.servers, "etcd": etcd.servers}[kind](count)
    made = await asyncio.to_thread(context.__enter__)
    try:
        yield Servers(kind, made)
    finally:
        await asyncio.to_thread(context.__exit__, None, None, None)
