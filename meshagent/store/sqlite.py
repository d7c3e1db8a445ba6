"""The SQLite store: one file in WAL mode, shared by all the processes of one machine.

A watcher is woken by a datagram (bell.py), at the latest by the safety poll each second, which also ends the leases
that were not renewed, keeps the change log short, and looks for a file that was moved away and came back.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote, urlsplit

import structlog

from meshagent.errors import LeaseLost, MeshError, StoreDenied, StoreUnavailable, UsageProblem
from meshagent.store import sqlite_tables as tables
from meshagent.store.access import Access
from meshagent.store.base import Changes, Operation, Scope, Snapshot, StoreHealth, check_operations
from meshagent.store.sqlite_link import Link

log = structlog.get_logger(__name__)

Result = TypeVar("Result")

MAX_OPERATIONS = 10_000
MAX_VALUE = 512 * 1024
POLL = 1.0
KEEP_REVISIONS = 10_000
KEEP_AGE = timedelta(hours=1)
_COMPACT_EVERY = 60.0
_SHORTEST_PAUSE = 0.005
# A revision that no log knows: the watcher gets the whole.
_LOST = -1


async def open_url(url: str, access: Access) -> SqliteStore:  # noqa: ARG001 - a file has owners and modes
    """The store at `sqlite:///absolute/path.db`. Raises UsageProblem, StoreUnavailable and StoreDenied."""
    parts = urlsplit(url)
    path = re.sub("^/+", "/", unquote(parts.path))  # sqlite:////x is often written for sqlite:///x
    if parts.netloc or parts.query or parts.fragment or not path.startswith("/") or path.endswith("/"):
        raise UsageProblem(f"Not the URL of an SQLite store: {url}", next_step="Write sqlite:///absolute/path/mesh.db")
    return await open_sqlite(Path(path))


async def open_sqlite(
    path: Path,
    *,
    clock: Callable[[], float] = time.time,
    monotonic: Callable[[], float] = time.monotonic,
    poll: float = POLL,
) -> SqliteStore:
    """The store in the file, made when absent (with its directory, when only that is missing).

    `clock` and `monotonic` tell the wall clock and the machine's monotonic clock in seconds, `poll` is the interval of
    the safety poll in seconds. Raises StoreDenied for want of a right, and StoreUnavailable for a damaged file, one of
    a newer schema version, or a directory that is not there.
    """
    link = Link(path)
    try:
        await link.open(create=True)
    except BaseException:
        await link.close()
        raise
    return SqliteStore(link, clock=clock, monotonic=monotonic, poll=poll)


class SqliteLease:
    """A lease in an SQLite store."""

    def __init__(self, store: SqliteStore, lease: str, ttl: timedelta) -> None:
        self.id = lease
        self.ttl = ttl
        self._store = store

    async def renew(self) -> None:
        """Start the ttl again. Raises LeaseLost when it ended, StoreUnavailable when the store is away."""
        if not await self._store.write(lambda db, now: tables.renew(db, self.id, now)):
            raise LeaseLost(
                f"The lease was not renewed within {self.ttl.total_seconds():g} s and has ended.",
                next_step="Make a new lease and write its keys again.",
            )

    async def revoke(self) -> None:
        """End it now, with its keys."""
        await self._store.write(lambda db, now: tables.end_leases(db, [self.id], now))


class SqliteStore:
    """A `Store` in one file. Made by `open_sqlite`; belongs to the event loop that opened it."""

    max_operations = MAX_OPERATIONS
    max_value = MAX_VALUE

    def __init__(self, link: Link, *, clock: Callable[[], float], monotonic: Callable[[], float], poll: float) -> None:
        self._link = link
        self._clock = clock
        self._monotonic = monotonic
        self._poll = poll
        self._watched = False
        self._signs = tables.Signs(head=0, next_end=None, lease_due=False)
        self._next_compaction = 0.0
        self._tending = asyncio.create_task(self._tend(), name="sqlite-store")

    async def read(self, *prefixes: str) -> Snapshot:
        """Everything under any of the prefixes, at one revision."""
        return await self._link.query(partial(tables.snapshot, scope=Scope.of(prefixes)))

    def watch(self, prefixes: Sequence[str], *, after: int, gates: Sequence[str] = ()) -> AsyncIterator[Changes]:  # noqa: ARG002
        """Every change after the revision, for ever, without a gap, until the store is closed."""
        return self._watch(Scope.of(prefixes), after, self._link.generation)

    async def commit(self, operations: Sequence[Operation]) -> int:
        """All operations or none. Returns the revision. Raises Conflict, LeaseLost and StoreDenied."""
        wanted = tuple(operations)
        check_operations(wanted, max_operations=self.max_operations, max_value=self.max_value)
        return await self.write(lambda db, now: tables.commit(db, wanted, now))

    async def lease(self, ttl: timedelta) -> SqliteLease:
        """A new lease, ended within a second after its ttl unless renewed."""
        seconds = ttl.total_seconds()
        if seconds <= 0:
            raise StoreDenied(f"A lease of {seconds:g} s cannot live.", next_step="Ask for a longer one.")
        name = secrets.token_hex(16)
        await self.write(lambda db, now: tables.grant(db, name, seconds, now))
        return SqliteLease(self, name, ttl)

    async def check(self) -> StoreHealth:
        """What is wrong with the file, its rights or its disk. Raises StoreUnavailable when it cannot be read."""
        await self._link.query(tables.head)
        problems = await self._link.problems()
        return StoreHealth(ok=not problems, version=f"SQLite {sqlite3.sqlite_version}", problems=problems)

    async def close(self) -> None:
        """End the watches and let go of the file, after the writes that were begun."""
        if self._link.closed:
            return
        self._link.closed = True
        self._link.pulse.beat()
        self._tending.cancel()
        await asyncio.wait((self._tending,))
        await self._link.close()

    async def compact(self, *, keep: int = KEEP_REVISIONS, age: timedelta = KEEP_AGE) -> None:
        """Forget the change log beyond the newest `keep` revisions and beyond `age`; the store does it each minute.

        A watcher that is further behind gets the whole of its prefixes.
        """
        limit = partial(tables.floor, keep=keep, before=self._clock() - age.total_seconds())
        if await self._link.query(lambda db: limit(db) >= tables.oldest(db)):
            await self.write(lambda db, now: tables.compact(db, limit(db)))

    async def write(self, action: Callable[[sqlite3.Connection, tables.Instant], Result]) -> Result:
        """Run the action as one transaction, now."""
        return await self._link.write(action, tables.Instant(self._clock(), self._monotonic()))

    async def _watch(self, scope: Scope, after: int, generation: int) -> AsyncIterator[Changes]:
        position = after
        self._watched = True
        with contextlib.suppress(StoreUnavailable, StoreDenied):
            # The safety poll, which wakes this watcher meanwhile, tries again and logs what is in the way.
            self._link.listen()
        while not self._link.closed:
            seen, current = self._link.pulse.count, self._link.generation
            start = position if current == generation else _LOST
            try:
                changes = await self._link.query(partial(tables.changes_after, scope=scope, after=start))
            except (StoreUnavailable, StoreDenied):
                await self._link.pulse.after(seen, at_most=self._poll)
                continue
            position, generation = changes.revision, current
            if changes.full or changes.entries or changes.deleted:
                yield changes
            else:
                await self._link.pulse.after(seen)

    async def _tend(self) -> None:
        """The safety poll, for ever; a trouble is logged once, until it is over or is another one."""
        trouble = ""
        while True:
            await asyncio.sleep(self._poll if trouble else self._pause())
            try:
                await self._look_after()
                trouble = ""
            except MeshError as error:
                if str(error) != trouble:
                    log.warning("store_not_tended", path=str(self._link.path), error=str(error))
                trouble = str(error)

    def _pause(self) -> float:
        """Seconds until the next poll: less when the next lease may end sooner."""
        end = self._signs.next_end
        return self._poll if end is None else min(self._poll, max(_SHORTEST_PAUSE, end - self._clock()))

    async def _look_after(self) -> None:
        """One safety poll: everything that nobody announces."""
        if self._link.away():
            await self._link.reopen()
            self._link.pulse.beat()
        now = tables.Instant(self._clock(), self._monotonic())
        before, self._signs = self._signs, await self._link.query(partial(tables.signs, now=now))
        if self._signs.head != before.head:
            self._link.pulse.beat()
        if self._signs.lease_due:
            # Every transaction ends the overdue leases first; this one does nothing else.
            await self.write(lambda db, now: None)
        if now.monotonic >= self._next_compaction:
            self._next_compaction = now.monotonic + _COMPACT_EVERY
            await self.compact()
        if self._watched:
            # Last, for it may fail: the poll does without.
            self._link.listen()
