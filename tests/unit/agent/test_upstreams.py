"""What the agent believes of a catalog, on a catalog and a policy that do as they are told."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest

from meshagent.agent.upstreams import Upstreams
from meshagent.catalog.base import Listing
from meshagent.errors import StoreUnavailable
from meshagent.model.mesh import Mesh
from meshagent.model.service import Instance
from meshagent.model.world import World

NOW = datetime(2026, 11, 21, tzinfo=UTC)
ONE, TWO = (
    Instance(service="ledger", host=host, id="ledger", address="10.0.0.1", port=21000) for host in ("vm-1", "vm-2")
)
FAILING = ONE.model_copy(update={"health": "failing"})


class Catalog:
    """Gives the listings that it is told to, or an error."""

    def __init__(self):
        self.news = asyncio.Queue()
        self.watched = []

    async def watch(self, services):
        self.watched.append(frozenset(services))
        while True:
            said = await self.news.get()
            if isinstance(said, Exception):
                raise said
            yield said


class Policy:
    """What Watching is to Upstreams."""

    def __init__(self):
        self.stale_since = None
        self.outage_ended = float("-inf")
        self.world = World(1, Mesh(), instances={"ledger": (ONE, TWO)})
        self.holds = True
        self.listed = asyncio.Queue()

    async def believable(self):
        if isinstance(self.holds, Exception):
            raise self.holds
        return self.holds

    def list(self, listing):
        self.world = World(1, Mesh(), instances={**self.world.instances, listing.service: listing.instances})
        self.listed.put_nowait(listing.instances)

    async def next(self):
        async with asyncio.timeout(5):
            return await self.listed.get()

    async def becomes(self, *instances):
        while await self.next() != instances:
            pass


@asynccontextmanager
async def following(grace=0.3):
    catalog, policy = Catalog(), Policy()
    upstreams = Upstreams(catalog, policy, timedelta(seconds=grace))
    task = asyncio.create_task(upstreams.run())
    upstreams.want(frozenset({"ledger"}))
    try:
        yield catalog, policy, upstreams
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_what_a_listing_says_counts_while_all_is_well():
    async with following() as (catalog, policy, _):
        for told in ((ONE,), (ONE, TWO), (FAILING, TWO), ()):
            catalog.news.put_nowait(Listing("ledger", told))
            assert await policy.next() == told


@pytest.mark.parametrize("answer", [False, StoreUnavailable("away")])
async def test_nobody_goes_while_the_store_may_have_lost_its_data_and_the_newest_listing_counts_afterwards(answer):
    async with following() as (catalog, policy, _):
        policy.holds = answer
        catalog.news.put_nowait(Listing("ledger", ()))
        assert await policy.next() == (ONE, TWO)
        catalog.news.put_nowait(Listing("ledger", (TWO,)))
        assert await policy.next() == (ONE, TWO)
        policy.holds = True
        await policy.becomes(TWO)


async def test_after_an_outage_hosts_have_the_time_of_a_ttl_to_say_that_they_live():
    async with following() as (catalog, policy, _):
        policy.outage_ended = asyncio.get_running_loop().time()
        catalog.news.put_nowait(Listing("ledger", (FAILING,)))
        assert await policy.next() == (ONE, TWO)
        await policy.becomes(FAILING)
        assert asyncio.get_running_loop().time() - policy.outage_ended >= 0.3


async def test_during_an_outage_who_is_new_counts_and_who_is_gone_does_not():
    async with following() as (catalog, policy, _):
        policy.stale_since = NOW
        three = ONE.model_copy(update={"host": "vm-3"})
        catalog.news.put_nowait(Listing("ledger", (three,)))
        assert await policy.next() == (ONE, TWO, three)


async def test_a_catalog_that_is_lost_is_a_problem_and_is_watched_again():
    async with following() as (catalog, policy, upstreams):
        catalog.news.put_nowait(StoreUnavailable("Consul is away"))
        async with asyncio.timeout(5):
            while not upstreams.problem:
                await asyncio.sleep(0)
        catalog.news.put_nowait(Listing("ledger", (ONE, TWO)))
        assert await policy.next() == (ONE, TWO)
        assert upstreams.problem == "" and len(catalog.watched) == 2


async def test_only_what_is_called_is_watched():
    async with following() as (catalog, policy, upstreams):
        catalog.news.put_nowait(Listing("ledger", (ONE,)))
        await policy.next()
        upstreams.want(frozenset({"ledger", "orders"}))
        async with asyncio.timeout(5):
            while catalog.watched != [frozenset({"ledger"}), frozenset({"ledger", "orders"})]:
                await asyncio.sleep(0)
        catalog.news.put_nowait(Listing("orders", (TWO,)))
        assert await policy.next() == (TWO,)
        upstreams.want(frozenset())
        catalog.news.put_nowait(Listing("orders", ()))
        await asyncio.sleep(0)
        assert policy.listed.empty()
