"""What etcd's calls say, as values."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given

from meshagent.errors import LeaseLost
from meshagent.store.base import Delete, Expect, Put, Scope
from meshagent.store.etcd_kv import (
    Content,
    changes_of,
    conflict_of,
    gone_of,
    keys_after,
    lease_name,
    lease_number,
    named,
    ranges_of,
    reading_of,
    told_of,
    transaction_of,
)
from meshagent.wire import etcd_pb2 as pb
from meshagent.wire.etcd_watch import Range

KEYS = st.sampled_from([b"t/a", b"t/b", b"t/c", b"t/d"])


def kv(key: str, revision: int = 1, value: bytes = b"") -> pb.KeyValue:
    return pb.KeyValue(key=key.encode(), value=value, mod_revision=revision)


def test_a_tree_is_the_range_from_its_slash_to_the_letter_after_it() -> None:
    assert ranges_of(Scope.of(["a/", "b", "a/c"])) == (Range(b"b"), Range(b"a/", b"a0"))
    assert ranges_of(Scope.of([""])) == (Range(b"\0", b"\0"),)
    assert ranges_of(Scope.of([])) == ()


def test_a_commit_compares_then_writes_and_reads_what_was_compared_when_that_failed() -> None:
    ask = transaction_of([Expect("a", 7), Put("b", b"x", lease="ff"), Delete("c")])

    assert [(each.key, each.mod_revision, each.target) for each in ask.compare] == [(b"a", 7, pb.Compare.MOD)]
    assert [each.WhichOneof("request") for each in ask.success] == ["request_put", "request_delete_range"]
    assert ask.success[0].request_put.lease == 255
    assert [each.request_range.key for each in ask.failure] == [b"a"]


def test_a_commit_that_writes_nothing_reads_so_that_the_cluster_is_asked() -> None:
    (read,) = transaction_of([Expect("a", 7)]).success

    assert read.request_range.key == b"a"
    assert not read.request_range.serializable


def test_a_conflict_names_the_keys_that_were_not_as_expected() -> None:
    found = pb.ResponseOp(response_range=pb.RangeResponse(kvs=[kv("a", 9)]))
    right = pb.ResponseOp(response_range=pb.RangeResponse(kvs=[kv("c", 5)]))
    wanted = [Expect("a", 7), Expect("b", 3), Expect("c", 5), Put("d", b"")]

    text = str(conflict_of(wanted, pb.TxnResponse(responses=[found, pb.ResponseOp(), right])))

    assert "a is at 9, not at 7" in text
    assert "b is absent, not at 3" in text
    assert "c is" not in text


@pytest.mark.parametrize("lease", ["", "0", "-1", "xyz", f"{1 << 63:x}", "00000000-0000-4000-8000-000000000000"])
def test_a_lease_that_cannot_be_etcds_is_lost(lease: str) -> None:
    with pytest.raises(LeaseLost):
        lease_number(lease)


@given(st.integers(1, (1 << 63) - 1))
def test_a_lease_has_its_number_in_its_name(number: int) -> None:
    assert lease_number(lease_name(number)) == number


def test_a_reading_asks_every_range_for_the_same() -> None:
    ask = reading_of([Range(b"a"), Range(b"b/", b"b0")], revision=9, since=4, local=True)

    assert [
        (each.request_range.key, each.request_range.revision, each.request_range.min_mod_revision)
        for each in ask.success
    ] == [(b"a", 9, 4), (b"b/", 9, 4)]
    assert all(each.request_range.serializable for each in ask.success)


def test_events_are_folded_to_the_last_state_of_each_key() -> None:
    events = [
        pb.Event(kv=kv("t/old", 3)),
        pb.Event(kv=kv("t/a", 4, b"1")),
        pb.Event(type=pb.Event.DELETE, kv=kv("t/a", 5)),
        pb.Event(type=pb.Event.DELETE, kv=kv("t/b", 5)),
        pb.Event(kv=kv("t/b", 6, b"2")),
        pb.Event(kv=pb.KeyValue(key=b"t/\xff", mod_revision=7)),
    ]

    changes = changes_of(events, Scope.of(["t/"]), 3)

    assert [(entry.key, entry.value, entry.revision) for entry in changes.entries] == [("t/b", b"2", 6)]
    assert (changes.deleted, changes.revision, changes.full) == (("t/a",), 7, False)


@given(
    before=st.frozensets(KEYS),
    written=st.frozensets(KEYS),
    gone=st.frozensets(KEYS),
    heard=st.frozensets(KEYS),
)
def test_the_keys_that_are_gone_are_known_or_asked_for_and_never_guessed(
    before: frozenset[bytes], written: frozenset[bytes], gone: frozenset[bytes], heard: frozenset[bytes]
) -> None:
    after = (before | written) - (gone - written)
    truly = before - after
    news = Content(9, (tuple(pb.KeyValue(key=key, mod_revision=9) for key in sorted(written)),), (len(after),))
    # What etcd tells of deletions is true, but may come late; of what was deleted and written again it tells too.
    deleted = heard & (gone | written)

    found = gone_of([before], news, deleted)

    if found is None:
        assert not truly <= deleted
        now = (after,)
    else:
        assert found == (truly,)
        now = keys_after([before], news, found)
    assert now == (after,)
    changes = told_of([before], news, now, Scope.of(["t/"]))
    assert {key.encode() for key in changes.deleted} == truly
    assert {entry.key.encode() for entry in changes.entries} == written


def test_the_keys_of_a_long_commit_are_named_shortly() -> None:
    assert named([Put("a", b""), Expect("a", 1), Delete("b")]) == "a, b"
    assert named([Delete(name) for name in "abcde"]) == "a, b, c and 2 more"
