"""Following the store for ever: what it says becomes the ledger, at once and across outages."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from pathlib import Path
from typing import Never

import structlog

from meshagent.authority.ledger import Ledger, Reading, keep_ledger
from meshagent.errors import DataDirUnusable, StoreDenied, StoreUnavailable, UnsafeFile
from meshagent.store.base import Changes, Store

_log = structlog.get_logger(__name__)
_LONGEST_PAUSE = 5.0
_CHECK_SECONDS = (4.0, 6.0)


class Following:
    """Reads and watches. `changed` is called with each new ledger."""

    def __init__(self, store: Store, reading: Reading, directory: Path, changed: Callable[[], None]) -> None:
        self._store = store
        self._reading = reading
        self._directory = directory
        self._changed = changed
        self._kept: Ledger | None = None
        self.problem = "the store was not read yet"

    async def run(self) -> Never:
        """Follow."""
        attempt = 0
        while True:
            try:
                await self._follow()
            except (StoreUnavailable, StoreDenied) as error:
                attempt = attempt + 1 if self.problem else 0
                self._lost(error.advice)
                await asyncio.sleep(random.uniform(0.1, min(_LONGEST_PAUSE, 0.2 * 2 ** min(attempt, 6))))  # noqa: S311 - jitter

    async def check(self) -> Never:
        """Ask now and then whether the store still answers: a watch alone waits in silence."""
        while True:
            await asyncio.sleep(random.uniform(*_CHECK_SECONDS))  # noqa: S311 - jitter
            try:
                await self._store.read(self._reading.prefixes[0])
            except (StoreUnavailable, StoreDenied) as error:
                self._lost(str(error))
            else:
                self._found()

    async def _follow(self) -> None:
        snapshot = await self._store.read(*self._reading.prefixes)
        await self._take(Changes(snapshot.revision, tuple(snapshot.entries.values()), full=True))
        self._found()
        async for changes in self._store.watch(self._reading.prefixes, after=snapshot.revision):
            await self._take(changes)

    async def _take(self, changes: Changes) -> None:
        before = self._reading.ledger
        after = self._reading.take(changes)
        for key, problem in after.problems.items():
            if before.problems.get(key) != problem:
                _log.error("record_unusable", key=key, problem=problem)
        self._changed()
        if after != self._kept:
            await self._keep(after)

    async def _keep(self, ledger: Ledger) -> None:
        try:
            await asyncio.to_thread(keep_ledger, self._directory, ledger)
            self._kept = ledger
        except (DataDirUnusable, UnsafeFile) as error:
            _log.error("ledger_not_kept", problem=str(error), next_step=error.next_step)

    def _lost(self, problem: str) -> None:
        if not self.problem:
            _log.error("store_lost", problem=problem)
        self.problem = problem

    def _found(self) -> None:
        if self.problem:
            self.problem = ""
            _log.info("store_followed")
            self._changed()
