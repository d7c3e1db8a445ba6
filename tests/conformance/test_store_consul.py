"""What only Consul asks of its store: rights that hide in silence, outages of its servers, data that goes back in time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from meshagent.errors import LeaseLost, StoreDenied, StoreUnavailable, UsageProblem
from meshagent.store import open_store
from meshagent.store.access import Access
from meshagent.store.base import Changes, Delete, Put, Store
from meshagent.store.consul import ConsulStore
from meshagent.store.consul_kv import TRANSACTION
from meshagent.wire.consul import Answer
from tests.conformance.mirror import Mirror, values_of
from tests.servers import consul

pytestmark = pytest.mark.conformance

PATIENCE = 30.0
Tokens = Callable[[str], Access]
Opened = Callable[..., Awaitable[Store]]


@pytest.fixture
def access_with(guarded_consul_servers: consul.Servers, tmp_path: Path) -> Tokens:
    """Who may do what the rules say. The same file each time, so that a later token replaces the one before."""

    def made(rules: str) -> Access:
        token = tmp_path / "token"
        token.touch(0o600)
        token.write_text(guarded_consul_servers.policy_token(rules) if rules else "unknown")
        return Access(token_file=token)

    return made


@pytest.fixture
async def opened() -> AsyncIterator[Opened]:
    """Opens a store that is closed after the test."""
    stores: list[Store] = []

    async def open_one(running: consul.Servers, access: Access | None = None, url: str = "") -> Store:
        stores.append(await open_store(url or running.url, access))
        return stores[-1]

    yield open_one
    for store in stores:
        await store.close()


@pytest.fixture
async def owner(guarded_consul_servers: consul.Servers, tmp_path: Path, opened: Opened) -> Store:
    """A client that may do everything."""
    token = tmp_path / "owner"
    token.touch(0o600)
    token.write_text(guarded_consul_servers.token)
    return await opened(guarded_consul_servers, Access(token_file=token))


async def within(waiting: asyncio.Future[Changes]) -> Changes:
    return await asyncio.wait_for(waiting, PATIENCE)


async def test_a_tree_that_may_not_be_read_is_refused_and_not_empty(
    guarded_consul_servers: consul.Servers, owner: Store, root: str, access_with: Tokens, opened: Opened
) -> None:
    await owner.commit([Put(f"{root}{name}/a", b"") for name in ("mine", "theirs")])
    store = await opened(guarded_consul_servers, access_with(f'key_prefix "{root}mine/" {{ policy = "read" }}'))

    assert set((await store.read(f"{root}mine/")).entries) == {f"{root}mine/a"}
    for prefixes in ([f"{root}theirs/"], [f"{root}mine/", f"{root}theirs/"], [f"{root}mine/a", f"{root}theirs/a"]):
        with pytest.raises(StoreDenied, match=f"{root}theirs/") as refusal:
            await store.read(*prefixes)
        assert "policy" in refusal.value.next_step
        with pytest.raises(StoreDenied):
            await anext(store.watch(prefixes, after=0))
    with pytest.raises(StoreDenied, match=f"may not write {root}mine/a"):
        await store.commit([Put(f"{root}mine/a", b"")])
    with pytest.raises(StoreDenied):
        await store.lease(timedelta(seconds=10))


@pytest.mark.parametrize("names", [["a/"], ["a/", "b/"]], ids=["one tree", "two trees"])
@pytest.mark.parametrize(
    "rules",
    [
        'key_prefix "{root}b/" {{ policy = "read" }}',
        'key_prefix "{root}" {{ policy = "read" }} key "{root}a/2" {{ policy = "deny" }}',
    ],
    ids=["the whole tree", "one key in it"],
)
async def test_a_right_that_is_taken_away_does_not_look_like_a_deletion(
    guarded_consul_servers: consul.Servers,
    owner: Store,
    root: str,
    access_with: Tokens,
    names: list[str],
    rules: str,
    opened: Opened,
) -> None:
    await owner.commit([Put(f"{root}a/1", b"1"), Put(f"{root}a/2", b"2")])
    store = await opened(guarded_consul_servers, access_with(f'key_prefix "{root}" {{ policy = "read" }}'))
    prefixes = [root + name for name in names]
    watch = store.watch(prefixes, after=(await store.read(*prefixes)).revision)
    waiting = asyncio.ensure_future(anext(watch))
    await asyncio.sleep(0.1)

    access_with(rules.format(root=root))
    # The query under way goes on with the old token; this wakes it, and the next one has the new token.
    await owner.commit([Put(f"{root}a/1", b"3")])
    await owner.commit([Put(f"{root}a/1", b"4")])

    async def follow() -> None:
        changes = await waiting
        while True:
            assert not changes.deleted and not changes.full
            changes = await anext(watch)

    with pytest.raises(StoreDenied):
        await asyncio.wait_for(follow(), PATIENCE)


async def test_a_new_token_in_the_file_is_used_at_once(
    guarded_consul_servers: consul.Servers, root: str, access_with: Tokens, opened: Opened
) -> None:
    store = await opened(guarded_consul_servers, access_with(""))
    assert not (await store.check()).ok
    with pytest.raises(StoreDenied, match="does not know the token"):
        await store.read(root)

    access_with(f'key_prefix "{root}" {{ policy = "read" }}')

    assert values_of(await store.read(root)) == {}
    assert (await store.check()).ok


async def test_more_prefixes_than_a_transaction_holds_are_read_and_watched_whole(
    consul_servers: consul.Servers, root: str, opened: Opened
) -> None:
    reader, writer = await opened(consul_servers), await opened(consul_servers)
    prefixes = [f"{root}key/{number}" for number in range(TRANSACTION)]
    prefixes += [f"{root}tree/{number}/" for number in range(TRANSACTION)]
    sides = [f"{root}key/0", f"{root}tree/{TRANSACTION - 1}/x"]
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


async def test_a_lease_shorter_than_consul_allows_is_made_as_short_as_it_can_be(opened: Opened) -> None:
    with consul.servers(settings={"session_ttl_min": "10s"}) as running:
        store = await opened(running)
        lease = await store.lease(timedelta(seconds=1))

        await lease.renew()

        assert lease.ttl == timedelta(seconds=10)
        with pytest.raises(StoreDenied, match="session_ttl_min|Invalid Session TTL"):
            await store.lease(timedelta(days=100))


async def test_tls_shows_who_both_sides_are(tmp_path: Path, root: str, opened: Opened) -> None:
    ours, theirs = authority(tmp_path / "ours"), authority(tmp_path / "theirs")
    files = {"ca_file": str(ours.ca_file), "cert_file": str(ours.cert_file), "key_file": str(ours.key_file)}
    with consul.servers(settings={**files, "verify_incoming_https": True}) as running:
        url = f"consul://127.0.0.1:{running.nodes[0].https}"
        store = await opened(running, ours, url)
        await store.commit([Put(f"{root}a", b"1")])
        assert values_of(await store.read(root)) == {f"{root}a": b"1"}

        with pytest.raises(StoreDenied, match="certificate"):
            await (await opened(running, theirs, url)).read(root)
        with pytest.raises(StoreUnavailable):
            await (await opened(running, Access(ca_file=ours.ca_file), url)).read(root)
        with pytest.raises(UsageProblem, match="go together"):
            await opened(running, Access(ca_file=ours.ca_file, cert_file=ours.cert_file), url)
        with pytest.raises(StoreDenied, match="absent"):
            await opened(running, Access(ca_file=tmp_path / "absent"), url)


def authority(directory: Path) -> Access:
    """The files of a root and of one certificate for 127.0.0.1 that it issued."""
    directory.mkdir()
    now = datetime.now(UTC)
    root_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    root_name, name = (x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)]) for text in ("root", "consul"))

    def issued(subject: x509.Name, public: ec.EllipticCurvePublicKey, extension: x509.ExtensionType) -> bytes:
        builder = x509.CertificateBuilder(root_name, subject, public, x509.random_serial_number())
        lasting = builder.not_valid_before(now - timedelta(minutes=1)).not_valid_after(now + timedelta(hours=1))
        made = lasting.add_extension(extension, critical=True).sign(root_key, hashes.SHA256())
        return made.public_bytes(serialization.Encoding.PEM)

    place = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    contents = {
        "ca.pem": issued(root_name, root_key.public_key(), x509.BasicConstraints(ca=True, path_length=0)),
        "cert.pem": issued(name, key.public_key(), place),
        "key.pem": pem,
    }
    for file, content in contents.items():
        (directory / file).write_bytes(content)
    return Access(ca_file=directory / "ca.pem", cert_file=directory / "cert.pem", key_file=directory / "key.pem")


async def test_a_server_that_is_killed_and_comes_back_loses_a_watcher_nothing(root: str, opened: Opened) -> None:
    with consul.servers() as running:
        store = await opened(running)
        await store.commit([Put(f"{root}a/1", b""), Put(f"{root}b/1", b"")])
        lease = await store.lease(timedelta(seconds=60))
        prefixes = [f"{root}a/", f"{root}b/"]
        waiting = asyncio.ensure_future(anext(store.watch(prefixes, after=(await store.read(*prefixes)).revision)))
        await asyncio.sleep(0.2)

        running.kill()
        with pytest.raises(StoreUnavailable):
            await store.read(root)
        with pytest.raises(StoreUnavailable):
            await store.check()
        assert not waiting.done()
        await asyncio.to_thread(running.start)
        await store.commit([Delete(f"{root}a/1")])

        assert (await within(waiting)).deleted == (f"{root}a/1",)
        await lease.renew()


async def test_a_server_that_lost_its_data_tells_the_whole_and_knows_no_lease(root: str, opened: Opened) -> None:
    with consul.servers() as running:
        store = await opened(running)
        for number in range(50):
            made = await store.commit([Put(f"{root}{number % 7}", b"")])
        lease = await store.lease(timedelta(seconds=60))
        waiting = asyncio.ensure_future(anext(store.watch([root], after=(await store.read(root)).revision)))
        await asyncio.sleep(0.2)

        running.kill()
        (node,) = running.nodes
        for path in sorted((node.directory / "data").rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        await asyncio.to_thread(running.start)

        changes = await within(waiting)
        assert (changes.full, changes.entries) == (True, ())
        assert changes.revision < made
        with pytest.raises(LeaseLost):
            await lease.renew()


async def test_three_servers_serve_through_the_loss_of_a_leader_and_a_frozen_one(root: str, opened: Opened) -> None:
    async with consul.three_nodes() as running:
        store = await opened(running)
        seen: dict[str, bytes] = {}
        ended = asyncio.Event()

        async def follow() -> None:
            async for changes in store.watch([f"{root}a/", f"{root}end"], after=0):
                seen.update({entry.key: entry.value for entry in changes.entries})
                if f"{root}end" in seen:
                    ended.set()

        following = asyncio.create_task(follow())
        async with asyncio.timeout(90):
            await written(store, f"{root}a/1")
            (await asyncio.to_thread(running.leader)).kill()
            await written(store, f"{root}a/2")
            await asyncio.to_thread(running.start)
            leader = await asyncio.to_thread(running.leader)
            leader.freeze()
            await written(store, f"{root}a/3")
            leader.thaw()
            await written(store, f"{root}end")
            await ended.wait()

        assert set(seen) == {*(f"{root}a/{number}" for number in (1, 2, 3)), f"{root}end"}
        await store.close()
        await following


async def written(store: Store, key: str) -> None:
    """Write until it is done."""
    while True:
        try:
            await store.commit([Put(key, b"")])
        except StoreUnavailable:
            await asyncio.sleep(0.1)
        else:
            return


async def test_a_commit_costs_a_watcher_the_queries_it_wakes_and_one_check(root: str, opened: Opened) -> None:
    with consul.servers() as running:
        writer, reader = await opened(running), await opened(running)
        # Most of what a host watches is absent; elsewhere in the mesh there is more than it watches.
        names = [f"{root}config/{name}" for name in ("manifest", "mesh", "intention/*", "intention/web")]
        names += [f"{root}config/service/s{number}" for number in range(100)]
        await writer.commit([Put(names[place], b"0") for place in (0, 1, 3, 10)])
        watch = reader.watch(names, after=(await reader.read(*names)).revision)

        async def change(number: int) -> Changes:
            waiting = asyncio.ensure_future(anext(watch))
            await asyncio.sleep(0.1)
            puts = [Put(key, b"%d" % number) for key in (names[0], names[3], f"{root}config/history/{number}")]
            made = await writer.commit(puts)
            changes = await within(waiting)
            assert ({entry.key for entry in changes.entries}, changes.revision) == ({names[0], names[3]}, made)
            return changes

        for number in range(1, 6):
            await change(number)
        with counting(reader) as calls:
            for number in range(6, 16):
                await change(number)
            await asyncio.sleep(0.1)

        assert len(calls) <= 10 * 7, sorted(calls)
        assert sum(path == "/v1/txn" for path in calls) <= 10 * 4


@contextmanager
def counting(store: Store) -> Iterator[list[str]]:
    """The paths of the calls that the store makes."""
    assert isinstance(store, ConsulStore)
    consul_client, calls = store._consul, []
    send = consul_client._send

    async def counted(method: str, base: str, path: str, *rest: Any) -> Answer:
        calls.append(path)
        return await send(method, base, path, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(consul_client, "_send", counted)
        yield calls
