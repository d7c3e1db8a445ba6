"""A store that is opened when it is first needed, and again after a failure: an agent starts while its store is away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import timedelta

from meshagent.errors import StoreDenied, StoreUnavailable
from meshagent.store.base import Changes, Lease, Operation, Snapshot, Store, StoreHealth


class LazyStore:
    """Any store behind its opener. Every method raises what opening raises, until it succeeds."""

    def __init__(self, opener: Callable[[], Awaitable[Store]]) -> None:
        self._opener = opener
        self._store: Store | None = None
        self._opening = asyncio.Lock()
        self._checked_at = 0.0

    @property
    def checked_at(self) -> float:
        """When `check` last ended, whatever it said, by the event loop's clock; before the first, when this was asked."""
        self._checked_at = self._checked_at or asyncio.get_running_loop().time()
        return self._checked_at

    @property
    def max_operations(self) -> int:
        """The store's limit; 1 before it is open."""
        return self._store.max_operations if self._store else 1

    @property
    def max_value(self) -> int:
        """The store's limit in bytes; 0 before it is open."""
        return self._store.max_value if self._store else 0

    async def read(self, *prefixes: str) -> Snapshot:
        """As Store.read."""
        return await (await self._opened()).read(*prefixes)

    async def watch(self, prefixes: Sequence[str], *, after: int, gates: Sequence[str] = ()) -> AsyncIterator[Changes]:
        """As Store.watch."""
        async for changes in (await self._opened()).watch(prefixes, after=after, gates=gates):
            yield changes

    async def commit(self, operations: Sequence[Operation]) -> int:
        """As Store.commit."""
        return await (await self._opened()).commit(operations)

    async def lease(self, ttl: timedelta) -> Lease:
        """As Store.lease."""
        return await (await self._opened()).lease(ttl)

    async def check(self) -> StoreHealth:
        """As Store.check, with what keeps it from opening as the problem."""
        try:
            return await (await self._opened()).check()
        except (StoreUnavailable, StoreDenied) as error:
            return StoreHealth(ok=False, version="", problems=(str(error),))
        finally:
            self._checked_at = asyncio.get_running_loop().time()

    async def close(self) -> None:
        """As Store.close."""
        if self._store:
            await self._store.close()

    async def _opened(self) -> Store:
        async with self._opening:
            if self._store is None:
                self._store = await self._opener()
            return self._store
