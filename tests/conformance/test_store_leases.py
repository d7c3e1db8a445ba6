"""What every store must do with leases: they live while renewed, end when not, and take their keys along."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta

import pytest

from meshagent.errors import LeaseLost, StoreDenied
from meshagent.store.base import Expect, Lease, Put, Store
from tests.conformance.conftest import Provider
from tests.conformance.mirror import Mirror, values_of

pytestmark = pytest.mark.conformance

Open = Callable[[], Awaitable[Store]]


async def wait_until_gone(store: Store, key: str, after: int, limit: timedelta) -> float:
    """Watch until the key is deleted; returns how many seconds that took."""
    loop = asyncio.get_running_loop()
    begun = loop.time()
    mirror = Mirror(values_of(await store.read(key)))
    if mirror.values:
        async with asyncio.timeout(limit.total_seconds()):
            await mirror.follow(store, [key], after=after, until=lambda mirror: not mirror.values)
    return loop.time() - begun


async def keep(lease: Lease) -> None:
    while True:
        await lease.renew()
        await asyncio.sleep(lease.ttl.total_seconds() / 4)


async def test_keys_of_a_lease_go_when_it_is_not_renewed_and_watchers_hear_it(
    store_factory: Open, root: str, provider: Provider
) -> None:
    holder, watcher = await store_factory(), await store_factory()
    lease = await holder.lease(provider.ttl)
    bound = [Put(f"{root}{name}", b"", lease=lease.id) for name in ("a", "b")]
    made = await holder.commit([*bound, Put(f"{root}free", b"")])
    mirror = Mirror(values_of(await watcher.read(root)))
    assert set(mirror.values) == {f"{root}a", f"{root}b", f"{root}free"}

    async with asyncio.timeout((provider.ttl + provider.grace).total_seconds()):
        await mirror.follow(watcher, [root], after=made, until=lambda mirror: f"{root}b" not in mirror.values)

    assert mirror.values == values_of(await watcher.read(root)) == {f"{root}free": b""}
    assert mirror.revision > made


async def test_a_lease_does_not_end_before_its_ttl(store: Store, root: str, provider: Provider) -> None:
    lease = await store.lease(provider.ttl)
    made = await store.commit([Put(f"{root}a", b"", lease=lease.id)])

    assert lease.ttl >= provider.ttl
    lived = await wait_until_gone(store, f"{root}a", made, provider.ttl + provider.grace)
    assert lived > provider.ttl.total_seconds() * 0.8


async def test_renewals_keep_a_lease_and_its_keys(store: Store, root: str, provider: Provider) -> None:
    lease, left = await store.lease(provider.ttl), await store.lease(provider.ttl)
    made = await store.commit([Put(f"{root}kept", b"", lease=lease.id), Put(f"{root}left", b"", lease=left.id)])
    keeping = asyncio.create_task(keep(lease))

    await wait_until_gone(store, f"{root}left", made, provider.ttl + provider.grace)
    await asyncio.sleep(provider.ttl.total_seconds())

    assert set((await store.read(root)).entries) == {f"{root}kept"}
    assert not keeping.done()
    keeping.cancel()


async def test_an_ended_lease_cannot_be_renewed_or_used(store: Store, root: str, provider: Provider) -> None:
    lease = await store.lease(provider.ttl)
    made = await store.commit([Put(f"{root}a", b"", lease=lease.id)])
    await wait_until_gone(store, f"{root}a", made, provider.ttl + provider.grace)

    with pytest.raises(LeaseLost):
        await lease.renew()
    with pytest.raises(LeaseLost):
        await store.commit([Put(f"{root}b", b"", lease=lease.id), Put(f"{root}c", b"")])

    assert values_of(await store.read(root)) == {}


async def test_revoking_a_lease_takes_its_keys_at_once_and_again_does_nothing(
    store: Store, root: str, provider: Provider
) -> None:
    lease, other = await store.lease(provider.ttl * 100), await store.lease(provider.ttl * 100)
    made = await store.commit([Put(f"{root}a", b"", lease=lease.id), Put(f"{root}b", b"", lease=other.id)])

    await lease.revoke()
    assert set((await store.read(root)).entries) == {f"{root}b"}
    await wait_until_gone(store, f"{root}a", made, provider.grace)

    await lease.revoke()
    with pytest.raises(LeaseLost):
        await lease.renew()
    await other.renew()


async def test_a_key_written_again_without_the_lease_outlives_it(store: Store, root: str, provider: Provider) -> None:
    lease, heir = await store.lease(provider.ttl * 100), await store.lease(provider.ttl * 100)
    await store.commit([Put(f"{root}{name}", b"1", lease=lease.id) for name in ("bound", "free", "inherited")])
    await store.commit([Put(f"{root}free", b"2"), Put(f"{root}inherited", b"2", lease=heir.id)])

    await lease.revoke()
    assert values_of(await store.read(root)) == {f"{root}free": b"2", f"{root}inherited": b"2"}

    await heir.revoke()
    assert values_of(await store.read(root)) == {f"{root}free": b"2"}


async def test_a_key_of_an_ended_lease_counts_as_absent(store: Store, root: str, provider: Provider) -> None:
    lease = await store.lease(provider.ttl)
    made = await store.commit([Put(f"{root}lock", b"first", lease=lease.id)])
    await wait_until_gone(store, f"{root}lock", made, provider.ttl + provider.grace)

    await store.commit([Expect(f"{root}lock", 0), Put(f"{root}lock", b"second")])

    assert values_of(await store.read(root)) == {f"{root}lock": b"second"}


async def test_a_lease_outlives_the_client_that_made_it_until_its_ttl(
    store_factory: Open, root: str, provider: Provider
) -> None:
    holder, watcher = await store_factory(), await store_factory()
    lease = await holder.lease(provider.ttl)
    made = await holder.commit([Put(f"{root}a", b"", lease=lease.id)])

    await holder.close()

    assert set((await watcher.read(root)).entries) == {f"{root}a"}
    await wait_until_gone(watcher, f"{root}a", made, provider.ttl + provider.grace)


async def test_a_lease_that_nobody_has_is_lost(store: Store, root: str) -> None:
    with pytest.raises(LeaseLost):
        await store.commit([Put(f"{root}a", b"", lease="00000000-0000-4000-8000-000000000000")])


async def test_a_lease_without_time_is_refused(store: Store) -> None:
    with pytest.raises(StoreDenied):
        await store.lease(timedelta(0))
