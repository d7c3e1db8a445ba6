"""The tables of an SQLite store, and what is done to them: plain functions of a connection, an instant and values.

Every function here runs inside one transaction of the caller (`reading` or `writing`). Revisions count commits: one
row in `log`, with the keys it touched, in the transaction that changes `kv`. The log holds no values: a watcher reads
the last state of each key from `kv` in the same view, so it never sees half of a commit.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from meshagent.errors import Conflict, LeaseLost
from meshagent.store.base import Changes, Delete, Entry, Expect, Operation, Put, Scope, Snapshot

APPLICATION_ID = 0x6D657368
SCHEMA_VERSION = 1
SCHEMA = (
    "CREATE TABLE kv(key TEXT PRIMARY KEY NOT NULL, value BLOB NOT NULL, revision INTEGER NOT NULL, lease TEXT)",
    "CREATE INDEX kv_by_lease ON kv(lease) WHERE lease IS NOT NULL",
    # The newest row is never removed, so a new revision (its largest plus one) was never used before. The keys are
    # joined by line ends, which no key may hold.
    "CREATE TABLE log(revision INTEGER PRIMARY KEY, at REAL NOT NULL, keys TEXT NOT NULL)",
    "CREATE TABLE leases(id TEXT PRIMARY KEY NOT NULL, ttl REAL NOT NULL, expires REAL NOT NULL)",
    "CREATE INDEX leases_by_end ON leases(expires)",
    "CREATE TABLE meta(name TEXT PRIMARY KEY NOT NULL, value NOT NULL)",
    "INSERT INTO meta VALUES ('compacted', 0)",
    f"PRAGMA application_id = {APPLICATION_ID}",
    f"PRAGMA user_version = {SCHEMA_VERSION}",
)
# A step of the wall clock of more than this (seconds) starts every lease again, instead of ending or freezing them.
CLOCK_STEP = 1.0


@dataclass(frozen=True, slots=True)
class Instant:
    """One moment on both clocks of the machine, in seconds. All its processes share both, across no reboot."""

    wall: float
    monotonic: float

    @property
    def offset(self) -> float:
        """Constant unless the wall clock is set, the machine slept, or it was booted again."""
        return self.wall - self.monotonic


@dataclass(frozen=True, slots=True)
class Signs:
    """What a poll looks at: the newest revision, when (wall clock) the next lease ends, whether one is to be ended."""

    head: int
    next_end: float | None
    lease_due: bool


@contextmanager
def reading(db: sqlite3.Connection) -> Iterator[None]:
    """One consistent view of the store for all the queries inside."""
    db.execute("BEGIN")
    try:
        yield
    finally:
        db.rollback()


@contextmanager
def writing(db: sqlite3.Connection) -> Iterator[None]:
    """All or nothing; waits for the writers before it, as long as the connection's busy timeout."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    finally:
        if db.in_transaction:
            db.rollback()


def head(db: sqlite3.Connection) -> int:
    """The revision of the newest commit, 0 when there was none. Compaction always keeps that one."""
    return int(db.execute("SELECT coalesce(max(revision), 0) FROM log").fetchone()[0])


def snapshot(db: sqlite3.Connection, scope: Scope) -> Snapshot:
    """Everything in scope."""
    return Snapshot(entries={entry.key: entry for entry in _entries(db, scope)}, revision=head(db))


def changes_after(db: sqlite3.Connection, scope: Scope, after: int) -> Changes:
    """What changed in scope after the revision; `full` when the log does not know that revision (any more, or yet)."""
    newest = head(db)
    if after == newest:
        return Changes(revision=newest)
    if not _compacted(db) <= after < newest:
        return Changes(revision=newest, entries=tuple(_entries(db, scope)), full=True)
    rows = db.execute("SELECT keys FROM log WHERE revision > ? ORDER BY revision", (after,))
    touched = (key for (keys,) in rows for key in keys.split("\n"))
    entries: list[Entry] = []
    deleted: list[str] = []
    for key in dict.fromkeys(key for key in touched if key in scope):
        entry = _entry(db, key)
        if entry is None:
            deleted.append(key)
        else:
            entries.append(entry)
    return Changes(revision=newest, entries=tuple(entries), deleted=tuple(deleted))


def commit(db: sqlite3.Connection, operations: Sequence[Operation], now: Instant) -> int:
    """Do the operations and return the revision. Raises Conflict and LeaseLost, on which the caller rolls back."""
    for operation in operations:
        if isinstance(operation, Expect):
            _expect(db, operation)
    puts = [operation for operation in operations if isinstance(operation, Put)]
    for lease in {put.lease for put in puts if put.lease is not None}:
        if db.execute("SELECT 1 FROM leases WHERE id = ?", (lease,)).fetchone() is None:
            raise LeaseLost("The store does not know the lease of this write.", next_step="Make a new lease.")
    doomed = [operation.key for operation in operations if isinstance(operation, Delete)]
    gone = [key for key in doomed if _revision(db, key)]
    if not puts and not gone:
        return head(db)
    revision = _record(db, [*gone, *(put.key for put in puts)], now)
    db.executemany("DELETE FROM kv WHERE key = ?", [(key,) for key in gone])
    db.executemany(
        "INSERT INTO kv VALUES (:key, :value, :revision, :lease) ON CONFLICT(key) DO UPDATE"
        " SET value = excluded.value, revision = excluded.revision, lease = excluded.lease",
        [{"key": put.key, "value": put.value, "revision": revision, "lease": put.lease} for put in puts],
    )
    return revision


def grant(db: sqlite3.Connection, lease: str, ttl: float, now: Instant) -> None:
    """Begin a lease of `ttl` seconds."""
    db.execute("INSERT INTO leases VALUES (?, ?, ?)", (lease, ttl, now.wall + ttl))


def renew(db: sqlite3.Connection, lease: str, now: Instant) -> bool:
    """Start the lease's ttl again; false when it is gone."""
    return db.execute("UPDATE leases SET expires = ? + ttl WHERE id = ?", (now.wall, lease)).rowcount == 1


def end_leases(db: sqlite3.Connection, leases: Iterable[str], now: Instant) -> int:
    """Remove these leases and their keys, as one commit; returns the number of keys."""
    ended = list(leases)
    keys = [key for lease in ended for (key,) in db.execute("SELECT key FROM kv WHERE lease = ?", (lease,))]
    if keys:
        _record(db, keys, now)
    db.executemany("DELETE FROM kv WHERE lease = ?", [(lease,) for lease in ended])
    db.executemany("DELETE FROM leases WHERE id = ?", [(lease,) for lease in ended])
    return len(keys)


def expire(db: sqlite3.Connection, now: Instant) -> int:
    """End the leases that were not renewed in time; returns how many. Any process may do it, as often as it likes.

    The wall clock judges, and is itself judged by the monotonic one: when it was set, each lease has its whole ttl from
    now, so that a step ahead ends no living holder's lease and a step back keeps no dead one's for long.
    """
    if clock_stepped(db, now):
        db.execute("UPDATE leases SET expires = ? + ttl", (now.wall,))
        db.execute("REPLACE INTO meta VALUES ('clock', ?)", (now.offset,))
        return 0
    overdue = [lease for (lease,) in db.execute("SELECT id FROM leases WHERE expires <= ?", (now.wall,))]
    end_leases(db, overdue, now)
    return len(overdue)


def clock_stepped(db: sqlite3.Connection, now: Instant) -> bool:
    """Whether the wall clock was set since the last process looked (also: never looked, slept, or booted since)."""
    row = db.execute("SELECT value FROM meta WHERE name = 'clock'").fetchone()
    return row is None or abs(float(row[0]) - now.offset) > CLOCK_STEP


def signs(db: sqlite3.Connection, now: Instant) -> Signs:
    """What a poll must know."""
    end = db.execute("SELECT min(expires) FROM leases").fetchone()[0]
    due = end is not None and (end <= now.wall or clock_stepped(db, now))
    return Signs(head=head(db), next_end=end, lease_due=due)


def floor(db: sqlite3.Connection, *, keep: int, before: float) -> int:
    """The last revision that the log need not hold: beyond the newest `keep`, or older than `before` (wall clock)."""
    newest = head(db)
    # From the newest down, so that the search ends at the first one that is old enough.
    aged = db.execute("SELECT revision FROM log WHERE at < ? ORDER BY revision DESC LIMIT 1", (before,)).fetchone()
    return max(0, min(newest - 1, max(newest - keep, aged[0] if aged else 0)))


def oldest(db: sqlite3.Connection) -> int:
    """The first revision in the log, 0 when it is empty."""
    return int(db.execute("SELECT coalesce(min(revision), 0) FROM log").fetchone()[0])


def compact(db: sqlite3.Connection, revision: int) -> None:
    """Forget the log up to and with the revision. Watchers that are not past it get the whole again."""
    db.execute("DELETE FROM log WHERE revision <= ?", (revision,))
    db.execute("UPDATE meta SET value = max(value, ?) WHERE name = 'compacted'", (revision,))


def _expect(db: sqlite3.Connection, expected: Expect) -> None:
    found = _revision(db, expected.key)
    if found != expected.revision:
        raise Conflict(
            f"{expected.key} is at revision {found}, not at {expected.revision}: somebody else wrote it meanwhile.",
            next_step="Read it again and retry.",
        )


def _record(db: sqlite3.Connection, keys: Sequence[str], now: Instant) -> int:
    """A new revision that touches these keys."""
    db.execute("INSERT INTO log(at, keys) VALUES (?, ?)", (now.wall, "\n".join(keys)))
    return head(db)


def _compacted(db: sqlite3.Connection) -> int:
    return int(db.execute("SELECT value FROM meta WHERE name = 'compacted'").fetchone()[0])


def _revision(db: sqlite3.Connection, key: str) -> int:
    """Of the key's last write; 0 when it is absent."""
    row = db.execute("SELECT revision FROM kv WHERE key = ?", (key,)).fetchone()
    return int(row[0]) if row else 0


def _entry(db: sqlite3.Connection, key: str) -> Entry | None:
    row = db.execute("SELECT value, revision FROM kv WHERE key = ?", (key,)).fetchone()
    return Entry(key, row[0], row[1]) if row else None


def _entries(db: sqlite3.Connection, scope: Scope) -> Iterator[Entry]:
    for key in sorted(scope.keys):
        entry = _entry(db, key)
        if entry is not None:
            yield entry
    for tree in sorted(scope.trees):
        # Text compares by its UTF-8 bytes, and "0" is the byte after "/"; every text is less than every blob.
        end: str | bytes = tree[:-1] + "0" if tree else b""
        rows = db.execute("SELECT key, value, revision FROM kv WHERE key >= ? AND key < ? ORDER BY key", (tree, end))
        for key, value, revision in rows:
            yield Entry(key, value, revision)
