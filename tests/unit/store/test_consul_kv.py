"""Commits as Consul's transactions, their answers, and what a client remembers."""

from __future__ import annotations

import json

import pytest

from meshagent.errors import Conflict, LeaseLost, StoreDenied, StoreUnavailable
from meshagent.store.base import Delete, Entry, Expect, Put, Scope
from meshagent.store.consul_kv import (
    MAX_OPERATIONS,
    MAX_VALUE,
    PROBE,
    TRANSACTION,
    Memory,
    checked_of,
    checks_of,
    covers,
    difference,
    entries_of,
    failed_of,
    found_of,
    gone_of,
    probes_of,
    readings_of,
    refusal_of,
    require_readable,
    revision_of,
    rounds_of,
    steps_of,
)


def verbs(operations: list[Put | Delete | Expect]) -> list[tuple[str, str]]:
    return [(step.form["KV"]["Verb"], step.form["KV"]["Key"]) for step in steps_of(operations)]


def test_expectations_come_first_wherever_they_stand():
    assert verbs([Put("a", b""), Expect("a", 7), Expect("b", 0)])[:2] == [
        ("check-index", "a"),
        ("check-not-exists", "b"),
    ]


def test_a_put_frees_the_key_from_the_lease_it_may_have():
    assert verbs([Put("a", b"")]) == [("delete", "a"), ("set", "a")]
    assert verbs([Put("a", b"", lease="s")]) == [("delete", "a"), ("lock", "a")]


def test_a_key_that_must_be_absent_is_only_set():
    assert verbs([Expect("a", 0), Put("a", b"")]) == [("check-not-exists", "a"), ("set", "a")]


def test_a_commit_that_only_deletes_learns_its_revision_by_a_set():
    assert verbs([Delete("a"), Delete("b")]) == [("set", "a"), ("delete", "a"), ("delete", "b")]
    assert verbs([Delete("a"), Put("b", b"")]) == [("delete", "a"), ("delete", "b"), ("set", "b")]


@pytest.mark.parametrize("make", [lambda key: Put(key, b""), Delete, lambda key: Expect(key, 3)])
def test_the_most_operations_fit_into_a_transaction(make):
    assert len(steps_of([make(f"k{number}") for number in range(MAX_OPERATIONS)])) <= TRANSACTION


def test_the_largest_value_fits_under_the_longest_key():
    steps = steps_of([Put('"' * 1024, b"\xff" * MAX_VALUE, lease="0" * 36)])
    assert len(json.dumps([step.form for step in steps])) <= 512 * 1024


def test_the_revision_is_that_of_what_was_written():
    assert revision_of({"Results": [{"KV": {"ModifyIndex": 7}}, {"KV": {"ModifyIndex": 9}}]}) == 9
    assert revision_of({"Results": None}) == 0


@pytest.mark.parametrize(
    ("place", "said", "kind", "words"),
    [
        (0, 'failed index check for key "a", current modify index 10 != 3', Conflict, "a has changed"),
        (0, 'failed to check index, key "a" doesn\'t exist', Conflict, "a has changed"),
        (0, "Permission denied", StoreDenied, "may not read a"),
        (2, "Permission denied", StoreDenied, "may not write b"),
        (2, 'invalid session "x"', LeaseLost, "lease has ended"),
        (2, 'failed to lock key "b" due to lock delay', StoreUnavailable, "lock delay"),
        (2, "something new", StoreDenied, "something new"),
        (99, "something new", StoreDenied, "something new"),
    ],
)
def test_a_transaction_that_is_rolled_back_says_why(place: int, said: str, kind: type, words: str):
    steps = steps_of([Expect("a", 3), Put("b", b"", lease="x")])
    refusal = refusal_of(steps, {"Errors": [{"OpIndex": place, "What": said}]})
    assert type(refusal) is kind
    assert words in str(refusal)
    assert refusal.next_step


def test_keys_that_are_not_there_are_read_as_trees_and_what_lies_beside_them_is_left_out():
    scope = Scope.of(["a", "b", "t/"])
    forms = readings_of(scope, {"a"})
    assert [(form["KV"]["Verb"], form["KV"]["Key"]) for form in forms] == [
        ("get", "a"),
        ("get-tree", "b"),
        ("get-tree", "t/"),
    ]
    answer = {
        "Results": [{"KV": {"Key": key, "Value": "eA==", "ModifyIndex": 3}} for key in ("a", "bc", "b/d", "t/", "t/x")]
    }
    assert found_of(forms, answer, scope) == {key: Entry(key, b"x", 3) for key in ("a", "t/x")}


def test_a_key_that_was_there_and_is_hidden_is_denied():
    scope = Scope.of(["a"])
    with pytest.raises(StoreDenied, match="may not read a"):
        found_of(readings_of(scope, {"a"}), {"Results": []}, scope)


def test_a_reading_that_was_wrong_says_which_keys_are_gone():
    forms = readings_of(Scope.of(["a", "b"]), {"a", "b"})
    assert gone_of(forms, {"Errors": [{"OpIndex": 1, "What": 'key "b" doesn\'t exist'}]}) == {"b"}
    with pytest.raises(StoreDenied, match="something new"):
        gone_of(forms, {"Errors": [{"OpIndex": 1, "What": "something new"}]})


def test_a_check_compares_what_is_held_and_reads_what_is_asked_for_or_absent():
    scope = Scope.of(["a", "asked", "absent", "sure", "t/"])
    held = {"a": 3, "asked": 4, "sure": 5, "t/x": 6}
    forms = checks_of(scope, held, {"asked"}, {"sure"})
    assert [form["KV"] for form in forms] == [
        {"Verb": "check-index", "Key": "a", "Index": 3},
        {"Verb": "get-tree", "Key": "absent"},
        {"Verb": "get", "Key": "asked"},
        {"Verb": "get-tree", "Key": "t/"},
    ]
    assert checked_of(forms) == {"a"}


def test_a_check_that_fails_says_what_was_written_what_is_gone_and_what_is_hidden():
    forms = checks_of(Scope.of(["a", "b", "c"]), {"a": 1, "b": 2, "c": 3}, {"c"}, frozenset())
    written = {"OpIndex": 0, "What": 'failed index check for key "a", current modify index 9 != 1'}
    deleted = {"OpIndex": 1, "What": 'failed to check index, key "b" doesn\'t exist'}
    assert failed_of(forms, {"Errors": [written, deleted]}) == ({"b"}, {"a"})
    assert failed_of(forms, {"Results": []}) == (frozenset(), frozenset())
    with pytest.raises(StoreDenied, match="may not read b"):
        failed_of(forms, {"Errors": [written, {"OpIndex": 1, "What": "Permission denied"}]})
    with pytest.raises(StoreDenied, match="something new"):
        failed_of(forms, {"Errors": [{"OpIndex": 2, "What": "something new"}]})


def test_probes_name_the_tree_that_may_not_be_read():
    probes = probes_of(Scope.of(["k", "t/"]))
    assert [probe["KV"]["Key"] for probe in probes] == ["k", "t/" + PROBE]
    require_readable(probes, {"Errors": [{"OpIndex": 1, "What": "failed to check index, key doesn't exist"}]})
    with pytest.raises(StoreDenied, match="may not read t/") as refusal:
        require_readable(probes, {"Errors": [{"OpIndex": 1, "What": "Permission denied"}]})
    assert refusal.value.next_step == 'Give its policy: key_prefix "t/" { policy = "read" }'


def test_readings_are_cut_at_what_a_transaction_holds():
    forms = readings_of(Scope.of([f"k{number}" for number in range(TRANSACTION + 1)]), frozenset())
    assert [len(each) for each in rounds_of(forms)] == [TRANSACTION, 1]
    assert rounds_of([]) == []


def test_an_empty_value_is_empty_bytes():
    assert entries_of([{"Key": "a", "Value": None, "ModifyIndex": 2}], Scope.of([""])) == {"a": Entry("a", b"", 2)}


def test_a_difference_tells_new_changed_and_gone_keys():
    now = {key: Entry(key, b"", revision) for key, revision in (("same", 1), ("changed", 5), ("new", 6))}
    changes = difference({"same": 1, "changed": 2, "gone": 3}, now, 6)
    assert (changes.revision, {entry.key for entry in changes.entries}, changes.deleted, changes.full) == (
        6,
        {"changed", "new"},
        ("gone",),
        False,
    )


def test_memory_recalls_a_scope_and_every_scope_in_it_at_exactly_its_revision():
    memory = Memory()
    memory.keep(Scope.of(["a/", "k"]), 5, {"a/b/c": 1, "a/d": 2, "k": 3})
    assert memory.recall(Scope.of(["a/", "k"]), 5) == {"a/b/c": 1, "a/d": 2, "k": 3}
    assert memory.recall(Scope.of(["a/b/"]), 5) == {"a/b/c": 1}
    assert memory.recall(Scope.of(["a/"]), 4) is None
    assert memory.recall(Scope.of(["a/", "l"]), 5) is None


def test_memory_is_short_and_a_place_that_moved_is_one():
    memory, scope = Memory(), Scope.of(["a/"])
    memory.keep(scope, 1, {})
    for revision in range(2, 30):
        memory.keep(Scope.of(["b/"]), revision, {}, instead_of=revision - 1)
    assert memory.recall(scope, 1) == {}
    for revision in range(30, 60):
        memory.keep(Scope.of(["b/"]), revision, {})
    assert memory.recall(scope, 1) is None


@pytest.mark.parametrize(
    ("outer", "inner", "covered"),
    [
        (["a/"], ["a/"], True),
        (["a/"], ["a/b/"], True),
        (["a/"], ["a/b"], True),
        (["a/"], ["a"], False),
        (["a/b/"], ["a/"], False),
        ([""], ["a/", "k"], True),
        ([""], [""], True),
        (["a/"], [""], False),
        (["a/", "k"], ["a/x", "k"], True),
        (["k"], ["k/"], False),
    ],
)
def test_which_scope_covers_which(outer: list[str], inner: list[str], covered: bool):
    assert covers(Scope.of(outer), Scope.of(inner)) is covered
