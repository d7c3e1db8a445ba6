"""What every catalog must do: on a store with leases, and in Consul."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

from meshagent.catalog import open_catalog
from meshagent.catalog.base import Catalog, Listing, Offer
from meshagent.errors import LeaseLost
from meshagent.model.service import Instance, ServiceDefinition
from meshagent.state.catalog import StoreCatalog
from meshagent.state.keys import Keys
from meshagent.store.access import Access
from meshagent.store.base import Lease
from meshagent.store.sqlite import open_sqlite
from tests.servers import consul

pytestmark = pytest.mark.conformance

TTL = timedelta(seconds=1)
PATIENCE = 10.0


@dataclass(frozen=True, slots=True)
class Place:
    """One kind of catalog. `lease` makes what the host's life hangs on, where that is a lease."""

    open: Callable[[], Catalog]
    lease: Callable[[], Awaitable[Lease | None]]
    service: str

    def offer(self, host: str = "vm-1", name: str = "", **more: object) -> Offer:
        """An instance of this test's own service."""
        instance = {"service": self.service, "host": host, "id": name or self.service, "address": "10.0.0.1"}
        return Offer(
            Instance.model_validate(instance | {"port": 21000, "protocol": "http", **more}),
            ServiceDefinition(name=self.service, id=name or None, port=8080, protocol="http"),
        )


async def _no_lease() -> None:
    return None


@pytest.fixture(params=("store", "consul", "consul_acl"))
async def place(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Place]:
    opened: list[Catalog] = []
    service = f"s-{secrets.token_hex(4)}"
    if request.param == "store":
        store = await open_sqlite(tmp_path / "mesh.db", poll=0.05)
        yield Place(lambda: StoreCatalog(store, Keys()), lambda: store.lease(TTL), service)
        await store.close()
        return
    guarded = request.param == "consul_acl"
    servers: consul.Servers = request.getfixturevalue("guarded_consul_servers" if guarded else "consul_servers")
    token = tmp_path / "token"
    if guarded:
        rules = f'''service "{service}" {{ policy = "write" }} service "{service}-sidecar-proxy" {{ policy = "write" }}
            service_prefix "" {{ policy = "read" }} node_prefix "" {{ policy = "read" }}'''
        token.touch(0o600)
        token.write_text(servers.policy_token(rules))

    def open_it() -> Catalog:
        made = open_catalog(servers.url, Access(token_file=token if guarded else None), TTL)
        assert made
        opened.append(made)
        return made

    yield Place(open_it, _no_lease, service)
    for catalog in opened:
        await catalog.close()


async def until(catalog: Catalog, service: str, wanted: Callable[[Listing], bool]) -> Listing:
    """Watch until the listing is as wanted."""
    seen: list[Listing] = []
    async with asyncio.timeout(PATIENCE):
        async for listing in catalog.watch([service]):
            seen.append(listing)
            if wanted(listing):
                return listing
    raise AssertionError(seen)


def held(*offers: Offer) -> Callable[[Listing], bool]:
    wanted = tuple(offer.instance for offer in offers)
    return lambda listing: listing.instances == wanted and not listing.problems


async def alive(catalog: Catalog, offer: Offer, lease: Lease | None) -> None:
    """Say that the host lives, for ever."""
    while True:
        await asyncio.sleep(TTL.total_seconds() / 4)
        if lease:
            await lease.renew()
        await catalog.renew([offer.instance])


async def test_what_is_registered_is_listed_as_it_was_given_and_what_is_taken_out_is_not(place: Place) -> None:
    mine, theirs = place.open(), place.open()
    lease = await place.lease()
    meta = {"version": "2", "Ümlaut / weird": "x\n\u20ac", "long": "y" * 1000, "meshagent-host": "me", "empty": ""}
    offers = [
        place.offer(meta=meta, region="north", zone="z 1"),
        place.offer("vm-1", "second", port=21001),
        place.offer("vm-2", address="fd00::2", health="failing", protocol="tcp"),
    ]
    await mine.register(offers, lease.id if lease else "")
    assert (await until(theirs, place.service, held(*offers))).service == place.service
    assert place.service in [listing.service for listing in await theirs.read()]
    assert held(*offers)((await theirs.read(place.service))[0])

    await mine.deregister([offer.instance for offer in offers[:2]])
    await until(theirs, place.service, held(offers[2]))
    await mine.deregister([offer.instance for offer in offers])
    await until(theirs, place.service, held())
    assert (await theirs.read(place.service))[0].instances == ()


async def test_a_watcher_hears_of_each_service_at_once_and_of_what_changes(place: Place) -> None:
    mine, theirs = place.open(), place.open()
    lease = await place.lease()
    other = f"{place.service}-other"
    heard: dict[str, list[tuple[str, ...]]] = {place.service: [], other: []}

    async def listen() -> None:
        async for listing in theirs.watch([place.service, other]):
            heard[listing.service].append(tuple(each.health for each in listing.instances))

    listening = asyncio.create_task(listen())
    async with asyncio.timeout(PATIENCE):
        while not all(heard.values()):
            await asyncio.sleep(0.01)
        for health in ("passing", "failing", "passing"):
            await mine.register([place.offer(health=health)], lease.id if lease else "")
            while heard[place.service][-1] != (health,):
                await asyncio.sleep(0.01)
    assert set(heard[other]) == {()}
    await theirs.close()
    if lease is None:
        async with asyncio.timeout(PATIENCE):
            await listening
    listening.cancel()
    await mine.deregister([place.offer().instance])


async def test_a_host_that_is_silent_is_out_of_service_within_its_ttl_and_one_that_renews_is_not(place: Place) -> None:
    silent, living, theirs = place.open(), place.open(), place.open()
    gone, stays = place.offer("vm-1"), place.offer("vm-2")
    ended, kept = await place.lease(), await place.lease()
    await living.register([stays], kept.id if kept else "")
    renewing = asyncio.create_task(alive(living, stays, kept))
    await silent.register([gone], ended.id if ended else "")
    await until(theirs, place.service, held(gone, stays))
    began = asyncio.get_running_loop().time()
    callable_ = lambda listing: [each for each in listing.instances if each.health == "passing"]  # noqa: E731
    await until(theirs, place.service, lambda listing: callable_(listing) == [stays.instance])
    assert asyncio.get_running_loop().time() - began < TTL.total_seconds() + 2.5
    await asyncio.sleep(TTL.total_seconds())
    assert callable_((await theirs.read(place.service))[0]) == [stays.instance]
    renewing.cancel()
    for each in (gone, stays):
        await living.deregister([each.instance])


async def test_what_was_taken_out_behind_its_back_is_noticed_or_stays_out_and_can_be_registered_again(
    place: Place,
) -> None:
    mine, somebody = place.open(), place.open()
    lease = await place.lease()
    offer = place.offer()
    await mine.register([offer], lease.id if lease else "")
    await until(somebody, place.service, held(offer))
    if lease:
        await lease.revoke()
        with pytest.raises(LeaseLost):
            await mine.register([offer], lease.id)
        lease = await place.lease()
    else:
        await somebody.deregister([offer.instance])
        with pytest.raises(LeaseLost):
            await mine.renew([offer.instance])
    await until(somebody, place.service, held())
    await mine.register([offer], lease.id if lease else "")
    await until(somebody, place.service, held(offer))
    await mine.deregister([offer.instance])


async def test_what_is_taken_out_twice_or_was_never_there_is_no_error(place: Place) -> None:
    mine = place.open()
    await mine.deregister([place.offer().instance])
    await mine.deregister([place.offer().instance])
    assert (await mine.read(place.service))[0] == Listing(place.service)
