from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from pathlib import Path

import pytest

from meshagent.errors import LeaseLost, MeshError, StoreUnavailable
from meshagent.store import sqlite_file, sqlite_link
from meshagent.store.base import Changes, Put
from meshagent.store.sqlite import SqliteStore, open_sqlite

Open = Callable[..., Awaitable[SqliteStore]]
NEVER = 3600.0
OFTEN = 0.005


class Clock:
    """Both clocks of a machine, moved by hand."""

    def __init__(self) -> None:
        self.wall = 1_000_000.0
        self.monotonic = 50.0

    def pass_by(self, seconds: float) -> None:
        self.wall += seconds
        self.monotonic += seconds


@pytest.fixture
async def opened(tmp_path: Path) -> AsyncIterator[Open]:
    stores: list[SqliteStore] = []

    async def open_it(poll: float = NEVER, clock: Clock | None = None, path: Path | None = None) -> SqliteStore:
        clocks = {"clock": lambda: clock.wall, "monotonic": lambda: clock.monotonic} if clock else {}
        stores.append(await open_sqlite(path or tmp_path / "mesh.db", poll=poll, **clocks))
        return stores[-1]

    yield open_it
    for store in stores:
        await store.close()


async def soon(awaitable: Awaitable[Changes]) -> Changes:
    return await asyncio.wait_for(awaitable, 5)


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(5):
        while not await condition():
            await asyncio.sleep(OFTEN)


async def readable(store: SqliteStore) -> bool:
    try:
        await store.read("")
    except StoreUnavailable:
        return False
    return True


def keys(changes: Changes) -> set[str]:
    return {entry.key for entry in changes.entries}


async def test_a_watcher_of_another_client_is_woken_long_before_the_poll(opened: Open) -> None:
    writer, watcher = await opened(), await opened()
    watch = watcher.watch([""], after=0)
    waiting = asyncio.ensure_future(anext(watch))
    await asyncio.sleep(0)

    await writer.commit([Put("a", b"")])

    assert keys(await soon(waiting)) == {"a"}


async def test_without_a_bell_the_poll_finds_the_change(opened: Open, tmp_path: Path) -> None:
    writer, watcher = await opened(), await opened(poll=OFTEN)
    (tmp_path / "mesh.db-watchers").write_text("in the way of the directory")
    waiting = asyncio.ensure_future(anext(watcher.watch([""], after=0)))
    await asyncio.sleep(0)

    await writer.commit([Put("a", b"")])

    assert keys(await soon(waiting)) == {"a"}
    assert (tmp_path / "mesh.db-watchers").is_file()


async def test_a_client_without_watchers_is_not_rung(opened: Open, tmp_path: Path) -> None:
    store = await opened()
    await store.commit([Put("a", b"")])
    assert not (tmp_path / "mesh.db-watchers").exists()

    waiting = asyncio.ensure_future(anext(store.watch([""], after=0)))
    await soon(waiting)
    assert len(list((tmp_path / "mesh.db-watchers").iterdir())) == 1
    await store.close()
    assert list((tmp_path / "mesh.db-watchers").iterdir()) == []


async def test_a_file_that_is_moved_away_makes_the_store_unavailable_at_once(opened: Open, tmp_path: Path) -> None:
    store = await opened()
    await store.commit([Put("a", b"")])
    (tmp_path / "mesh.db").rename(tmp_path / "aside.db")

    for call in (store.read(""), store.commit([Put("b", b"")]), store.check(), store.lease(timedelta(seconds=9))):
        with pytest.raises(StoreUnavailable, match="moved away") as trouble:
            await call
        assert str(tmp_path / "mesh.db") in trouble.value.next_step
    assert not (tmp_path / "mesh.db").exists()


async def test_a_file_that_came_back_is_used_again_and_its_watchers_get_the_whole(opened: Open, tmp_path: Path) -> None:
    store = await opened(poll=OFTEN)
    start = await store.commit([Put("a", b"")])
    waiting = asyncio.ensure_future(anext(store.watch([""], after=start)))
    (tmp_path / "mesh.db").rename(tmp_path / "aside.db")
    assert not await readable(store)
    await asyncio.sleep(OFTEN * 4)
    assert not waiting.done()

    (tmp_path / "aside.db").rename(tmp_path / "mesh.db")

    changes = await soon(waiting)
    assert (keys(changes), changes.full) == ({"a"}, True)
    await store.commit([Put("b", b"")])
    assert set((await store.read("")).entries) == {"a", "b"}


async def test_another_store_in_the_file_s_place_is_what_watchers_get_whole(opened: Open, tmp_path: Path) -> None:
    other = await opened(path=tmp_path / "other.db")
    for number in range(9):
        await other.commit([Put(f"other-{number}", b"")])
    await other.close()
    store = await opened(poll=OFTEN)
    start = await store.commit([Put("a", b"")])
    watch = store.watch([""], after=start)
    waiting = asyncio.ensure_future(anext(watch))
    await asyncio.sleep(0)

    (tmp_path / "other.db").rename(tmp_path / "mesh.db")

    changes = await soon(waiting)
    assert (keys(changes), changes.full) == ({f"other-{number}" for number in range(9)}, True)
    await store.commit([Put("more", b"")])
    assert keys(await soon(anext(watch))) == {"more"}
    assert (await store.check()).ok


async def test_two_clients_of_a_swapped_file_both_find_the_new_one(opened: Open, tmp_path: Path) -> None:
    other = await opened(path=tmp_path / "other.db")
    await other.commit([Put("new", b"")])
    await other.close()
    clients = [await opened(poll=OFTEN), await opened(poll=OFTEN * 3)]
    await clients[0].commit([Put("old", b"")])

    (tmp_path / "other.db").rename(tmp_path / "mesh.db")
    for client in clients:
        await until(lambda client=client: readable(client))  # type: ignore[misc]
    await clients[0].commit([Put("a", b"")])
    await clients[1].commit([Put("b", b"")])

    assert [set((await client.read("")).entries) for client in clients] == [{"new", "a", "b"}] * 2
    checked = sqlite3.connect(tmp_path / "mesh.db")
    assert checked.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    checked.close()


async def test_a_file_that_is_no_store_in_its_place_is_told_and_a_good_one_afterwards_is_taken(
    opened: Open, tmp_path: Path
) -> None:
    store = await opened(poll=OFTEN)
    await store.commit([Put("a", b"")])
    (tmp_path / "mesh.db").rename(tmp_path / "aside.db")
    (tmp_path / "mesh.db").write_bytes(b"no database, but something" * 100)

    async def told() -> bool:
        with pytest.raises(StoreUnavailable) as trouble:
            await store.read("")
        return "not a store of the mesh" in str(trouble.value)

    await until(told)
    (tmp_path / "mesh.db").unlink()
    (tmp_path / "aside.db").rename(tmp_path / "mesh.db")
    await until(lambda: readable(store))


async def test_a_lease_ends_by_the_poll_of_any_client(opened: Open) -> None:
    clock = Clock()
    holder, other = await opened(clock=clock), await opened(poll=OFTEN, clock=clock)
    lease = await holder.lease(timedelta(seconds=30))
    made = await holder.commit([Put("a", b"", lease=lease.id)])
    waiting = asyncio.ensure_future(anext(holder.watch([""], after=made)))
    clock.pass_by(29)
    await lease.renew()
    clock.pass_by(29)
    await asyncio.sleep(OFTEN * 4)
    assert not waiting.done()

    clock.pass_by(1)

    assert (await soon(waiting)).deleted == ("a",)
    assert (await other.read("")).entries == {}


async def test_a_clock_that_is_set_ahead_ends_no_lease_of_a_living_holder(opened: Open) -> None:
    clock = Clock()
    holder, _ = await opened(clock=clock), await opened(poll=OFTEN, clock=clock)
    lease = await holder.lease(timedelta(seconds=30))
    await holder.commit([Put("a", b"", lease=lease.id)])

    clock.wall += 86_400
    await asyncio.sleep(OFTEN * 4)

    assert set((await holder.read("")).entries) == {"a"}
    await lease.renew()


async def test_a_clock_that_is_set_back_keeps_a_dead_holder_s_lease_for_one_ttl_at_most(opened: Open) -> None:
    clock = Clock()
    holder, other = await opened(clock=clock), await opened(poll=OFTEN, clock=clock)
    lease = await holder.lease(timedelta(seconds=30))
    await holder.commit([Put("a", b"", lease=lease.id)])
    clock.wall -= 86_400
    await asyncio.sleep(OFTEN * 4)

    clock.pass_by(30)

    async def gone() -> bool:
        return not (await other.read("")).entries

    await until(gone)
    with pytest.raises(LeaseLost):
        await lease.renew()


async def test_a_lease_that_is_over_is_lost_even_before_anybody_polled(opened: Open) -> None:
    clock = Clock()
    store = await opened(clock=clock)
    lease = await store.lease(timedelta(seconds=30))
    await store.commit([Put("a", b"", lease=lease.id)])
    clock.pass_by(31)

    with pytest.raises(LeaseLost) as lost:
        await lease.renew()

    assert lost.value.next_step
    assert (await store.read("")).entries == {}


async def test_the_log_is_compacted_by_the_poll(opened: Open) -> None:
    clock = Clock()
    store = await opened(clock=clock)
    start = await store.commit([Put("a", b"1")])
    for number in range(5):
        await store.commit([Put("a", str(number).encode())])
    clock.pass_by(3601)
    tending = await opened(poll=OFTEN, clock=clock)

    async def compacted() -> bool:
        return (await soon(anext(tending.watch(["a"], after=start)))).full

    await until(compacted)


async def test_a_writer_that_waits_too_long_for_a_lock_says_who_to_look_for(
    opened: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_file, "BUSY_SECONDS", 0.02)
    store = await opened()
    await store.commit([Put("a", b"")])
    holder = sqlite3.connect(tmp_path / "mesh.db", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")

    with pytest.raises(StoreUnavailable, match="locked") as trouble:
        await store.commit([Put("b", b"")])
    assert "fuser" in trouble.value.next_step
    assert set((await store.read("")).entries) == {"a"}, "a reader does not wait"

    holder.rollback()
    holder.close()
    await store.commit([Put("b", b"")])


async def test_a_waiting_writer_does_not_hold_up_the_event_loop(opened: Open, tmp_path: Path) -> None:
    store = await opened()
    holder = sqlite3.connect(tmp_path / "mesh.db", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    writing = asyncio.create_task(store.commit([Put("a", b"")]))
    for _ in range(5):
        await asyncio.sleep(0.002)
        assert (await store.read("")).entries == {}
    assert not writing.done()

    holder.rollback()
    holder.close()

    assert await asyncio.wait_for(writing, 5) == 1


async def test_a_disk_that_is_nearly_full_is_a_problem(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    store = await opened()
    monkeypatch.setattr(sqlite_link, "_LEAST_FREE_BYTES", 1 << 62)

    health = await store.check()

    assert not health.ok
    assert "free some space" in health.problems[0]


async def test_a_commit_that_is_not_awaited_to_its_end_is_done_or_not_but_whole(opened: Open) -> None:
    store = await opened()
    for number in range(20):
        writing = asyncio.create_task(store.commit([Put(f"{number}/a", b""), Put(f"{number}/b", b"")]))
        await asyncio.sleep(0)
        writing.cancel()

    await store.commit([Put("last", b"")])
    found = set((await store.read("")).entries)

    assert "last" in found
    assert all((f"{number}/a" in found) == (f"{number}/b" in found) for number in range(20))


async def test_a_store_that_cannot_be_opened_leaves_nothing_running(tmp_path: Path) -> None:
    (tmp_path / "mesh.db").write_bytes(b"no database" * 1000)
    with pytest.raises(MeshError):
        await open_sqlite(tmp_path / "mesh.db")
    assert len(asyncio.all_tasks()) == 1


async def test_nothing_runs_after_a_store_is_closed(tmp_path: Path) -> None:
    store = await open_sqlite(tmp_path / "mesh.db")
    waiting = asyncio.ensure_future(anext(store.watch([""], after=0), None))
    await asyncio.sleep(0)
    await store.commit([Put("a", b"")])
    await store.close()
    await waiting
    assert len(asyncio.all_tasks()) == 1
    assert {found.name for found in tmp_path.iterdir()} == {"mesh.db", "mesh.db-watchers"}
