"""A mesh moves between stores whole, with its history and signatures. On real SQLite files."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest

from meshagent.errors import Conflict, MeshExists, NotFound, SignatureRefused, StoreDenied
from meshagent.model.identity import TrustBundle
from meshagent.model.intention import Intention, IntentionSource
from meshagent.model.mesh import Mesh
from meshagent.model.world import Stated
from meshagent.state.changes import Author, change, read_documents
from meshagent.state.copying import copy_mesh
from meshagent.state.fold import Fold
from meshagent.state.foundation import add_roots, lay_foundation
from meshagent.state.keys import Interest, Keys
from meshagent.state.records import Manifest, decode
from meshagent.state.resign import sign_policy
from meshagent.state.signing import UNSIGNED, Signing, Trust, new_signer
from meshagent.store.base import Changes, Delete, Put
from meshagent.store.sqlite import open_sqlite

KEYS = Keys(signed=True)
AUTHOR = Author("ann@vm-1", datetime(2026, 11, 21, tzinfo=UTC))
SIGNER = new_signer()[0]
ANN = Signing(SIGNER, Trust.of(SIGNER.public))


@pytest.fixture(params=["unsigned", "signed"])
def signing(request):
    return ANN if request.param == "signed" else UNSIGNED


@pytest.fixture
async def stores(tmp_path, signing):
    """A mesh of 30 documents and one that was deleted, and an empty store."""
    source, target = await open_sqlite(tmp_path / "a.db"), await open_sqlite(tmp_path / "b.db")
    await lay_foundation(source, KEYS, Mesh(), TrustBundle((("mesh.internal", ("PEM",)),)), AUTHOR, signing)
    await change(source, KEYS, lambda _: says("allow", *(f"s{n}" for n in range(30))), AUTHOR, signing)
    await change(source, KEYS, lambda _: {("intention", "s7"): None}, AUTHOR, signing)
    yield SimpleNamespace(source=source, target=target)
    await source.close()
    await target.close()


def says(action, *destinations):
    source = IntentionSource(name="web", action=action)
    return {("intention", name): Stated(Intention(name=name, sources=(source,))) for name in destinations}


class SmallStore:
    """A store with a small transaction limit, which can be told to break off after some commits."""

    max_operations = 8
    max_value = 100_000

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


async def copy(stores, signing, *, target=None, dry_run=False):
    return await copy_mesh(stores.source, target or stores.target, KEYS, signing, dry_run=dry_run)


async def world(store, signing):
    snapshot = await store.read(KEYS.root)
    fold = Fold(KEYS, Interest(frozenset(f"s{n}" for n in range(30))), None, signing.trust)
    found = fold.add(Changes(snapshot.revision, tuple(snapshot.entries.values()), full=True))
    return found, fold.problems


async def test_everything_but_what_hosts_write_arrives_in_one_piece(stores, signing):
    await stores.source.commit([Put(KEYS.instance("s1", "vm-1", "s1"), b"{}"), Put(KEYS.report("vm-1"), b"{}")])
    plan = await copy(stores, signing)
    assert (plan.documents, plan.history, plan.revision, plan.before) == (31, 3, 3, 0)
    assert [put.key for put in plan.last] == [KEYS.bundle, KEYS.manifest]
    old, new = await stores.source.read(KEYS.root), await stores.target.read(KEYS.root)
    assert set(old.entries) - set(new.entries) == {KEYS.instance("s1", "vm-1", "s1"), KEYS.report("vm-1")}
    assert await world(stores.source, signing) == await world(stores.target, signing)
    assert await read_documents(stores.source, KEYS) == await read_documents(stores.target, KEYS)
    history = KEYS.history(2)
    assert old.entries[history].value == new.entries[history].value
    await change(stores.target, KEYS, lambda _: says("deny", "s1"), AUTHOR, signing)
    assert (await world(stores.target, signing))[0].revision == 4


async def test_a_dry_run_writes_nothing_and_a_second_copy_has_nothing_to_do(stores, signing):
    assert (await copy(stores, signing, dry_run=True)).writes > 34
    assert not (await stores.target.read("")).entries
    await copy(stores, signing)
    before = (await stores.target.read("")).revision
    assert (await copy(stores, signing)).writes == 0
    assert (await stores.target.read("")).revision == before


async def test_nobody_sees_a_copy_before_it_is_whole_and_it_can_be_taken_up_again(stores, signing):
    for commits in (0, 1, 2, 2):
        with pytest.raises(ConnectionError):
            await copy(stores, signing, target=SmallStore(stores.target, commits))
        assert (await world(stores.target, signing))[0] is None
        with pytest.raises(NotFound):
            await read_documents(stores.target, KEYS)
    await copy(stores, signing, target=SmallStore(stores.target))
    assert await world(stores.source, signing) == await world(stores.target, signing)


async def test_an_older_state_of_the_same_mesh_is_brought_up_to_date_at_once(stores, signing):
    await copy(stores, signing)
    before = await world(stores.target, signing)
    names = [f"s{n}" for n in range(20)]
    await change(stores.source, KEYS, lambda _: says("deny", *names), AUTHOR, signing)
    await change(stores.source, KEYS, lambda _: says("allow", *names[:5]), AUTHOR, signing)
    if signing.signer:
        await sign_policy(stores.source, KEYS, AUTHOR, signing, adopt=False)
    else:
        await add_roots(stores.source, KEYS, TrustBundle((("mesh.internal", ("ANOTHER",)),)))
    copied = 0
    while not copied:
        found, _ = await world(stores.target, signing)
        assert found == before[0]
        with suppress(ConnectionError):
            copied = (await copy(stores, signing, target=SmallStore(stores.target, 2))).revision
    assert await world(stores.source, signing) == await world(stores.target, signing)
    assert (await world(stores.target, signing))[1] == {}


async def test_a_copy_that_broke_off_never_counts_after_a_change_in_the_target(stores, signing):
    await copy(stores, signing)
    await change(stores.source, KEYS, lambda _: says("deny", *(f"s{n}" for n in range(20))), AUTHOR, signing)
    with pytest.raises(ConnectionError):
        await copy(stores, signing, target=SmallStore(stores.target, 4))
    await change(stores.target, KEYS, lambda _: says("allow", "s29", "s28", "s31"), AUTHOR, signing)
    for _, (name, stated) in enumerate((await world(stores.target, signing))[0].intentions.items()):
        assert stated.thing.sources[0].action == "allow", name


@pytest.fixture
async def other(tmp_path, signing):
    """A store with another mesh, which only its history tells from the first."""
    opened = await open_sqlite(tmp_path / "c.db")
    later = Author("bob@vm-2", datetime(2026, 11, 22, tzinfo=UTC))
    await lay_foundation(opened, KEYS, Mesh(), TrustBundle(), later, signing)
    yield opened
    await opened.close()


async def test_another_mesh_or_a_newer_state_is_never_written_over(stores, signing, other):
    async def refused(target, problem):
        held = (await target.read("")).entries
        with pytest.raises(MeshExists, match=problem):
            await copy(stores, signing, target=target)
        assert (await target.read("")).entries == held

    await copy(stores, signing)
    await change(stores.target, KEYS, lambda _: says("deny", "s1"), AUTHOR, signing)
    await refused(stores.target, "newer state")
    await refused(other, "another mesh")
    mesh = Stated(Mesh(default_action="allow"))
    await change(stores.source, KEYS, lambda _: {("mesh", "mesh"): mesh}, AUTHOR, signing)
    await refused(other, "another mesh")
    await stores.target.commit([Delete(KEYS.manifest)])
    await refused(stores.target, "another mesh")
    await other.commit([Delete(key) for key in (await other.read(KEYS.config)).entries])
    await other.commit([Put(KEYS.document("intention", "strange"), b"{}")])
    await refused(other, "has no meshagent/v1/config/intention/strange")


async def test_a_document_that_was_changed_past_meshagent_is_not_taken_for_the_same_state(stores, signing):
    await copy(stores, signing)
    key = KEYS.document("intention", "s1")
    held = (await stores.target.read(key)).entries[key].value
    await stores.target.commit([Put(key, held.replace(b'"allow"', b'"deny"'))])
    await change(stores.source, KEYS, lambda _: says("deny", "s2"), AUTHOR, signing)
    with pytest.raises(MeshExists, match="otherwise than the source"):
        await copy(stores, signing)


async def test_what_the_target_cannot_hold_is_refused_before_anything_is_written(stores, signing):
    source = tuple(IntentionSource(name=f"s{n}", action="allow") for n in range(4000))
    big = {("intention", "big"): Stated(Intention(name="big", sources=source))}
    await change(stores.source, KEYS, lambda _: big, AUTHOR, signing)
    with pytest.raises(StoreDenied, match="the target takes 100000"):
        await copy(stores, signing, target=SmallStore(stores.target))
    assert not (await stores.target.read("")).entries


async def test_a_source_under_change_or_not_believed_is_not_copied(stores, signing):
    small = SmallStore(stores.source, 2)
    with pytest.raises(ConnectionError):
        await change(small, KEYS, lambda _: says("deny", *(f"s{n}" for n in range(20))), AUTHOR, signing)
    with pytest.raises(Conflict, match="under way"):
        await copy(stores, signing)
    entry = (await stores.source.read(KEYS.manifest)).entries[KEYS.manifest]
    assert decode(Manifest, entry.value).staging == 4
    with pytest.raises(SignatureRefused):
        await copy(stores, Signing(None, Trust.of(new_signer()[0].public)))
