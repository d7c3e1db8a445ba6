"""What of the store counts, and what holds when something in it is wrong."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshagent.catalog.base import Listing
from meshagent.model.service import Instance
from meshagent.state.fold import Fold
from meshagent.state.keys import Interest, Keys
from meshagent.state.records import Manifest, PolicyRecord, Revised, encode
from meshagent.store.base import Changes, Entry

KEYS = Keys()
INTEREST = Interest(frozenset({"payments"}), frozenset({"ledger"}))
PAYMENTS = KEYS.document("intention", "payments")
MESH = {"kind": "mesh", "name": "mesh"}


def intention(action, name="payments"):
    return {"kind": "intention", "name": name, "sources": [{"name": "web", "action": action}]}


def record(document, revision=1, replaces=None):
    return encode(PolicyRecord(revision=revision, document=document, replaces=replaces))


def manifest(revision):
    return encode(Manifest(revision=revision))


def instance(host, address="10.0.0.9"):
    return Instance(service="ledger", host=host, id="ledger", address=address, port=21000)


def listing(*instances, **problems):
    return Listing("ledger", instances, problems)


def changes(values, *, full=False, deleted=(), revision=1):
    entries = tuple(Entry(key, value, revision) for key, value in values.items())
    return Changes(revision, entries, tuple(deleted), full)


def start(action="allow", revision=1):
    fold = Fold(KEYS, INTEREST)
    fold.add(
        changes(
            {
                KEYS.manifest: manifest(revision),
                KEYS.mesh: record(MESH),
                PAYMENTS: record(intention(action)),
            },
            full=True,
        )
    )
    fold.list(listing(instance("vm-1")))
    return fold


def action_of(fold):
    return fold.world.intentions["payments"].thing.sources[0].action


def test_nothing_counts_before_a_manifest_is_there():
    fold = Fold(KEYS, INTEREST)
    assert fold.add(changes({PAYMENTS: record(intention("allow"))}, full=True)) is None
    assert "missing" in fold.problems[KEYS.manifest]


@pytest.mark.parametrize("shadow", ["yes", 1, {}])
def test_a_shadow_that_cannot_be_read_denies_what_the_record_could_allow(shadow):
    document = intention("allow")
    document["sources"].append({"name": "batch", "action": "allow", "shadow": shadow})
    fold = Fold(KEYS, INTEREST)
    fold.add(changes({KEYS.manifest: manifest(1), KEYS.mesh: record(MESH), PAYMENTS: record(document)}, full=True))
    only = fold.world.intentions["payments"].thing.sources
    assert [(each.name, each.action, each.shadow) for each in only] == [("*", "deny", False)]


def test_a_default_that_is_not_known_is_deny_or_what_held_before():
    unknown = record(MESH | {"default_action": "shadow-allow"}, 2)
    fold = Fold(KEYS, INTEREST)
    fold.add(changes({KEYS.manifest: manifest(2), KEYS.mesh: unknown}, full=True))
    assert fold.world.mesh.default_action == "deny" and KEYS.mesh in fold.problems
    fold = start()
    fold.add(changes({KEYS.mesh: record(MESH | {"default_action": "shadow-deny"}, 2), KEYS.manifest: manifest(2)}))
    fold.add(changes({KEYS.mesh: unknown, KEYS.manifest: manifest(3)}, revision=3))
    assert fold.world.mesh.default_action == "shadow-deny" and "last good" in fold.problems[KEYS.mesh]


def test_an_emptied_store_changes_nothing():
    fold = start()
    before = fold.world
    fold.add(changes({}, full=True))
    fold.list(listing())
    assert fold.world is before
    assert "last good" in fold.problems[KEYS.manifest]


def test_a_store_that_comes_back_counts_again():
    fold = start()
    fold.add(changes({}, full=True))
    fold.list(listing())
    fold.list(listing(instance("vm-2")))
    fold.add(
        changes(
            {KEYS.manifest: manifest(2), KEYS.mesh: record(MESH), PAYMENTS: record(intention("deny"), 2)}, full=True
        )
    )
    assert action_of(fold) == "deny" and fold.world.revision == 2
    assert fold.world.instances == {"ledger": (instance("vm-2"),)}


def test_a_manifest_that_went_back_changes_nothing():
    fold = start(revision=5)
    fold.add(changes({KEYS.manifest: manifest(3), PAYMENTS: record(intention("deny"), 2)}, full=True))
    assert action_of(fold) == "allow" and fold.world.revision == 5
    assert "went back" in fold.problems[KEYS.manifest]


def test_an_absent_record_is_not_a_deletion():
    fold = start()
    fold.add(changes({}, deleted=[PAYMENTS]))
    assert action_of(fold) == "allow"
    assert "without having been deleted" in fold.problems[PAYMENTS]


def test_a_record_that_says_deleted_is_one():
    fold = start()
    fold.add(changes({KEYS.manifest: manifest(2), PAYMENTS: record(None, 2)}))
    assert "payments" not in fold.world.intentions and not fold.problems


def test_a_record_counts_only_from_the_manifest_on():
    fold = start("deny")
    before = Revised(revision=1, document=intention("deny"))
    fold.add(changes({PAYMENTS: record(intention("allow"), 2, before)}))
    assert action_of(fold) == "deny"
    fold.add(changes({KEYS.manifest: manifest(2)}))
    assert action_of(fold) == "allow"


def test_a_malformed_record_leaves_its_last_good_version_in_force():
    fold = start()
    fold.add(changes({PAYMENTS: b"{"}))
    assert action_of(fold) == "allow" and "last good" in fold.problems[PAYMENTS]
    fold.add(changes({PAYMENTS: record(intention("deny"))}))
    assert action_of(fold) == "deny" and not fold.problems


def test_a_malformed_record_without_a_last_good_version_denies_everybody():
    fold = Fold(KEYS, INTEREST)
    fold.add(changes({KEYS.manifest: manifest(1), PAYMENTS: b"\xff\x00"}, full=True))
    stated = fold.world.intentions["payments"]
    assert stated.broken and [(source.name, source.action) for source in stated.thing.sources] == [("*", "deny")]


def test_unknown_fields_and_newer_versions_are_not_half_applied():
    for value in (
        json.dumps({"v": 2, "revision": 1, "document": intention("allow"), "origins": {}}),
        json.dumps({"v": 1, "revision": 1, "document": intention("allow"), "origins": {}, "more": 1}),
        json.dumps({"v": 1, "revision": 1, "document": intention("allow") | {"ports": [80]}, "origins": {}}),
        json.dumps({"v": 1, "revision": 1, "document": intention("allow", "other"), "origins": {}}),
    ):
        fold = start("deny")
        fold.add(changes({PAYMENTS: value.encode()}))
        assert action_of(fold) == "deny" and PAYMENTS in fold.problems


def test_one_bad_record_does_not_touch_the_others():
    fold = start()
    everything = KEYS.document("intention", "*")
    fold.add(changes({everything: b"[]", KEYS.manifest: manifest(2), PAYMENTS: record(intention("deny"), 2)}))
    assert action_of(fold) == "deny" and fold.world.intentions["*"].broken


def test_instances_come_and_go_with_listings():
    fold = start()
    assert fold.world.instances["ledger"] == (instance("vm-1"),)
    before = fold.world
    assert fold.list(listing(instance("vm-1"))) is before
    fold.list(listing(instance("vm-1"), instance("vm-2")))
    assert [each.host for each in fold.world.instances["ledger"]] == ["vm-1", "vm-2"]
    fold.list(listing(instance("vm-2")))
    assert [each.host for each in fold.world.instances["ledger"]] == ["vm-2"]


def test_what_is_wrong_in_a_listing_is_a_problem_until_the_next_one():
    fold = start()
    fold.list(listing(instance("vm-1"), there="is not JSON"))
    assert fold.problems == {"there": "is not JSON"}
    fold.list(listing(instance("vm-1")))
    assert fold.problems == {}


def test_a_world_from_disk_keeps_its_instances_until_they_are_listed():
    fold = Fold(KEYS, INTEREST, start().world)
    fold.add(
        changes({KEYS.manifest: manifest(1), KEYS.mesh: record(MESH), PAYMENTS: record(intention("allow"))}, full=True)
    )
    assert fold.world.instances["ledger"] == (instance("vm-1"),)
    fold.list(listing())
    assert fold.world.instances["ledger"] == ()


def test_listings_of_services_that_are_not_called_are_not_held():
    fold = start()
    before = fold.world
    assert fold.list(Listing("other", (), {"x": "y"})) is before and not fold.problems
    fold.narrow(Interest(frozenset({"payments"})))
    assert fold.world.instances == {}


@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1", "169.254.169.254", "fe80::1"])
def test_attack_35_an_address_that_leads_callers_to_themselves_or_their_cloud_is_not_called(address):
    fold = Fold(KEYS, INTEREST, start().world, here="10.0.0.7")
    fold.add(changes({KEYS.manifest: manifest(1), KEYS.mesh: record(MESH)}, full=True))
    fold.list(listing(instance("vm-1"), instance("vm-2", address)))
    assert fold.world.instances["ledger"] == (instance("vm-1"),)
    assert "not called" in fold.problems["catalog/ledger/vm-2/ledger"]


def test_what_others_registered_is_a_problem_unless_a_document_allows_plain_text():
    fold = start()
    foreign = instance("n1").model_copy(update={"plain": True, "port": 80})
    fold.list(listing(instance("vm-1"), foreign))
    assert list(fold.problems) == ["catalog/ledger"] and "ledger on n1" in fold.problems["catalog/ledger"]
    document = {"kind": "service", "name": "ledger", "mtls": "permissive"}
    fold.add(changes({KEYS.manifest: manifest(2), KEYS.document("service", "ledger"): record(document, 2)}))
    assert fold.problems == {}
    fold.list(listing(instance("vm-1")))
    assert fold.problems == {}


def test_on_a_machine_of_its_own_every_address_is_its_own():
    fold = Fold(KEYS, INTEREST, start().world, here="127.0.0.1")
    fold.add(changes({KEYS.manifest: manifest(1), KEYS.mesh: record(MESH)}, full=True))
    fold.list(listing(instance("vm-2", "127.0.0.1")))
    assert fold.world.instances["ledger"] == (instance("vm-2", "127.0.0.1"),)


def test_keys_that_are_not_of_interest_are_not_held():
    fold = start()
    before = fold.world
    fold.add(changes({KEYS.document("intention", "payments2"): b"{", KEYS.instance("other", "x", "y"): b"{"}))
    assert fold.world is before and not fold.problems


def test_a_change_elsewhere_moves_the_revision_alone():
    fold = start()
    before = fold.world
    fold.add(changes({KEYS.manifest: manifest(2)}))
    assert fold.world.revision == 2
    assert (fold.world.intentions, fold.world.services) == (before.intentions, before.services)


@given(
    st.lists(st.tuples(st.sampled_from(["intention", "service", "manifest", "bundle", "mesh"]), st.binary(max_size=40)))
)
def test_no_value_ever_ends_the_agent_or_opens_a_denied_pair(values):
    fold = start("deny")
    keys = {
        "intention": PAYMENTS,
        "service": KEYS.document("service", "payments"),
        "manifest": KEYS.manifest,
        "bundle": KEYS.bundle,
        "mesh": KEYS.mesh,
    }
    for kind, value in values:
        fold.add(changes({keys[kind]: value}))
        assert action_of(fold) == "deny" and fold.world.mesh.default_action == "deny"


def test_a_record_that_is_early_by_two_revisions_counts_when_its_own_is_reached():
    fold = start("allow")
    held = Revised(revision=1, document=intention("allow"))
    early = encode(PolicyRecord(revision=3, document=intention("deny"), replaces=held))
    assert action_of(fold) == "allow"
    fold.add(changes({PAYMENTS: early}))
    fold.add(changes({KEYS.manifest: manifest(2)}))
    assert action_of(fold) == "allow"
    fold.add(changes({KEYS.manifest: manifest(3)}))
    assert action_of(fold) == "deny"


def test_a_moved_manifest_reads_no_record_again_that_already_counts(monkeypatch):
    fold = start()
    read = []
    monkeypatch.setattr(fold, "_policy", lambda key, *_: read.append(key))
    fold.add(changes({KEYS.manifest: manifest(2)}))
    assert read == []


def test_a_record_of_the_future_that_denies_what_is_in_force_changes_nothing():
    fold = start("deny")
    fold.add(changes({PAYMENTS: record(None, revision=10**9)}))
    assert action_of(fold) == "deny"
    assert "denies that there was something" in fold.problems[PAYMENTS]
    fold.add(changes({PAYMENTS: record(intention("allow"))}))
    assert action_of(fold) == "allow"
    assert not fold.problems


def test_what_is_nearly_a_number_is_not_one():
    whole = json.loads(record(intention("allow")))
    for wrong in ({"v": True}, {"revision": True}, {"revision": 1.0}, {"revision": "1"}):
        fold = start("deny")
        fold.add(changes({PAYMENTS: json.dumps(whole | wrong).encode()}))
        assert action_of(fold) == "deny", wrong
        assert PAYMENTS in fold.problems
