from __future__ import annotations

import sqlite3
from collections.abc import Iterator

import pytest

from meshagent.errors import LeaseLost
from meshagent.store import sqlite_tables as tables
from meshagent.store.base import Delete, Put, Scope
from meshagent.store.sqlite_tables import Instant

ALL = Scope.of([""])


def at(seconds: float, *, set_by: float = 0.0) -> Instant:
    """`seconds` after boot, when the wall clock has been set by so much."""
    return Instant(wall=1_000_000 + seconds + set_by, monotonic=seconds)


@pytest.fixture
def db() -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    for statement in tables.SCHEMA:
        connection.execute(statement)
    tables.expire(connection, at(0))
    yield connection
    connection.close()


def bind(db: sqlite3.Connection, key: str, lease: str, ttl: float, now: Instant) -> None:
    tables.grant(db, lease, ttl, now)
    tables.commit(db, [Put(key, b"", lease=lease)], now)


def keys(db: sqlite3.Connection) -> set[str]:
    return set(tables.snapshot(db, ALL).entries)


def test_a_lease_ends_at_its_ttl_and_its_keys_are_logged_as_one_commit(db: sqlite3.Connection) -> None:
    bind(db, "a", "lease", 10, at(0))
    tables.commit(db, [Put("b", b"", lease="lease"), Put("free", b"")], at(1))
    before = tables.head(db)

    assert tables.expire(db, at(9.9)) == 0
    assert tables.expire(db, at(10)) == 1
    assert tables.expire(db, at(11)) == 0

    changes = tables.changes_after(db, ALL, before)
    assert (changes.revision, changes.entries, set(changes.deleted)) == (before + 1, (), {"a", "b"})
    assert keys(db) == {"free"}


def test_a_renewal_starts_the_ttl_again_until_the_lease_is_gone(db: sqlite3.Connection) -> None:
    bind(db, "a", "lease", 10, at(0))

    assert tables.renew(db, "lease", at(9))
    assert tables.expire(db, at(18)) == 0
    assert tables.expire(db, at(19)) == 1
    assert not tables.renew(db, "lease", at(19))
    with pytest.raises(LeaseLost):
        tables.commit(db, [Put("a", b"", lease="lease")], at(20))


@pytest.mark.parametrize("step", [3600.0, -3600.0, 1.5, -1.5])
def test_a_clock_that_is_set_gives_every_lease_its_whole_ttl(db: sqlite3.Connection, step: float) -> None:
    bind(db, "a", "lease", 10, at(0))

    assert tables.expire(db, at(9, set_by=step)) == 0
    assert tables.expire(db, at(18.9, set_by=step)) == 0
    assert tables.expire(db, at(19, set_by=step)) == 1


def test_a_clock_that_drifts_a_little_ends_leases_as_ever(db: sqlite3.Connection) -> None:
    bind(db, "a", "lease", 10, at(0))

    assert tables.expire(db, at(9.6, set_by=0.5)) == 1


def test_a_poll_sees_a_lease_that_is_due_and_one_that_a_set_clock_concerns(db: sqlite3.Connection) -> None:
    assert tables.signs(db, at(5)) == tables.Signs(head=0, next_end=None, lease_due=False)
    assert not tables.signs(db, at(5, set_by=3600)).lease_due, "there is no lease"
    bind(db, "a", "lease", 10, at(0))

    assert tables.signs(db, at(9)) == tables.Signs(head=1, next_end=1_000_010.0, lease_due=False)
    assert tables.signs(db, at(10)).lease_due
    assert tables.signs(db, at(1, set_by=-3600)).lease_due
    tables.expire(db, at(1, set_by=-3600))
    assert not tables.signs(db, at(2, set_by=-3600)).lease_due


def test_ending_a_lease_without_keys_makes_no_revision(db: sqlite3.Connection) -> None:
    tables.grant(db, "lease", 10, at(0))

    assert tables.end_leases(db, ["lease"], at(1)) == 0
    assert tables.head(db) == 0
    assert not tables.renew(db, "lease", at(1))


def test_the_log_keeps_the_newest_revisions_and_the_young_ones(db: sqlite3.Connection) -> None:
    for second in range(100):
        tables.commit(db, [Put("a", str(second).encode())], at(second))

    assert tables.floor(db, keep=30, before=0) == 70
    assert tables.floor(db, keep=1000, before=at(40).wall) == 40
    assert tables.floor(db, keep=30, before=at(40).wall) == 70
    assert tables.floor(db, keep=30, before=at(90).wall) == 90
    assert tables.floor(db, keep=1000, before=at(-5).wall) == 0
    assert tables.floor(db, keep=0, before=at(1000).wall) == 99, "the newest always stays"


def test_compaction_keeps_revisions_rising_and_tells_who_lost_its_place(db: sqlite3.Connection) -> None:
    for number in range(5):
        tables.commit(db, [Put(f"k{number}", b"")], at(number))
    tables.compact(db, 4)

    assert tables.oldest(db) == 5
    assert tables.changes_after(db, ALL, 3).full
    assert not tables.changes_after(db, ALL, 4).full
    assert [entry.key for entry in tables.changes_after(db, ALL, 4).entries] == ["k4"]
    assert tables.commit(db, [Delete("k4")], at(9)) == 6


def test_an_error_midway_undoes_what_was_written_before_it(db: sqlite3.Connection) -> None:
    def write_and_fail() -> None:
        with tables.writing(db):
            tables.commit(db, [Put("a", b"")], at(0))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_and_fail()
    assert (keys(db), tables.head(db), db.in_transaction) == (set(), 0, False)


def test_compacting_less_than_before_changes_nothing(db: sqlite3.Connection) -> None:
    for number in range(5):
        tables.commit(db, [Put(f"k{number}", b"")], at(number))
    tables.compact(db, 4)
    tables.compact(db, 2)

    assert tables.changes_after(db, ALL, 3).full


def test_many_commits_reach_a_late_watcher_as_the_last_state_of_each_key(db: sqlite3.Connection) -> None:
    tables.commit(db, [Put("a", b"1"), Put("b", b"1"), Put("out", b"1")], at(0))
    tables.commit(db, [Put("a", b"2"), Put("short-lived", b"")], at(1))
    tables.commit(db, [Delete("b"), Delete("short-lived")], at(2))
    tables.commit(db, [Put("a", b"3")], at(3))

    changes = tables.changes_after(db, Scope.of(["a", "b", "short-lived"]), 0)

    assert [(entry.key, entry.value, entry.revision) for entry in changes.entries] == [("a", b"3", 4)]
    assert (changes.revision, set(changes.deleted), changes.full) == (4, {"b", "short-lived"}, False)
