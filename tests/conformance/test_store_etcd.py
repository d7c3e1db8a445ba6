"""What only etcd asks of its store: dead and frozen members, tokens that end, compaction, rights, TLS, data that is gone."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from meshagent.errors import LeaseLost, StoreDenied, StoreUnavailable
from meshagent.store import etcd_reading, open_store
from meshagent.store.access import Access
from meshagent.store.base import Changes, Delete, Put, Store
from meshagent.store.etcd import EtcdStore
from meshagent.store.etcd_kv import MAX_OPERATIONS
from meshagent.wire.etcd_watch import SILENCE
from tests.conformance.mirror import Mirror, values_of
from tests.servers import etcd

pytestmark = pytest.mark.conformance

PATIENCE = 30.0
NOTICED = 6.0
Opened = Callable[..., Awaitable[Store]]
Users = Callable[[str], Access]


@pytest.fixture
async def opened() -> AsyncIterator[Opened]:
    """Opens a store that is closed after the test."""
    stores: list[Store] = []

    async def open_one(url: str, access: Access | None = None) -> Store:
        stores.append(await open_store(url, access))
        return stores[-1]

    yield open_one
    for store in stores:
        await store.close()


@pytest.fixture
def user(root: str, tmp_path: Path) -> Users:
    """Whoever has this password. The same file each time, so that a later password replaces the one before."""

    def named(password: str) -> Access:
        file = tmp_path / "password"
        file.touch(0o600)
        file.write_text(password)
        return Access(username=root.strip("/"), password_file=file)

    return named


def guard(running: etcd.Servers, root: str, *trees: str) -> None:
    """A user named after the test who may use these trees with the password `secret`."""
    name = root.strip("/")
    running.add_role(name, "readwrite", *trees)
    running.add_user(name, "secret", name)


async def within(waiting: asyncio.Future[Changes], seconds: float = PATIENCE) -> Changes:
    return await asyncio.wait_for(waiting, seconds)


async def written(store: Store, key: str, value: bytes = b"") -> int:
    """Write until it is done."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                return await store.commit([Put(key, value)])
            except StoreUnavailable:
                await asyncio.sleep(0.05)


def places(root: str, *, several: bool) -> list[str]:
    """What to watch: one range, or several that are read together."""
    return [f"{root}a/", f"{root}b/", f"{root}end"] if several else [root]


@pytest.mark.parametrize("several", [False, True], ids=["one range", "three ranges"])
async def test_a_server_killed_while_a_watcher_catches_up_loses_it_nothing(
    root: str, several: bool, opened: Opened
) -> None:
    with etcd.servers() as running:
        writer, reader = await opened(running.url), await opened(running.url)
        start = (await writer.read(root)).revision
        for number in range(0, 2400, 40):
            await asyncio.gather(*(writer.commit([Put(f"{root}a/{number + each}", b"")]) for each in range(40)))
        mirror = Mirror()
        watch = reader.watch(places(root, several=several), after=start)
        mirror.fold(await within(asyncio.ensure_future(anext(watch))))

        running.kill()
        await asyncio.to_thread(running.start)
        await written(writer, f"{root}end")

        async with asyncio.timeout(PATIENCE):
            while f"{root}end" not in mirror.values:
                mirror.fold(await anext(watch))
        assert set(mirror.values) == {f"{root}end", *(f"{root}a/{number}" for number in range(2400))}
        # With one range each revision comes once, and none comes twice after the outage.
        told = [entry.revision for changes in mirror.seen for entry in changes.entries]
        assert told == sorted(set(told)) or several


@pytest.mark.parametrize("several", [False, True], ids=["one range", "three ranges"])
async def test_a_frozen_member_is_noticed_within_six_seconds(root: str, several: bool, opened: Opened) -> None:
    with etcd.servers(3) as running:
        follower = next(number for number in range(3) if number != running.leader())
        others = [member.place for member in running.members if member is not running.members[follower]]
        writer = await opened(f"etcd://{','.join(others)}")
        reader = await opened(f"etcd://{','.join([running.members[follower].place, *others])}")
        start = (await reader.read(root)).revision
        waiting = asyncio.ensure_future(anext(reader.watch(places(root, several=several), after=start)))
        await asyncio.sleep(0.5)

        running.members[follower].freeze()
        try:
            await writer.commit([Put(f"{root}a/1", b"")])
            changes = await within(waiting, NOTICED)
            assert [entry.key for entry in changes.entries] == [f"{root}a/1"]
            assert values_of(await asyncio.wait_for(reader.read(root), NOTICED)) == {f"{root}a/1": b""}
            assert NOTICED > SILENCE
        finally:
            running.members[follower].thaw()


async def test_one_dead_member_of_three_is_passed_over(root: str, opened: Opened) -> None:
    with etcd.servers(3) as running:
        dead = running.leader()
        order = [running.members[dead], *(each for each in running.members if each is not running.members[dead])]
        url = f"etcd://{','.join(member.place for member in order)}"
        store = await opened(url)
        start = await store.commit([Put(f"{root}a/0", b"")])
        lease = await store.lease(timedelta(seconds=60))
        following = asyncio.create_task(
            Mirror().follow(store, [root], after=start, until=lambda mirror: f"{root}end" in mirror.values)
        )
        await asyncio.sleep(0.2)

        running.members[dead].kill()
        await written(store, f"{root}a/1")
        late = await opened(url)
        await written(late, f"{root}end")

        assert set((await following).values) == {f"{root}a/1", f"{root}end"}
        assert set(values_of(await late.read(root))) == {f"{root}a/0", f"{root}a/1", f"{root}end"}
        await lease.renew()
        assert (await late.check()).ok


async def test_a_token_that_a_restart_ended_is_replaced(root: str, opened: Opened, user: Users) -> None:
    with etcd.servers(guarded=True) as running:
        guard(running, root, root)
        store = await opened(running.url, user("secret"))
        lease = await store.lease(timedelta(seconds=60))
        start = await store.commit([Put(f"{root}a/1", b"", lease=lease.id)])
        watches = [store.watch(places(root, several=several), after=start) for several in (False, True)]
        waiting = [asyncio.ensure_future(anext(watch)) for watch in watches]
        await asyncio.sleep(0.3)

        running.kill()
        with pytest.raises(StoreUnavailable):
            await store.commit([Put(f"{root}lost", b"")])
        await asyncio.to_thread(running.start)

        await lease.renew()
        await written(store, f"{root}a/2")
        for each in waiting:
            assert [entry.key for entry in (await within(each)).entries] == [f"{root}a/2"]


async def test_a_token_that_ended_while_nothing_was_asked_is_replaced(root: str, opened: Opened, user: Users) -> None:
    with etcd.servers(guarded=True, options=("--auth-token-ttl=1",)) as running:
        guard(running, root, root)
        store = await opened(running.url, user("secret"))
        start = await store.commit([Put(f"{root}a/1", b"")])
        waiting = asyncio.ensure_future(anext(store.watch([root], after=start)))

        await asyncio.sleep(3)

        await store.commit([Put(f"{root}a/2", b"")])
        assert [entry.key for entry in (await within(waiting)).entries] == [f"{root}a/2"]
        await asyncio.sleep(3)
        changes = await within(asyncio.ensure_future(anext(store.watch(places(root, several=True), after=start))))
        assert [entry.key for entry in changes.entries] == [f"{root}a/2"]
        await asyncio.sleep(3)
        assert (await store.check()).ok


async def test_a_password_that_was_changed_is_read_from_its_file(root: str, opened: Opened, user: Users) -> None:
    with etcd.servers(guarded=True) as running:
        guard(running, root, root)
        store = await opened(running.url, user("secret"))
        await store.commit([Put(f"{root}a/1", b"")])
        running.ctl("user", "passwd", root.strip("/"), "--interactive=false", given="changed")
        with pytest.raises(StoreDenied, match="user and password"):
            await store.read(root)

        user("changed")

        assert set(values_of(await store.read(root))) == {f"{root}a/1"}


@pytest.mark.parametrize("several", [False, True], ids=["one range", "three ranges"])
async def test_a_watcher_that_was_away_during_compaction_gets_the_whole(
    root: str, several: bool, opened: Opened
) -> None:
    with etcd.servers() as running:
        writer, reader = await opened(running.url), await opened(running.url)
        assert isinstance(writer, EtcdStore)
        await writer.commit([Put(f"{root}a/{name}", b"1") for name in ("kept", "gone")])
        start = (await reader.read(root)).revision
        mirror = Mirror({f"{root}a/kept": b"1", f"{root}a/gone": b"1"})
        watch = reader.watch(places(root, several=several), after=start)
        await writer.commit([Put(f"{root}a/first", b"")])
        mirror.fold(await within(asyncio.ensure_future(anext(watch))))

        # Nobody reads the watch meanwhile, and its connection is gone.
        running.kill()
        await asyncio.to_thread(running.start)
        await written(writer, f"{root}a/kept", b"2")
        await writer.commit([Delete(f"{root}a/gone")])
        await writer.commit([Put(f"{root}end", b"")])
        await writer.compact()

        async with asyncio.timeout(PATIENCE):
            while f"{root}end" not in mirror.values:
                mirror.fold(await anext(watch))
        assert mirror.values == values_of(await writer.read(root))
        assert several or mirror.seen[-1].full


@pytest.mark.parametrize("several", [False, True], ids=["one range", "three ranges"])
async def test_a_deletion_at_the_very_revision_of_a_compaction_is_not_missed(
    etcd_servers: etcd.Servers, root: str, several: bool, opened: Opened
) -> None:
    store = await opened(etcd_servers.url)
    start = await store.commit([Put(f"{root}a/gone", b"1")])
    mirror = Mirror({f"{root}a/gone": b"1"})
    end = await store.commit([Delete(f"{root}a/gone"), Put(f"{root}a/new", b"2")])
    # It returns when the deletions are gone from etcd's disk and not only marked.
    etcd_servers.ctl("compact", "--physical", str(end))

    watch = store.watch(places(root, several=several), after=start)
    mirror.fold(await within(asyncio.ensure_future(anext(watch))))

    assert mirror.values == {f"{root}a/new": b"2"}


async def test_a_place_that_may_not_be_read_is_named_and_not_empty(
    guarded_etcd_servers: etcd.Servers, root: str, opened: Opened, user: Users
) -> None:
    await asyncio.to_thread(guard, guarded_etcd_servers, root, f"{root}mine/")
    store = await opened(guarded_etcd_servers.url, user("secret"))
    await store.commit([Put(f"{root}mine/a", b"1")])

    assert values_of(await store.read(f"{root}mine/")) == {f"{root}mine/a": b"1"}
    for prefixes in ([f"{root}theirs/"], [f"{root}mine/", f"{root}theirs/"], [root], [f"{root}theirs"]):
        with pytest.raises(StoreDenied, match=f"may not read {root}(theirs|\\.)") as refusal:
            await store.read(*prefixes)
        assert "etcdctl role grant-permission" in refusal.value.next_step
        with pytest.raises(StoreDenied):
            await within(asyncio.ensure_future(anext(store.watch(prefixes, after=0))))
    with pytest.raises(StoreDenied, match=f"may not write .*{root}theirs/a"):
        await store.commit([Put(f"{root}mine/b", b""), Put(f"{root}theirs/a", b"")])
    assert set(values_of(await store.read(f"{root}mine/"))) == {f"{root}mine/a"}


async def test_a_wrong_password_and_a_user_that_is_missing_are_refused(
    guarded_etcd_servers: etcd.Servers, root: str, opened: Opened, user: Users
) -> None:
    await asyncio.to_thread(guard, guarded_etcd_servers, root, root)
    wrong, nobody = await opened(guarded_etcd_servers.url, user("guess")), await opened(guarded_etcd_servers.url)

    for store, words in ((wrong, "does not accept the user"), (nobody, "asks for a user")):
        with pytest.raises(StoreDenied, match=words):
            await store.read(root)
        with pytest.raises(StoreDenied, match=words):
            await within(asyncio.ensure_future(anext(store.watch([root], after=0))))
    health = await wrong.check()
    assert not health.ok and "store_password_file" in health.problems[0]


async def test_a_user_at_an_etcd_that_asks_for_none_is_a_doubt(
    etcd_servers: etcd.Servers, root: str, opened: Opened, user: Users
) -> None:
    store = await opened(etcd_servers.url, user("secret"))
    await store.commit([Put(f"{root}a", b"1")])

    health = await store.check()

    assert health.ok
    assert "authentication is off" in health.problems[0]


async def test_tls_asks_for_the_right_server_and_shows_a_certificate(root: str, opened: Opened) -> None:
    with etcd.servers(tls=True) as running:
        files = running.certificates
        assert files
        whole = Access(ca_file=files.ca, cert_file=files.client_cert, key_file=files.client_key)
        place = f"localhost:{running.members[0].client}"
        for url in (running.url, f"etcd://{place}?tls=true"):
            store = await opened(url, whole)
            start = await store.commit([Put(f"{root}{place}", b"")])
            changes = asyncio.ensure_future(anext(store.watch([root], after=start)))
            await store.commit([Delete(f"{root}{place}")])
            assert (await within(changes)).deleted == (f"{root}{place}",)

        stranger = await opened(running.url, replace(whole, ca_file=files.client_cert))
        with pytest.raises(StoreDenied, match="certificate"):
            await stranger.read(root)
        for access in (replace(whole, cert_file=None, key_file=None), Access()):
            with pytest.raises(StoreUnavailable):
                await (await opened(running.url, access)).read(root)


async def test_a_server_that_lost_its_data_tells_the_whole_and_knows_no_lease(root: str, opened: Opened) -> None:
    with etcd.servers() as running:
        store = await opened(running.url)
        for number in range(20):
            made = await store.commit([Put(f"{root}a/{number % 7}", b"")])
        lease = await store.lease(timedelta(seconds=60))
        watches = [store.watch(places(root, several=several), after=made) for several in (False, True)]
        waiting = [asyncio.ensure_future(anext(watch)) for watch in watches]
        await asyncio.sleep(0.3)

        running.kill()
        shutil.rmtree(running.members[0].data)
        await asyncio.to_thread(running.start)

        for each in waiting:
            changes = await within(each)
            assert (changes.full, changes.entries) == (True, ())
            assert changes.revision < made
        with pytest.raises(LeaseLost):
            await lease.renew()


async def test_more_prefixes_than_a_transaction_holds_are_read_and_watched_whole(
    etcd_servers: etcd.Servers, root: str, opened: Opened
) -> None:
    reader, writer = await opened(etcd_servers.url), await opened(etcd_servers.url)
    prefixes = [f"{root}key/{number}" for number in range(MAX_OPERATIONS)]
    prefixes += [f"{root}tree/{number}/" for number in range(MAX_OPERATIONS)]
    sides = [f"{root}key/0", f"{root}tree/{MAX_OPERATIONS - 1}/x"]
    await writer.commit([Put(side, b"0") for side in sides])
    start = await reader.read(*prefixes)
    mirror = Mirror(values_of(start))

    async def write() -> None:
        for number in range(1, 40):
            await writer.commit([Put(side, str(number).encode()) for side in sides])
        await writer.commit([Delete(side) for side in sides])

    def whole(mirror: Mirror) -> bool:
        assert len({mirror.values.get(side) for side in sides}) == 1
        return not mirror.values

    writing = asyncio.create_task(write())
    await mirror.follow(reader, prefixes, after=start.revision, until=whole)
    await writing


async def test_a_large_tree_is_read_in_pages_at_one_revision(
    etcd_servers: etcd.Servers, root: str, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(etcd_reading, "PAGE", 10)
    store = await opened(etcd_servers.url)
    for tree, count in (("a", 35), ("b", 20), ("c", 10)):
        await store.commit([Put(f"{root}{tree}/{number}", b"") for number in range(count)])

    for prefixes, count in (([root], 65), ([f"{root}a/", f"{root}b/"], 55), ([f"{root}c/"], 10)):
        assert len((await store.read(*prefixes)).entries) == count
    watch = store.watch([f"{root}a/", f"{root}b/"], after=(await store.read(root)).revision)
    await store.commit([Delete(f"{root}a/7"), Delete(f"{root}b/19")])
    assert set((await within(asyncio.ensure_future(anext(watch)))).deleted) == {f"{root}a/7", f"{root}b/19"}


async def test_keys_that_cannot_be_ours_are_left_out(etcd_servers: etcd.Servers, root: str, opened: Opened) -> None:
    store = await opened(etcd_servers.url)
    # The command line passes on what is no UTF-8 as it is.
    etcd_servers.ctl("put", f"{root}a/\udcff", "no text")
    start = await store.commit([Put(f"{root}a/b", b"1")])
    assert values_of(await store.read(root)) == values_of(await store.read(f"{root}a/")) == {f"{root}a/b": b"1"}

    watches = [store.watch(places(root, several=several)[:2], after=start - 2) for several in (False, True)]
    mirrors = [Mirror(), Mirror()]
    for mirror, watch in zip(mirrors, watches, strict=True):
        async with asyncio.timeout(PATIENCE):
            while not mirror.values:
                mirror.fold(await anext(watch))
    etcd_servers.ctl("del", f"{root}a/\udcff")
    await store.commit([Delete(f"{root}a/b")])

    for mirror, watch in zip(mirrors, watches, strict=True):
        async with asyncio.timeout(PATIENCE):
            while mirror.values:
                mirror.fold(await anext(watch))
        assert all(set(changes.deleted) <= {f"{root}a/b"} for changes in mirror.seen)


async def test_a_server_that_is_away_is_unavailable_soon_and_found_again(root: str, opened: Opened) -> None:
    with etcd.servers() as running:
        store = await opened(running.url)
        await store.commit([Put(f"{root}a", b"1")])
        lease = await store.lease(timedelta(seconds=60))
        running.kill()

        async with asyncio.timeout(NOTICED):
            for call in (store.read(root), store.commit([Put(f"{root}a", b"2")]), lease.renew(), store.check()):
                with pytest.raises(StoreUnavailable) as missing:
                    await call
                assert missing.value.next_step
        await asyncio.to_thread(running.start)

        assert values_of(await store.read(root)) == {f"{root}a": b"1"}
        await lease.renew()
