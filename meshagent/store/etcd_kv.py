"""What etcd's key-value calls say, as values: transactions, ranges, entries, differences. No I/O.

Forms and answers measured on 3.4.23.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from meshagent.errors import Conflict, LeaseLost
from meshagent.store.base import Changes, Delete, Entry, Expect, Operation, Put, Scope
from meshagent.wire import etcd_pb2 as pb
from meshagent.wire.etcd_watch import Range

# etcd's --max-txn-ops. It counts comparisons and operations apart; the sum stays below it in any case.
MAX_OPERATIONS = 128
# etcd's --max-request-bytes is 1.5 MiB for the whole request, keys included.
MAX_VALUE = 1400 * 1024
Keys = tuple[frozenset[bytes], ...]
# As the first key of a range it sorts before every other; as its end it means that there is none.
_NO_END = b"\0"


@dataclass(frozen=True, slots=True)
class Content:
    """What a reading found at a revision, range by range; `counts` are all keys of each, whatever was asked of them."""

    revision: int
    found: tuple[tuple[pb.KeyValue, ...], ...]
    counts: tuple[int, ...]


def ranges_of(scope: Scope) -> tuple[Range, ...]:
    """The ranges that a scope covers; a tree's goes from its slash to the letter after it."""
    keys = [Range(key.encode()) for key in sorted(scope.keys)]
    trees = [
        Range(tree.encode(), tree[:-1].encode() + b"0") if tree else Range(_NO_END, _NO_END)
        for tree in sorted(scope.trees)
    ]
    return (*keys, *trees)


def entry_of(kv: pb.KeyValue, scope: Scope) -> Entry | None:
    """The entry, or None for what others keep in the range and no key of ours can be."""
    key = text_of(kv.key)
    return Entry(key, kv.value, kv.mod_revision) if key is not None and key in scope else None


def text_of(key: bytes) -> str | None:
    """The key, or None when it is not text."""
    try:
        return key.decode()
    except UnicodeDecodeError:
        return None


def entries_of(content: Content, scope: Scope) -> dict[str, Entry]:
    """The entries of a scope that a reading found."""
    found = (entry_of(kv, scope) for kvs in content.found for kv in kvs)
    return {entry.key: entry for entry in found if entry}


def keys_of(content: Content) -> Keys:
    """The keys that a reading found, range by range."""
    return tuple(frozenset(kv.key for kv in kvs) for kvs in content.found)


def transaction_of(operations: Sequence[Operation]) -> pb.TxnRequest:
    """A commit. When an expectation fails, it reads what those keys are, so that the error can say which.

    Without a write it reads too: etcd judges a transaction that does nothing by what one member has, which may lag.
    """
    expected = [operation for operation in operations if isinstance(operation, Expect)]
    writes = [_writing(operation) for operation in operations if not isinstance(operation, Expect)]
    reads = [_op_range(pb.RangeRequest(key=expect.key.encode(), keys_only=True)) for expect in expected]
    compare = [
        pb.Compare(target=pb.Compare.MOD, key=expect.key.encode(), mod_revision=expect.revision) for expect in expected
    ]
    return pb.TxnRequest(compare=compare, success=writes or reads, failure=reads)


def conflict_of(operations: Sequence[Operation], answer: pb.TxnResponse) -> Conflict:
    """Which expectation failed."""
    found = {kv.key.decode(): kv.mod_revision for each in answer.responses for kv in each.response_range.kvs}
    wrong = [
        f"{expect.key} is {f'at {found[expect.key]}' if expect.key in found else 'absent'}, not at {expect.revision}"
        for expect in operations
        if isinstance(expect, Expect) and found.get(expect.key, 0) != expect.revision
    ]
    return Conflict(f"Changed meanwhile: {'; '.join(wrong)}.", next_step="Read again and retry.")


def lease_number(lease: str) -> int:
    """etcd's number of a lease. Raises LeaseLost for what cannot be one: some other store made it."""
    try:
        number = int(lease, 16)
    except ValueError:
        number = 0
    if not 0 < number < 1 << 63:
        raise LeaseLost(f"No lease of etcd's is called {lease!r}.", next_step="Make a new lease.")
    return number


def lease_name(number: int) -> str:
    """What `Put.lease` names."""
    return f"{number:x}"


def reading_of(
    ranges: Iterable[Range],
    *,
    revision: int = 0,
    since: int = 0,
    keys_only: bool = False,
    limit: int = 0,
    local: bool = False,
) -> pb.TxnRequest:
    """The ranges in one transaction: at `revision` (0: the newest), what was written at `since` or later.

    `local`: of what the member has, without asking the others how far they are.
    """
    asked = [
        pb.RangeRequest(
            key=each.key,
            range_end=each.end,
            revision=revision,
            min_mod_revision=since,
            keys_only=keys_only,
            limit=limit,
            serializable=local,
        )
        for each in ranges
    ]
    return pb.TxnRequest(success=[_op_range(each) for each in asked])


def changes_of(events: Iterable[pb.Event], scope: Scope, after: int) -> Changes:
    """What the events of one range say, those up to `after` left out; `revision` is that of the last one."""
    entries: dict[str, Entry] = {}
    deleted: dict[str, None] = {}
    revision = after
    for event in events:
        if event.kv.mod_revision <= after:
            continue
        revision = max(revision, event.kv.mod_revision)
        entry = entry_of(event.kv, scope)
        if entry is None:
            continue
        if event.type == pb.Event.DELETE:
            entries.pop(entry.key, None)
            deleted[entry.key] = None
        else:
            deleted.pop(entry.key, None)
            entries[entry.key] = entry
    return Changes(revision, tuple(entries.values()), tuple(deleted))


def gone_of(known: Sequence[AbstractSet[bytes]], news: Content, deleted: AbstractSet[bytes]) -> Keys | None:
    """Which known keys are gone, range by range, as far as the counts agree; None when they do not: ask for all keys.

    `deleted` were deleted at some revision up to that of the news, `known` was there at the one before.
    """
    gone: list[frozenset[bytes]] = []
    for before, kvs, count in zip(known, news.found, news.counts, strict=True):
        written = {kv.key for kv in kvs}
        # What was deleted and written again is among the news.
        left = frozenset((before & deleted) - written)
        if len(before | written) - len(left) != count:
            return None
        gone.append(left)
    return tuple(gone)


def told_of(
    known: Sequence[AbstractSet[bytes]], news: Content, now: Sequence[AbstractSet[bytes]], scope: Scope
) -> Changes:
    """What happened between the keys that were known and those there are now, with the news of their values."""
    gone = (text_of(key) for before, after in zip(known, now, strict=True) for key in before - after)
    deleted = tuple(key for key in gone if key is not None and key in scope)
    return Changes(news.revision, tuple(entries_of(news, scope).values()), deleted)


def keys_after(known: Sequence[AbstractSet[bytes]], news: Content, gone: Sequence[AbstractSet[bytes]]) -> Keys:
    """The keys there are after the news."""
    return tuple(
        frozenset((before | {kv.key for kv in kvs}) - left)
        for before, kvs, left in zip(known, news.found, gone, strict=True)
    )


def named(operations: Sequence[Operation]) -> str:
    """The keys of a commit, fit for a message."""
    keys = list(dict.fromkeys(operation.key for operation in operations))
    return ", ".join(keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")


def _op_range(ask: pb.RangeRequest) -> pb.RequestOp:
    return pb.RequestOp(request_range=ask)


def _writing(operation: Put | Delete) -> pb.RequestOp:
    key = operation.key.encode()
    if isinstance(operation, Delete):
        return pb.RequestOp(request_delete_range=pb.DeleteRangeRequest(key=key))
    lease = lease_number(operation.lease) if operation.lease is not None else 0
    return pb.RequestOp(request_put=pb.PutRequest(key=key, value=operation.value, lease=lease))
