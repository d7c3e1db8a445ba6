"""What every store must do for its watchers: nothing missed, nothing halved, nothing repeated."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from itertools import pairwise

import pytest

from meshagent.store.base import Changes, Delete, Put, Store
from tests.conformance.conftest import Provider
from tests.conformance.mirror import PATIENCE, Mirror, values_of

pytestmark = pytest.mark.conformance

Open = Callable[[], Awaitable[Store]]


async def first(store: Store, prefixes: list[str], after: int) -> Changes:
    async with asyncio.timeout(PATIENCE):
        return await anext(store.watch(prefixes, after=after))


async def test_a_late_watcher_misses_nothing(store: Store, root: str) -> None:
    start = (await store.read(root)).revision
    for number in range(20):
        await store.commit([Put(f"{root}{number}", b"")])
    await store.commit([Delete(f"{root}7")])

    mirror = Mirror()
    await mirror.follow(store, [root], after=start, until=lambda mirror: f"{root}19" in mirror.values)

    assert mirror.values == values_of(await store.read(root))


async def test_a_watcher_sees_only_what_comes_after_its_revision(store: Store, root: str) -> None:
    await store.commit([Put(f"{root}before", b"")])
    start = (await store.read(root)).revision
    watch = store.watch([root], after=start)
    waiting = asyncio.ensure_future(anext(watch))
    await asyncio.sleep(0.05)
    assert not waiting.done()

    made = await store.commit([Put(f"{root}after", b"1")])
    changes = await asyncio.wait_for(waiting, PATIENCE)

    assert [(entry.key, entry.value, entry.revision) for entry in changes.entries] == [(f"{root}after", b"1", made)]
    assert (changes.deleted, changes.full, changes.revision >= made) == ((), False, True)


async def test_a_watcher_hears_of_deletions(store: Store, root: str) -> None:
    await store.commit([Put(f"{root}a", b""), Put(f"{root}b", b"")])
    # A store without a history knows of deletions from where this client has read.
    start = (await store.read(root)).revision
    await store.commit([Delete(f"{root}a")])

    changes = await first(store, [root], start)

    assert (changes.entries, changes.deleted) == ((), (f"{root}a",))


async def test_one_watch_covers_several_prefixes(store: Store, root: str) -> None:
    start = (await store.read(root)).revision
    prefixes = [f"{root}a/", f"{root}b/", f"{root}one"]
    names = ("a/1", "b/1", "one", "one-more", "c/1", "a", "a/2/3")
    for name in names:
        await store.commit([Put(root + name, b"")])

    mirror = Mirror()
    await mirror.follow(store, prefixes, after=start, until=lambda mirror: f"{root}a/2/3" in mirror.values)

    assert set(mirror.values) == {f"{root}{name}" for name in ("a/1", "b/1", "one", "a/2/3")}
    assert mirror.values == values_of(await store.read(*prefixes))


async def test_a_neighbour_does_not_wake_a_watcher(store: Store, root: str) -> None:
    start = (await store.read(root)).revision
    waiting = asyncio.ensure_future(anext(store.watch([f"{root}a/", f"{root}key"], after=start)))
    for name in ("ab", "a", "a0", "key/below", "keys", "b/a"):
        await store.commit([Put(root + name, b"")])
    await asyncio.sleep(0.1)
    assert not waiting.done()

    await store.commit([Put(f"{root}key", b"")])

    assert [entry.key for entry in (await asyncio.wait_for(waiting, PATIENCE)).entries] == [f"{root}key"]


async def test_several_watchers_each_see_their_own(store_factory: Open, root: str) -> None:
    writer, other = await store_factory(), await store_factory()
    start = (await writer.read(root)).revision
    scopes = [f"{root}a/", f"{root}b/", root, f"{root}a/"]
    following = [
        asyncio.create_task(
            Mirror().follow(
                (writer, other)[index % 2],
                [scope, f"{root}end"],
                after=start,
                until=lambda mirror: f"{root}end" in mirror.values,
            )
        )
        for index, scope in enumerate(scopes)
    ]
    for number in range(30):
        await writer.commit([Put(f"{root}{'ab'[number % 2]}/{number % 7}", str(number).encode())])
    await writer.commit([Put(f"{root}end", b"")])

    for scope, task in zip(scopes, following, strict=True):
        assert (await task).values == values_of(await other.read(scope, f"{root}end"))


async def test_a_commit_reaches_a_watcher_whole(store: Store, root: str) -> None:
    await store.commit([Put(f"{root}b/gone", b"")])
    start = (await store.read(root)).revision
    watch = store.watch([f"{root}a/", f"{root}b/"], after=start)
    waiting = asyncio.ensure_future(anext(watch))
    puts = [Put(f"{root}{tree}/{number}", b"") for tree in "abc" for number in range(8)]
    made = await store.commit([*puts, Delete(f"{root}b/gone")])

    changes = await asyncio.wait_for(waiting, PATIENCE)

    assert {entry.key for entry in changes.entries} == {put.key for put in puts if f"{root}c/" not in put.key}
    assert {entry.revision for entry in changes.entries} == {made}
    assert changes.deleted == (f"{root}b/gone",)


async def test_a_watcher_never_sees_half_of_a_commit(store_factory: Open, root: str) -> None:
    writer, reader = await store_factory(), await store_factory()
    start = (await reader.read(root)).revision
    mirror = Mirror()

    async def write() -> None:
        for number in range(150):
            value = str(number).encode()
            await writer.commit([Put(f"{root}left/x", value), Put(f"{root}right/x", value)])
            if number % 5 == 0:
                await writer.commit([Delete(f"{root}left/x"), Delete(f"{root}right/x")])

    def whole(mirror: Mirror) -> bool:
        assert len(set(mirror.values.values())) <= 1, "both sides change together"
        assert len(mirror.values) in (0, 2), "both sides come and go together"
        return mirror.values.get(f"{root}left/x") == b"149"

    writing = asyncio.create_task(write())
    await mirror.follow(reader, [f"{root}left/", f"{root}right/"], after=start, until=whole)
    await writing

    assert all(later.revision > earlier.revision for earlier, later in pairwise(mirror.seen))


async def test_a_watcher_that_went_away_goes_on_where_it_was(store: Store, root: str) -> None:
    start = (await store.read(root)).revision
    mirror = Mirror()
    await store.commit([Put(f"{root}a", b"1")])
    await mirror.follow(store, [root], after=start, until=lambda mirror: f"{root}a" in mirror.values)

    await store.commit([Delete(f"{root}a"), Put(f"{root}b", b"2")])
    await mirror.follow(store, [root], after=mirror.revision, until=lambda mirror: f"{root}b" in mirror.values)

    assert mirror.values == {f"{root}b": b"2"}


async def test_a_cancelled_watcher_disturbs_no_other(store: Store, root: str) -> None:
    start = (await store.read(root)).revision
    cancelled = asyncio.ensure_future(anext(store.watch([root], after=start)))
    waiting = asyncio.ensure_future(anext(store.watch([root], after=start)))
    await asyncio.sleep(0.02)
    cancelled.cancel()

    await store.commit([Put(f"{root}a", b"1")])

    assert [entry.key for entry in (await asyncio.wait_for(waiting, PATIENCE)).entries] == [f"{root}a"]
    with pytest.raises(asyncio.CancelledError):
        await cancelled


async def test_a_watcher_behind_the_log_gets_the_whole(store: Store, root: str, provider: Provider) -> None:
    start = await store.commit([Put(f"{root}a", b"1"), Put(f"{root}gone", b"1")])
    await store.commit([Delete(f"{root}gone"), Put(f"{root}b", b"2")])
    await store.commit([Put(f"{root}c", b"3")])
    await provider.forget_history(store)

    mirror = Mirror({f"{root}a": b"1", f"{root}gone": b"1"})
    watch = store.watch([root], after=start)
    async with asyncio.timeout(PATIENCE):
        mirror.fold(await anext(watch))
        assert mirror.seen[0].full
        assert mirror.values == {f"{root}a": b"1", f"{root}b": b"2", f"{root}c": b"3"}
        await store.commit([Delete(f"{root}b")])
        mirror.fold(await anext(watch))

    assert mirror.values == values_of(await store.read(root))


async def test_the_whole_of_nothing_is_told_too(store: Store, root: str, provider: Provider) -> None:
    start = await store.commit([Put(f"{root}a", b"1")])
    await store.commit([Delete(f"{root}a")])
    await store.commit([Put(f"{root}elsewhere", b"")])
    await provider.forget_history(store)

    changes = await first(store, [f"{root}a"], start)

    assert (changes.full, changes.entries) == (True, ())


async def test_a_watcher_that_keeps_up_does_not_notice_compaction(store: Store, root: str, provider: Provider) -> None:
    mirror = Mirror()
    start = await store.commit([Put(f"{root}watched/a", b"1")])
    watch = store.watch([f"{root}watched/"], after=start)
    waiting = asyncio.ensure_future(anext(watch))
    for number in range(5):
        await store.commit([Put(f"{root}other/{number}", b"")])
        await asyncio.sleep(0.02)
    await provider.forget_history(store)

    await store.commit([Put(f"{root}watched/b", b"2")])
    mirror.fold(await asyncio.wait_for(waiting, PATIENCE))

    assert mirror.values[f"{root}watched/b"] == b"2"
    assert not mirror.seen[0].full


async def test_a_revision_from_the_future_gets_the_whole(store: Store, root: str) -> None:
    newest = await store.commit([Put(f"{root}a", b"1")])

    changes = await first(store, [root], newest + 1_000_000)

    assert (changes.full, [entry.key for entry in changes.entries]) == (True, [f"{root}a"])
    assert changes.revision >= newest


async def test_closing_the_store_ends_its_watches(store: Store, root: str) -> None:
    start = await store.commit([Put(f"{root}a", b"")])
    idle, busy = store.watch([root], after=start), store.watch([root], after=start - 1)
    waiting = asyncio.ensure_future(anext(idle, None))
    assert await asyncio.wait_for(anext(busy), PATIENCE)
    await asyncio.sleep(0.02)

    await store.close()

    assert await asyncio.wait_for(waiting, PATIENCE) is None
    assert await asyncio.wait_for(anext(busy, None), PATIENCE) is None


async def test_what_comes_with_a_gate_is_seen_with_it_and_what_comes_past_it_before_long(
    store: Store, root: str
) -> None:
    gate = f"{root}gate"
    names = [f"{root}{name}" for name in ("gate", "there", "absent", "gone", *range(1, 30))]
    await store.commit([Put(gate, b"0"), Put(f"{root}there", b"0"), Put(f"{root}gone", b"0")])
    snapshot = await store.read(*names)
    mirror = Mirror(values_of(snapshot))
    watch = store.watch(names, after=snapshot.revision, gates=[gate])
    for number in range(1, 6):
        value = str(number).encode()
        await store.commit([Put(gate, value), Put(f"{root}there", value), Put(f"{root}{number}", value)])
        async with asyncio.timeout(PATIENCE):
            while mirror.values[gate] != value:
                mirror.fold(await anext(watch))
        assert mirror.values[f"{root}there"] == mirror.values[f"{root}{number}"] == value  # never one without the other

    await store.commit([Put(f"{root}absent", b"1"), Delete(f"{root}gone")])  # the gate stays as it is
    async with asyncio.timeout(PATIENCE):
        while f"{root}absent" not in mirror.values or f"{root}gone" in mirror.values:
            mirror.fold(await anext(watch))
    assert mirror.values == values_of(await store.read(*names))
