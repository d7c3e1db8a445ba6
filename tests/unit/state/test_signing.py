"""Signed policy: what an agent that holds the public key believes, and what it does not, whatever the store says."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from meshagent.errors import SignatureRefused
from meshagent.model.identity import TrustBundle
from meshagent.model.intention import Intention, IntentionSource
from meshagent.model.mesh import Mesh
from meshagent.model.rollout import Rollout
from meshagent.model.world import Stated
from meshagent.state.changes import Author, change, read_documents
from meshagent.state.fold import Fold
from meshagent.state.foundation import lay_foundation
from meshagent.state.keys import Interest, Keys, bucket_of
from meshagent.state.records import Manifest, PolicyRecord, Revised, decode, encode
from meshagent.state.resign import sign_policy
from meshagent.state.signing import (
    UNSIGNED,
    Signing,
    Trust,
    UnusableKey,
    new_signer,
    parse_public,
    parse_signer,
    public_text,
)
from meshagent.store.base import Changes, Delete, Put
from meshagent.store.sqlite import open_sqlite

KEYS = Keys(signed=True)
AUTHOR = Author("ann@vm-1", datetime(2026, 11, 21, tzinfo=UTC))
PAYMENTS = KEYS.document("intention", "payments")
ROOTS = TrustBundle((("mesh.internal", ("PEM",)),))


def signing_with(signer):
    return Signing(signer, Trust.of(signer.public))


ANN = signing_with(new_signer()[0])
EVE = signing_with(new_signer()[0])


@pytest.fixture
async def store(tmp_path):
    opened = await open_sqlite(tmp_path / "mesh.db")
    yield opened
    await opened.close()


@pytest.fixture
async def mesh(store):
    await lay_foundation(store, KEYS, Mesh(), ROOTS, AUTHOR, ANN)
    return store


def says(action, destination="payments", source="web"):
    document = Intention(name=destination, sources=(IntentionSource(name=source, action=action),))
    return {("intention", destination): Stated(document)}


async def put(store, action, destination="payments", signing=ANN):
    return await change(store, KEYS, lambda _: says(action, destination), AUTHOR, signing)


class Agent:
    """What an agent with the public key makes of a store, read whole each time."""

    def __init__(self, *services, trust=ANN.trust):
        self.fold = Fold(KEYS, Interest(frozenset(services or ("payments",))), None, trust)

    async def look(self, store):
        snapshot = await store.read(*self.fold._interest.prefixes(KEYS))
        self.fold.add(Changes(snapshot.revision, tuple(snapshot.entries.values()), full=True))
        return self

    def action(self, destination="payments"):
        stated = self.fold.world.intentions.get(destination)
        source = stated.thing.sources[0] if stated else None
        return (source.name, source.action) if source else None

    def problem(self, key=PAYMENTS):
        return self.fold.problems.get(key, "")


async def raw(store, key):
    return (await store.read(key)).entries[key].value


async def test_what_the_operators_key_signed_counts(mesh):
    await put(mesh, "allow")
    agent = await Agent().look(mesh)
    assert agent.action() == ("web", "allow") and not agent.fold.problems
    assert agent.fold.world.bundle == ROOTS
    await put(mesh, "deny")
    assert (await agent.look(mesh)).action() == ("web", "deny") and not agent.fold.problems
    await change(mesh, KEYS, lambda _: {("intention", "payments"): None}, AUTHOR, ANN)
    assert (await agent.look(mesh)).action() is None and not agent.fold.problems


async def test_attack_37_an_unsigned_or_wrongly_signed_value_is_ignored_and_named(mesh):
    await put(mesh, "deny")
    agent, fresh = await Agent().look(mesh), Agent()
    held = await raw(mesh, PAYMENTS)
    right = decode(PolicyRecord, held)
    allow = right.model_copy(update={"document": json.loads(held.replace(b'"deny"', b'"allow"'))["document"]})
    forged = {
        "is not signed": allow.model_copy(update={"signature": ""}),
        "which is not trusted": EVE.sign(PAYMENTS, allow),
        "does not fit": allow,
        "does not fit its place": right.model_copy(update={"revision": 1}),
    }
    for problem, record in forged.items():
        await mesh.commit([Put(PAYMENTS, encode(record))])
        assert (await agent.look(mesh)).action() == ("web", "deny"), problem
        assert problem in agent.problem()
        assert (await Agent().look(mesh)).action() == ("*", "deny"), problem
    await mesh.commit([Put(PAYMENTS, held)])
    assert not (await agent.look(mesh)).fold.problems
    assert (await fresh.look(mesh)).action() == ("web", "deny")


async def test_an_older_record_that_was_once_right_is_refused_by_hosts_that_never_saw_the_newer_one(mesh):
    await put(mesh, "allow")
    old = await raw(mesh, PAYMENTS)
    await put(mesh, "deny")
    await put(mesh, "allow", "ledger")
    await mesh.commit([Put(PAYMENTS, old)])
    agent = await Agent().look(mesh)
    assert agent.action() == ("*", "deny")
    assert "revision 2, but the signed index names revision 3" in agent.problem()


async def test_a_record_brought_back_after_its_deletion_is_refused(mesh):
    await put(mesh, "allow")
    old = await raw(mesh, PAYMENTS)
    await change(mesh, KEYS, lambda _: {("intention", "payments"): None}, AUTHOR, ANN)
    await mesh.commit([Put(PAYMENTS, old)])
    assert (await Agent().look(mesh)).action() == ("*", "deny")


async def test_a_record_moved_to_another_key_is_refused(mesh):
    await put(mesh, "allow", "ledger")
    moved = (await raw(mesh, KEYS.document("intention", "ledger"))).replace(b"ledger", b"payments")
    await mesh.commit([Put(PAYMENTS, moved)])
    agent = await Agent().look(mesh)
    assert agent.action() == ("*", "deny") and "does not fit its place" in agent.problem()


async def test_a_hidden_record_is_noticed_by_a_host_that_never_saw_it(mesh):
    await put(mesh, "deny")
    hidden = [Delete(PAYMENTS)]
    await mesh.commit(hidden)
    agent = await Agent().look(mesh)
    assert agent.action() == ("*", "deny") and "is hidden" in agent.problem()
    await mesh.commit([Delete(KEYS.index_of(PAYMENTS))])
    agent = await Agent().look(mesh)
    assert agent.action() == ("*", "deny") and "cannot be proven" in agent.problem()


async def test_what_is_hidden_from_a_host_that_takes_up_a_service_later_is_noticed(mesh):
    await put(mesh, "deny")
    await mesh.commit([Delete(PAYMENTS), Delete(KEYS.index_of(PAYMENTS))])
    agent = await Agent("web").look(mesh)
    agent.fold.narrow(Interest(frozenset({"web", "payments"})))
    assert (await agent.look(mesh)).action() == ("*", "deny")


async def test_an_index_record_in_the_place_of_another_proves_nothing(mesh):
    await change(mesh, KEYS, lambda _: {**says("deny"), **says("deny", "ledger")}, AUTHOR, ANN)
    other = KEYS.index_of(KEYS.document("intention", "ledger"))
    assert other != KEYS.index_of(PAYMENTS)
    await mesh.commit([Put(KEYS.index_of(PAYMENTS), await raw(mesh, other)), Delete(PAYMENTS)])
    assert (await Agent().look(mesh)).action() == ("*", "deny")


async def test_an_older_or_foreign_index_proves_nothing(mesh):
    await put(mesh, "allow")
    index, record = KEYS.index_of(PAYMENTS), await raw(mesh, PAYMENTS)
    old = await raw(mesh, index)
    await put(mesh, "deny")
    await mesh.commit([Put(index, old), Put(PAYMENTS, record)])
    assert (await Agent().look(mesh)).action() == ("*", "deny")
    await mesh.commit([Put(index, b'{"v":1,"revision":3,"names":{"intention/payments":2}}')])
    agent = await Agent().look(mesh)
    assert agent.action() == ("*", "deny") and "is not signed" in agent.problem()


async def test_a_service_that_nobody_ever_wrote_about_is_no_problem(mesh):
    for number in range(70):  # so that its bucket is in use by others
        await put(mesh, "allow", f"s{number}")
    agent = await Agent("payments").look(mesh)
    assert agent.action() is None and not agent.fold.problems
    assert KEYS.index_of(PAYMENTS) in (await mesh.read(KEYS.config)).entries


async def test_a_manifest_that_is_not_signed_or_went_back_changes_nothing(mesh):
    await put(mesh, "allow")
    old = await raw(mesh, KEYS.manifest)
    await put(mesh, "deny")
    agent = await Agent().look(mesh)
    for value, problem in (
        (encode(Manifest(revision=9)), "is not signed"),
        (encode(EVE.sign(KEYS.manifest, Manifest(revision=9))), "not trusted"),
        (old, "went back"),
    ):
        await mesh.commit([Put(KEYS.manifest, value)])
        assert (await agent.look(mesh)).action() == ("web", "deny")
        assert problem in agent.problem(KEYS.manifest)


async def test_a_trust_bundle_of_another_or_of_before_is_not_believed(mesh):
    agent = await Agent().look(mesh)
    old = await raw(mesh, KEYS.bundle)
    await mesh.commit([Put(KEYS.bundle, old.replace(b"PEM", b"EVE"))])
    assert (await agent.look(mesh)).fold.world.bundle == ROOTS and "does not fit" in agent.problem(KEYS.bundle)
    await mesh.commit([Put(KEYS.bundle, old)])
    await sign_policy(mesh, KEYS, AUTHOR, ANN, adopt=False)
    assert not (await agent.look(mesh)).fold.problems
    await mesh.commit([Put(KEYS.bundle, old)])
    assert "names revision 2" in (await agent.look(mesh)).problem(KEYS.bundle)


async def test_what_watchers_are_told_bit_by_bit_is_judged_as_what_is_read_whole(mesh):
    agent = await Agent().look(mesh)
    after = (await mesh.read(KEYS.root)).revision
    watch = mesh.watch(Interest(frozenset({"payments"})).prefixes(KEYS), after=after)
    for number in range(6):
        await put(mesh, "deny" if number % 2 else "allow")
        await put(mesh, "allow", f"other-{number}")
    while agent.fold.world.revision < 13:
        agent.fold.add(await anext(watch))
        assert not agent.fold.problems
    assert agent.action() == ("web", "deny")


async def test_news_that_the_store_keeps_back_is_noticed_once_the_manifest_says_so(mesh):
    await put(mesh, "allow")
    agent = await Agent().look(mesh)
    await put(mesh, "deny")
    entry = (await mesh.read(KEYS.manifest)).entries[KEYS.manifest]
    agent.fold.add(Changes(entry.revision, (entry,)))
    assert agent.action() == ("web", "allow")
    assert "is not the one of revision 3 that the manifest names" in agent.problem()


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
    return {name: stated for number in range(20) for name, stated in says("allow", f"s{number}").items()}


async def test_a_staged_change_is_all_or_nothing_with_both_states_signed(mesh):
    names = [f"s{number}" for number in range(20)]
    await put(mesh, "deny", "s3")
    for commits in range(7):
        with pytest.raises(ConnectionError):
            await change(SmallStore(mesh, commits), KEYS, many, AUTHOR, ANN)
        agent = await Agent(*names).look(mesh)
        assert set(agent.fold.world.intentions) == {"s3"} and agent.action("s3") == ("web", "deny")
        assert not agent.fold.problems
    await change(SmallStore(mesh), KEYS, many, AUTHOR, ANN)
    agent = await Agent(*names).look(mesh)
    assert set(agent.fold.world.intentions) == set(names) and not agent.fold.problems
    assert not (await read_documents(mesh, KEYS, ANN.trust))[2]


async def test_a_record_of_an_interrupted_change_never_counts_although_it_is_signed(mesh):
    key, bucket = KEYS.document("intention", "s3"), bucket_of("intention/s3")
    mate = next(f"m{n}" for n in range(9999) if bucket_of(f"intention/m{n}") == bucket)
    await put(mesh, "deny", "s3")
    with pytest.raises(ConnectionError):
        await change(SmallStore(mesh, 5), KEYS, lambda _: {**many(_), **says("allow", "s3")}, AUTHOR, ANN)
    aborted = await raw(mesh, key)
    assert decode(PolicyRecord, aborted).document["sources"][0]["action"] == "allow"
    await put(mesh, "allow", mate)
    agent = await Agent(*(f"s{number}" for number in range(20))).look(mesh)
    assert agent.action("s3") == ("web", "deny") and len(agent.fold.world.intentions) == 1 and not agent.fold.problems
    await mesh.commit([Put(key, aborted)])
    assert (await Agent("s3").look(mesh)).action("s3") == ("*", "deny")


async def test_a_record_that_denies_its_state_before_is_refused_by_a_new_host(mesh):
    await put(mesh, "deny")
    held = decode(PolicyRecord, await raw(mesh, PAYMENTS))
    ahead = PolicyRecord(revision=99, document=None, replaces=Revised(revision=2, document=held.document))
    for record in (ahead, ahead.model_copy(update={"replaces": None})):
        await mesh.commit([Put(PAYMENTS, encode(record))])
        assert (await Agent().look(mesh)).action() == ("*", "deny")


async def test_without_the_key_a_signed_mesh_is_read_and_not_changed(mesh):
    await put(mesh, "deny")
    plain = Fold(Keys(), Interest(frozenset({"payments"})))
    snapshot = await mesh.read(KEYS.root)
    plain.add(Changes(snapshot.revision, tuple(snapshot.entries.values()), full=True))
    assert plain.world.intentions["payments"].thing.sources[0].action == "deny" and not plain.problems
    for signing in (UNSIGNED, Signing(None, ANN.trust)):
        with pytest.raises(SignatureRefused, match="no key to sign"):
            await put(mesh, "allow", signing=signing)
    with pytest.raises(SignatureRefused, match="not trusted here"):
        await put(mesh, "allow", signing=EVE)


async def test_nothing_foreign_is_signed_with_an_operators_change(mesh):
    await put(mesh, "deny")
    held = decode(PolicyRecord, await raw(mesh, PAYMENTS))
    await mesh.commit([Put(PAYMENTS, encode(held.model_copy(update={"signature": ""})))])
    _, documents, problems = await read_documents(mesh, KEYS, ANN.trust)
    assert ("intention", "payments") not in documents and problems[PAYMENTS] == "is not signed"
    await put(mesh, "allow")
    assert decode(PolicyRecord, await raw(mesh, PAYMENTS)).replaces is None
    await mesh.commit([Put(KEYS.index_of(PAYMENTS), b"{}")])
    with pytest.raises(SignatureRefused, match="index of this mesh"):
        await put(mesh, "deny")


async def test_a_mesh_begins_to_sign_only_when_told_and_can_change_its_key(store):
    await lay_foundation(store, KEYS, Mesh(), ROOTS, AUTHOR)
    await put(store, "deny", signing=UNSIGNED)
    await change(store, KEYS, lambda _: says("allow", "ledger"), AUTHOR)
    await change(store, KEYS, lambda _: {("intention", "ledger"): None}, AUTHOR)
    for begin in (put(store, "allow"), sign_policy(store, KEYS, AUTHOR, ANN, adopt=False)):
        with pytest.raises(SignatureRefused, match="is not signed"):
            await begin
    assert (await Agent().look(store)).fold.world is None
    assert (await sign_policy(SmallStore(store), KEYS, AUTHOR, ANN, adopt=True)).documents == 3
    agent = await Agent("payments", "ledger").look(store)
    assert agent.action() == ("web", "deny") and agent.action("ledger") is None and not agent.fold.problems
    both = Signing(EVE.signer, Trust.of(ANN.signer.public, EVE.signer.public))
    await sign_policy(store, KEYS, AUTHOR, both, adopt=False)
    assert (await Agent(trust=EVE.trust).look(store)).action() == ("web", "deny")
    assert "not trusted here" in (await agent.look(store)).problem(KEYS.manifest)


async def test_an_unsigned_mesh_is_kept_as_it_always_was(store):
    await lay_foundation(store, KEYS, Mesh(), ROOTS, AUTHOR)
    await put(store, "deny", signing=UNSIGNED)
    entries = (await store.read(KEYS.root)).entries
    assert await raw(store, KEYS.manifest) == b'{"revision":2,"staging":null,"v":1}'
    assert not [key for key, entry in entries.items() if b"signature" in entry.value or KEYS.parse_index(key)]


def test_keys_are_read_in_both_forms_and_nothing_else_is_one():
    signer, pem = new_signer()
    assert parse_signer(pem).public == signer.public == parse_public(public_text(signer.public))
    for text in ("", "ed25519:", "ed25519:!!", "ed25519:AAAA", "rsa:AAAA", "-----BEGIN PUBLIC KEY-----"):
        with pytest.raises(UnusableKey):
            parse_public(text)
    with pytest.raises(UnusableKey):
        parse_signer(b"no key")


def test_the_index_is_spread_over_its_buckets():
    names = [f"intention/s{number}" for number in range(6400)]
    sizes = [sum(1 for name in names if bucket_of(name) == f"{bucket:02x}") for bucket in range(64)]
    assert min(sizes) > 50 and sum(sizes) == 6400


async def test_attack_37_a_rollout_that_the_operator_did_not_sign_promotes_nothing(mesh):
    wanted = Rollout(name="payments", base="v1", to="v2")
    await change(mesh, KEYS, lambda _: {("rollout", "payments"): Stated(wanted)}, AUTHOR, ANN)
    agent = await Agent().look(mesh)
    assert agent.fold.world.rollouts["payments"].thing == wanted and not agent.fold.problems
    place = KEYS.document("rollout", "payments")
    held = json.loads(await raw(mesh, place))
    held["document"]["state"] = "promoted"
    await mesh.commit([Put(place, json.dumps(held).encode())])
    assert (await agent.look(mesh)).fold.world.rollouts["payments"].thing == wanted
    assert "does not fit" in agent.problem(place)
