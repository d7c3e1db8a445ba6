"""Changes of policy are atomic, kept in history, and survive being interrupted. On the real SQLite store."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest

from meshagent.errors import NotFound
from meshagent.model.identity import TrustBundle
from meshagent.model.intention import Intention, IntentionSource
from meshagent.model.mesh import Mesh
from meshagent.model.world import Origin, Stated
from meshagent.state.changes import Author, change, read_documents
from meshagent.state.fold import Fold
from meshagent.state.foundation import add_roots, lay_foundation
from meshagent.state.keys import Interest, Keys
from meshagent.state.records import HistoryRecord, Manifest, decode, encode
from meshagent.store.base import Changes, Put
from meshagent.store.sqlite import open_sqlite

KEYS = Keys()
AUTHOR = Author("ann@vm-1", datetime(2026, 11, 21, tzinfo=UTC), "INC-7")


@pytest.fixture
async def store(tmp_path):
    opened = await open_sqlite(tmp_path / "mesh.db")
    await lay_foundation(opened, KEYS, Mesh(), TrustBundle(), AUTHOR)
    yield opened
    await opened.close()


def allow(destination, source="web"):
    document = Intention(name=destination, sources=(IntentionSource(name=source, action="allow"),))
    return {("intention", destination): Stated(document, {source: Origin(who="ann@vm-1", at=AUTHOR.at)})}


async def world(store):
    snapshot = await store.read(KEYS.root)
    names = frozenset(f"s{number}" for number in range(40)) | {"payments"}
    fold = Fold(KEYS, Interest(names, frozenset()))
    return fold.add(Changes(snapshot.revision, tuple(snapshot.entries.values()), full=True))


async def test_a_change_moves_the_revision_and_is_in_the_history(store):
    applied = await change(store, KEYS, lambda _: allow("payments"), AUTHOR)
    assert (applied.revision, applied.changed) == (2, (("intention", "payments"),))
    entry = (await store.read(KEYS.history(2))).entries[KEYS.history(2)]
    history = decode(HistoryRecord, entry.value)
    assert (history.who, history.why, history.edits[0].before) == ("ann@vm-1", "INC-7", None)
    assert history.edits[0].after["sources"] == [{"name": "web", "action": "allow"}]
    revision, documents, problems = await read_documents(store, KEYS)
    assert revision == 2 and not problems
    assert documents["intention", "payments"].origin("web").who == "ann@vm-1"


async def test_a_change_that_changes_nothing_writes_nothing(store):
    await change(store, KEYS, lambda _: allow("payments"), AUTHOR)
    before = (await store.read(KEYS.root)).revision
    assert (await change(store, KEYS, lambda _: allow("payments"), AUTHOR)).changed == ()
    assert (await store.read(KEYS.root)).revision == before


async def test_a_deletion_is_said_and_not_only_done(store):
    await change(store, KEYS, lambda _: allow("payments"), AUTHOR)
    await change(store, KEYS, lambda _: {("intention", "payments"): None}, AUTHOR)
    assert "payments" not in (await world(store)).intentions
    assert KEYS.document("intention", "payments") in (await store.read(KEYS.config)).entries


async def test_writers_at_once_lose_nothing(store):
    def add(source):
        def edit(documents):
            held = documents.get(("intention", "payments"))
            sources = held.thing.sources if held else ()
            merged = (*sources, IntentionSource(name=source, action="allow"))
            return {("intention", "payments"): Stated(Intention(name="payments", sources=merged))}

        return edit

    await asyncio.gather(*(change(store, KEYS, add(f"s{number}"), AUTHOR) for number in range(8)))
    _, documents, _ = await read_documents(store, KEYS)
    assert {source.name for source in documents["intention", "payments"].thing.sources} == {f"s{n}" for n in range(8)}


class SmallStore:
    """The real store with a small transaction limit, which can be told to break off after some commits."""

    max_operations = 8

    def __init__(self, store, commits=None):
        self._store, self._left = store, commits

    async def read(self, *prefixes):
        return await self._store.read(*prefixes)

    async def commit(self, operations):
        assert len(operations) <= self.max_operations
        if self._left is not None:
            self._left -= 1
            if self._left < 0:
                raise ConnectionError
        return await self._store.commit(operations)


def many(_):
    return {name: stated for number in range(40) for name, stated in allow(f"s{number}").items()}


async def test_a_change_larger_than_a_transaction_is_all_or_nothing_at_every_interruption(store):
    for commits in range(8):
        with pytest.raises(ConnectionError):
            await change(SmallStore(store, commits), KEYS, many, AUTHOR)
        assert (await world(store)).intentions == {}
        assert (await read_documents(store, KEYS))[1].keys() == {("mesh", "mesh")}


async def test_what_an_interrupted_change_left_never_counts_later(store):
    await change(store, KEYS, lambda _: allow("s1", "orders"), AUTHOR)
    with pytest.raises(ConnectionError):
        await change(SmallStore(store, 4), KEYS, many, AUTHOR)
    await change(store, KEYS, lambda _: allow("payments"), AUTHOR)
    now = await world(store)
    assert set(now.intentions) == {"s1", "payments"}
    assert now.intentions["s1"].thing.sources[0].name == "orders"
    manifest = decode(Manifest, (await store.read(KEYS.manifest)).entries[KEYS.manifest].value)
    assert manifest.staging is None


async def test_a_large_change_arrives_whole(store):
    applied = await change(SmallStore(store), KEYS, many, AUTHOR)
    assert len(applied.changed) == 40
    assert len((await world(store)).intentions) == 40


async def test_without_a_mesh_it_says_so(tmp_path):
    empty = await open_sqlite(tmp_path / "other.db")
    with pytest.raises(NotFound, match="no mesh"):
        await change(empty, KEYS, lambda _: allow("payments"), AUTHOR)
    await empty.close()


async def test_an_unreadable_record_is_named_and_the_others_are_read(store):
    await change(store, KEYS, lambda _: allow("payments"), AUTHOR)
    await store.commit([Put(KEYS.document("intention", "s1"), b"{")])
    _, documents, problems = await read_documents(store, KEYS)
    assert ("intention", "payments") in documents and list(problems) == [KEYS.document("intention", "s1")]


async def test_founding_twice_changes_nothing_and_roots_add_up(store):
    assert not await lay_foundation(store, KEYS, Mesh(trust_domain="other.internal"), TrustBundle(), AUTHOR)
    one, two = TrustBundle((("mesh.internal", ("A",)),)), TrustBundle((("mesh.internal", ("B",)),))
    assert await add_roots(store, KEYS, one)
    assert await add_roots(store, KEYS, two)
    assert not await add_roots(store, KEYS, one)
    assert (await world(store)).bundle.of("mesh.internal") == ("A", "B")


async def test_a_newer_manifest_is_refused(store):
    await store.commit([Put(KEYS.manifest, encode(Manifest(revision=1)).replace(b'"v":1', b'"v":2'))])
    with pytest.raises(NotFound, match="version 2"):
        await read_documents(store, KEYS)
