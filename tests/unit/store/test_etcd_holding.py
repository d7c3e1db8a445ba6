"""What a check of single keys in etcd expects and reads."""

from __future__ import annotations

from meshagent.store.base import Scope
from meshagent.store.etcd_holding import LIKELY, Holding
from meshagent.store.etcd_kv import MAX_OPERATIONS, ranges_of
from meshagent.wire import etcd_pb2 as pb


def held(*names: str) -> Holding:
    return Holding(ranges_of(Scope.of(names)))


def expected(ask: pb.TxnRequest) -> dict[bytes, int]:
    assert all((each.target, each.result) == (pb.Compare.MOD, pb.Compare.EQUAL) for each in ask.compare)
    return {each.key: each.mod_revision for each in ask.compare}


def test_every_key_is_expected_as_it_is_held_or_as_it_was_told() -> None:
    holding = held("a", "b", "c")
    holding.take({b"a": 3, b"b": 5})

    read, (ask,) = holding.asks({b"b": 9})

    assert not read
    assert expected(ask) == {b"a": 3, b"b": 9, b"c": 0}
    assert not ask.success
    assert holding.revisions == {b"a": 3, b"b": 5, b"c": 0}, "what was told is not held before it is proven"
    assert holding.keys == ({b"a"}, {b"b"}, frozenset())


def test_what_changed_lately_is_read_and_not_expected_unless_it_was_told() -> None:
    holding = held("a", "b", "c")
    holding.note([b"a", b"b"])

    read, (ask,) = holding.asks({b"b": 9})

    assert read == {b"a"}
    assert expected(ask) == {b"b": 9, b"c": 0}
    assert [(each.request_range.key, each.request_range.serializable) for each in ask.success] == [(b"a", True)]


def test_only_the_last_few_that_changed_are_read() -> None:
    names = [f"k{number:03d}" for number in range(LIKELY + 4)]
    holding = held(*names)
    holding.note(name.encode() for name in names)
    holding.note([names[4].encode()])
    holding.note([names[0].encode()])

    read, _ = holding.asks({})

    assert read == {name.encode() for name in (names[0], names[4], *names[6:])}


def test_more_keys_than_a_transaction_holds_are_expected_by_several() -> None:
    names = [f"k{number}" for number in range(2 * MAX_OPERATIONS + 1)]
    holding = held(*names)
    holding.note([b"k7"])

    read, asks = holding.asks({})

    assert read == {b"k7"}
    assert [len(ask.compare) for ask in asks] == [MAX_OPERATIONS, MAX_OPERATIONS]
    assert [len(ask.success) for ask in asks] == [1, 0]
    assert {key for ask in asks for key in expected(ask)} | read == {name.encode() for name in names}


def test_when_all_keys_are_read_there_is_still_one_transaction() -> None:
    holding = held("a", "b")
    holding.note([b"a", b"b"])
    read, asks = holding.asks({})
    assert read == {b"a", b"b"}
    assert [(len(ask.compare), len(ask.success)) for ask in asks] == [(0, 2)]
