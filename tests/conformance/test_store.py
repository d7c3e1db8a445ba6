"""What every store must do with reads and commits. Watches, leases and processes: the other test_store_*.py files."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from meshagent.errors import Conflict, StoreDenied, StoreUnavailable
from meshagent.store.base import Delete, Expect, Operation, Put, Store
from tests.conformance.conftest import Provider
from tests.conformance.mirror import values_of

pytestmark = pytest.mark.conformance

Open = Callable[[], Awaitable[Store]]

ODD_KEYS = {
    "a space": "a b",
    "url letters": "a%2Fb?c#d&e=f+g",
    "unicode": "größe/日本/🙂",
    "quotes": "a'b\"c\\d",
    "sql wildcards": "a%/_b*",
    "dots": ".a/b./...",
    "case": "Abc",
}
BAD_KEYS = {
    "empty": "",
    "nul": "a\0b",
    "line end": "a\nb",
    "escape": "a\x1b[31mb",
    "delete": "a\x7f",
    "lone surrogate": "a\ud800b",
    "parent": "a/../b",
    "self": "a/./b",
    "empty segment": "a//b",
    "leading slash": "/a",
    "final slash": "a/",
    "too long": "k" * 1025,
    "too long in bytes": "é" * 513,
}


async def test_a_read_gives_all_prefixes_at_one_revision(store: Store, root: str) -> None:
    await store.commit([Put(f"{root}a/1", b"one"), Put(f"{root}b/2", b"two")])
    last = await store.commit([Put(f"{root}c/3", b"three")])

    snapshot = await store.read(f"{root}a/", f"{root}c/")

    assert values_of(snapshot) == {f"{root}a/1": b"one", f"{root}c/3": b"three"}
    assert snapshot.revision >= last


async def test_reading_nothing_gives_nothing(store: Store, root: str) -> None:
    await store.commit([Put(f"{root}a", b"")])

    assert values_of(await store.read(f"{root}absent/", f"{root}absent")) == {}
    assert values_of(await store.read()) == {}


async def test_a_tree_covers_what_is_below_it_and_nothing_beside_it(store: Store, root: str) -> None:
    names = ("a", "a/b", "a/b/c", "ab", "a-b", "a0", "a.b", "b/a", "A/b", "a/\U0010ffff")
    await store.commit([Put(root + name, name.encode()) for name in names])

    snapshot = await store.read(f"{root}a/")

    assert set(snapshot.entries) == {f"{root}a/b", f"{root}a/b/c", f"{root}a/\U0010ffff"}


async def test_a_prefix_without_a_slash_is_one_whole_key(store: Store, root: str) -> None:
    await store.commit([Put(root + name, b"") for name in ("web", "web-2", "web/a")])

    assert set((await store.read(f"{root}web")).entries) == {f"{root}web"}


async def test_overlapping_prefixes_give_each_key_once(store: Store, root: str) -> None:
    await store.commit([Put(f"{root}a/b/c", b"x"), Put(f"{root}a/d", b"y")])

    snapshot = await store.read(f"{root}a/b/c", f"{root}a/b/", f"{root}a/", root, root)

    assert values_of(snapshot) == {f"{root}a/b/c": b"x", f"{root}a/d": b"y"}


@pytest.mark.parametrize("prefix", ["a//", "/", "../", "a\0", "a\n/"])
async def test_a_prefix_that_no_key_can_have_is_refused(store: Store, root: str, prefix: str) -> None:
    with pytest.raises(StoreDenied):
        await store.read(prefix)
    with pytest.raises(StoreDenied):
        await anext(store.watch([prefix], after=0))


async def test_a_read_never_sees_half_of_a_commit(store_factory: Open, root: str) -> None:
    writer, reader = await store_factory(), await store_factory()

    async def write() -> None:
        for number in range(100):
            await writer.commit([Put(f"{root}{side}/x", str(number).encode()) for side in ("left", "right")])

    writing = asyncio.create_task(write())
    halves = []
    while not writing.done():
        snapshot = await reader.read(f"{root}left/", f"{root}right/")
        halves.append(len(set(values_of(snapshot).values())))
        await asyncio.sleep(0)
    await writing

    assert max(halves) == 1


async def test_a_commit_gives_its_revision_to_its_keys(store: Store, root: str) -> None:
    first = await store.commit([Put(f"{root}a", b"1"), Put(f"{root}b", b"1")])
    second = await store.commit([Put(f"{root}b", b"2")])
    entries = (await store.read(root)).entries

    assert second > first > 0
    assert (entries[f"{root}a"].revision, entries[f"{root}b"].revision) == (first, second)


async def test_what_one_client_commits_another_reads_at_once(store_factory: Open, root: str) -> None:
    one, other = await store_factory(), await store_factory()

    await one.commit([Put(f"{root}a", b"1")])

    assert values_of(await other.read(root)) == {f"{root}a": b"1"}


async def test_expecting_zero_makes_a_key_only_once(store: Store, root: str) -> None:
    await store.commit([Expect(f"{root}a", 0), Put(f"{root}a", b"mine")])

    with pytest.raises(Conflict):
        await store.commit([Expect(f"{root}a", 0), Put(f"{root}a", b"yours")])

    assert values_of(await store.read(root)) == {f"{root}a": b"mine"}


async def test_a_commit_from_a_stale_revision_is_a_conflict_that_names_the_key(store: Store, root: str) -> None:
    seen = await store.commit([Put(f"{root}a", b"1")])
    newer = await store.commit([Expect(f"{root}a", seen), Put(f"{root}a", b"2")])

    with pytest.raises(Conflict, match=f"{root}a"):
        await store.commit([Expect(f"{root}a", seen), Put(f"{root}a", b"3")])

    assert (await store.read(f"{root}a")).entries[f"{root}a"].revision == newer


async def test_one_failed_expectation_undoes_the_whole_commit(store: Store, root: str) -> None:
    here = await store.commit([Put(f"{root}here", b"1"), Put(f"{root}doomed", b"1")])
    before = values_of(await store.read(root))
    whole: list[Operation] = [
        Put(f"{root}new", b"2"),
        Put(f"{root}here", b"2"),
        Delete(f"{root}doomed"),
        Expect(f"{root}here", here),
        Expect(f"{root}elsewhere", here),
    ]

    with pytest.raises(Conflict):
        await store.commit(whole)

    assert values_of(await store.read(root)) == before
    await store.commit(whole[:-1])
    assert values_of(await store.read(root)) == {f"{root}new": b"2", f"{root}here": b"2"}


async def test_an_expectation_alone_guards_a_key_that_is_not_written(store: Store, root: str) -> None:
    guard = await store.commit([Put(f"{root}guard", b"")])
    await store.commit([Expect(f"{root}guard", guard), Put(f"{root}a", b"1")])
    await store.commit([Put(f"{root}guard", b"")])

    with pytest.raises(Conflict):
        await store.commit([Expect(f"{root}guard", guard), Put(f"{root}a", b"2")])

    assert values_of(await store.read(f"{root}a")) == {f"{root}a": b"1"}


async def test_a_deleted_key_counts_as_absent(store: Store, root: str) -> None:
    made = await store.commit([Put(f"{root}a", b"1")])
    await store.commit([Delete(f"{root}a")])

    with pytest.raises(Conflict):
        await store.commit([Expect(f"{root}a", made), Put(f"{root}a", b"2")])
    again = await store.commit([Expect(f"{root}a", 0), Put(f"{root}a", b"3")])

    assert again > made
    assert values_of(await store.read(root)) == {f"{root}a": b"3"}


async def test_deleting_what_is_absent_does_nothing(store: Store, root: str) -> None:
    await store.commit([Put(f"{root}a", b"1")])

    await store.commit([Delete(f"{root}absent")])
    await store.commit([Delete(f"{root}absent"), Put(f"{root}b", b"2")])

    assert values_of(await store.read(root)) == {f"{root}a": b"1", f"{root}b": b"2"}


async def test_a_commit_of_nothing_moves_nothing(store: Store, root: str) -> None:
    made = await store.commit([Put(f"{root}a", b"1")])

    assert await store.commit([]) >= made
    assert await store.commit([Expect(f"{root}a", made)]) >= made

    assert (await store.read(f"{root}a")).entries[f"{root}a"].revision == made


async def test_values_are_bytes_of_any_kind(store: Store, root: str) -> None:
    values = {f"{root}empty": b"", f"{root}all": bytes(range(256)), f"{root}nul": b"\0\0", f"{root}text": "é".encode()}

    await store.commit([Put(key, value) for key, value in values.items()])

    assert values_of(await store.read(root)) == values


async def test_the_largest_value_is_kept_and_one_byte_more_is_refused_by_its_key(store: Store, root: str) -> None:
    largest = bytes(range(256)) * (store.max_value // 256)
    await store.commit([Put(f"{root}large", largest)])

    with pytest.raises(StoreDenied, match=f"{root}larger"):
        await store.commit([Put(f"{root}small", b"1"), Put(f"{root}larger", largest + b"!")])

    assert values_of(await store.read(root)) == {f"{root}large": largest}


async def test_the_most_operations_are_done_and_one_more_is_refused(store: Store, root: str) -> None:
    most = [Put(f"{root}{number:06}", b"") for number in range(store.max_operations)]
    await store.commit(most)

    with pytest.raises(StoreDenied):
        await store.commit([*most, Put(f"{root}one-more", b"")])

    assert set((await store.read(root)).entries) == {put.key for put in most}


@pytest.mark.parametrize("name", ODD_KEYS.values(), ids=ODD_KEYS)
async def test_odd_keys_are_kept_as_they_are(store: Store, root: str, name: str) -> None:
    key = root + name
    made = await store.commit([Expect(key, 0), Put(key, b"x")])

    assert values_of(await store.read(key)) == {key: b"x"}
    assert set((await store.read(key.rpartition("/")[0] + "/")).entries) == {key}
    await store.commit([Expect(key, made), Delete(key)])
    assert values_of(await store.read(root)) == {}


async def test_the_longest_key_is_kept(store: Store, root: str) -> None:
    key = root + "k" * (1024 - len(root))

    await store.commit([Put(key, b"x")])

    assert values_of(await store.read(key)) == {key: b"x"}


@pytest.mark.parametrize("key", BAD_KEYS.values(), ids=BAD_KEYS)
async def test_bad_keys_are_refused_by_every_operation(store: Store, root: str, key: str) -> None:
    for operation in (Put(key, b""), Delete(key), Expect(key, 0)):
        with pytest.raises(StoreDenied) as refusal:
            await store.commit([Put(f"{root}a", b""), operation])
        assert refusal.value.next_step
        assert str(refusal.value).isprintable()

    assert values_of(await store.read(root)) == {}


async def test_writing_a_key_twice_in_one_commit_is_refused(store: Store, root: str) -> None:
    with pytest.raises(StoreDenied, match=f"{root}a"):
        await store.commit([Put(f"{root}a", b"1"), Delete(f"{root}a")])

    assert values_of(await store.read(root)) == {}


async def test_many_writers_of_one_client_lose_no_increment(store: Store, root: str) -> None:
    async def add() -> None:
        done = 0
        while done < 10:
            entry = (await store.read(f"{root}n")).entries.get(f"{root}n")
            value = str(int(entry.value) + 1 if entry else 1).encode()
            try:
                await store.commit([Expect(f"{root}n", entry.revision if entry else 0), Put(f"{root}n", value)])
                done += 1
            except Conflict:
                continue

    await asyncio.gather(*(add() for _ in range(5)))

    assert values_of(await store.read(root)) == {f"{root}n": b"50"}


async def test_a_healthy_store_says_so_with_its_version(store: Store, provider: Provider) -> None:
    health = await store.check()

    assert (health.ok, len(health.problems)) == (True, len(provider.doubts))
    assert all(doubt in problem for doubt, problem in zip(provider.doubts, health.problems, strict=True))
    assert any(character.isdigit() for character in health.version)


async def test_a_closed_store_refuses_everything_and_may_be_closed_again(store: Store, root: str) -> None:
    await store.close()

    with pytest.raises(StoreUnavailable):
        await store.read(root)
    with pytest.raises(StoreUnavailable):
        await store.commit([Put(f"{root}a", b"")])
    with pytest.raises(StoreUnavailable):
        await store.check()
    await store.close()


async def test_closing_one_client_leaves_the_others_at_work(store_factory: Open, root: str) -> None:
    one, other = await store_factory(), await store_factory()
    await one.commit([Put(f"{root}a", b"1")])

    await one.close()
    await other.commit([Put(f"{root}b", b"2")])

    assert values_of(await other.read(root)) == {f"{root}a": b"1", f"{root}b": b"2"}
