"""The live link to a store's file: reads on the event loop, writes in one thread, and what happens when the file goes.

In WAL mode a reader is never blocked, so a read costs no change of thread. A write may wait for other processes, and a
checkpoint for the disk, so the event loop does neither.
"""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

import structlog

from meshagent.errors import MeshError, StoreDenied, StoreUnavailable
from meshagent.store import sqlite_tables as tables
from meshagent.store.bell import Bell
from meshagent.store.pulse import Pulse
from meshagent.store.sqlite_file import BUSY_SECONDS, Database, busy, explain_sqlite, explained, present

log = structlog.get_logger(__name__)

Result = TypeVar("Result")

_BUSY_PAUSE = 0.02
_LEAST_FREE_BYTES = 64 * 1024 * 1024


class Link:
    """One process's use of the file. Everything raises StoreUnavailable while another file, or none, is at the path.

    `pulse` beats when any process may have committed something. `generation` counts the files that were opened: who
    began in an earlier one has lost its place.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.pulse = Pulse()
        self.generation = 0
        self.closed = False
        self._trouble: MeshError | None = None
        self._bell: Bell | None = None
        self._database: Database | None = None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="sqlite-store")

    async def open(self, *, create: bool) -> None:
        """Open the file at the path. Raises StoreUnavailable and StoreDenied."""
        await self._in_thread(self._open_files, create)
        self.generation += 1
        self._trouble = None

    async def reopen(self) -> None:
        """Open whatever store is at the path now; never makes one. Raises StoreUnavailable and StoreDenied."""
        if not present(self.path):
            # The old connections stay open, and with them the log that the file needs if it comes back.
            raise _gone(self.path)
        try:
            await self._let_go()
            await self.open(create=False)
        except MeshError as error:
            self._trouble = error
            raise
        log.info("store_file_found", path=str(self.path))

    async def close(self) -> None:
        """Let go of the file, after the writes that were begun."""
        self.closed = True
        await self._let_go()
        self._thread.shutdown(wait=False)

    def away(self) -> bool:
        """Whether the file that was opened is not the one at the path any more."""
        if self._trouble is None and (self._database is None or self._database.moved()):
            self._trouble = _gone(self.path)
            log.error("store_file_lost", path=str(self.path))
        return self._trouble is not None

    def listen(self) -> None:
        """Let the pulse beat for the commits of other processes too. Raises StoreDenied and StoreUnavailable."""
        if self._bell is not None and not self._bell.in_place():
            with explained(self.path):
                self._bell.listen(self.pulse.beat)

    async def query(self, query: Callable[[sqlite3.Connection], Result]) -> Result:
        """The query's answer from one consistent view. A lock (met after a crash only) is waited out."""
        deadline = time.monotonic() + BUSY_SECONDS
        while True:
            database = self._present()
            try:
                with tables.reading(database.reader):
                    return query(database.reader)
            except sqlite3.Error as error:
                if not busy(error) or time.monotonic() > deadline:
                    raise explain_sqlite(self.path, error) from error
            await asyncio.sleep(_BUSY_PAUSE)

    async def write(
        self, action: Callable[[sqlite3.Connection, tables.Instant], Result], now: tables.Instant
    ) -> Result:
        """Run the action in one transaction, after the overdue leases have been ended, and wake the watchers.

        `now` is the instant of the call: a renewal in time stays in time, however long it waits for other writers.
        """
        beat = partial(asyncio.get_running_loop().call_soon_threadsafe, self.pulse.beat)
        return await self._in_thread(self._transact, self._present(), action, now, beat)

    async def problems(self) -> tuple[str, ...]:
        """What a write would meet, found without writing: one sentence an item, with its next step."""
        return await self._in_thread(self._inspect, self._present())

    def _present(self) -> Database:
        """The database, if it is still the file at the path."""
        if self.closed:
            raise StoreUnavailable(f"The store {self.path} was closed by this process.", next_step="Open it again.")
        if self.away() or self._database is None:
            trouble = self._trouble or _gone(self.path)
            raise StoreUnavailable(trouble.message, next_step=trouble.next_step)
        return self._database

    async def _in_thread(self, function: Callable[..., Result], *arguments: object) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)

    async def _let_go(self) -> None:
        if self._bell is not None:
            self._bell.hush()
        await self._in_thread(self._close_files)

    def _open_files(self, create: bool) -> None:
        self._database = Database(self.path, create=create)
        self._bell = Bell(self._database.beside("-watchers"))

    def _close_files(self) -> None:
        database, self._database = self._database, None
        bell, self._bell = self._bell, None
        if bell is not None:
            bell.close()
        if database is not None:
            database.close()

    def _transact(
        self,
        database: Database,
        action: Callable[[sqlite3.Connection, tables.Instant], Result],
        now: tables.Instant,
        beat: Callable[[], object],
    ) -> Result:
        db = database.writer
        with explained(self.path), tables.writing(db):
            before = tables.head(db)
            expired = tables.expire(db, now)
            result = action(db, now)
            changed = tables.head(db) != before
        if changed and self._bell is not None:
            self._bell.ring()
            beat()
        if expired:
            log.info("leases_expired", path=str(self.path), count=expired)
        if database.moved():
            # Written into the file that was just taken away: whether it counts depends on which file comes back.
            raise _gone(self.path)
        return result

    def _inspect(self, database: Database) -> tuple[str, ...]:
        try:
            with explained(self.path):
                with tables.writing(database.writer):
                    pass
                fault = database.writer.execute("PRAGMA quick_check(1)").fetchone()[0]
                free = shutil.disk_usage(self.path.parent).free
        except StoreDenied as error:
            return (f"{error.message} {error.next_step}",)
        found = []
        if fault != "ok":
            found.append(f"The store {self.path} is damaged ({fault}): put a backup in its place.")
        if free < _LEAST_FREE_BYTES:
            found.append(f"Only {free >> 20} MiB are free on the disk of {self.path}: free some space.")
        return tuple(found)


def _gone(path: Path) -> StoreUnavailable:
    return StoreUnavailable(
        f"The store {path} was moved away, removed or replaced while it was open.",
        next_step=f"Put the file back at {path}; a running agent picks it up within a second.",
    )
