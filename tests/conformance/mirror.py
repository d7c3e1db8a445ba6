"""What a watcher knows: the content of a scope, folded from its changes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

from meshagent.store.base import Changes, Snapshot, Store

PATIENCE = 10.0


class Mirror:
    """A copy of part of a store, kept by its watch alone."""

    def __init__(self, values: Mapping[str, bytes] | None = None) -> None:
        self.values: dict[str, bytes] = dict(values or {})
        self.revision = 0
        self.seen: list[Changes] = []

    def fold(self, changes: Changes) -> None:
        assert changes.revision > self.revision or changes.full, "a watch never goes back or repeats a revision"
        if changes.full:
            self.values.clear()
        for key in changes.deleted:
            self.values.pop(key, None)
        self.values.update({entry.key: entry.value for entry in changes.entries})
        self.revision = changes.revision
        self.seen.append(changes)

    async def follow(
        self, store: Store, prefixes: Sequence[str], *, after: int, until: Callable[[Mirror], bool]
    ) -> Mirror:
        """Fold changes until the condition holds, or fail after ten seconds."""
        async with asyncio.timeout(PATIENCE):
            async for changes in store.watch(prefixes, after=after):
                self.fold(changes)
                if until(self):
                    return self
        raise AssertionError("the watch ended")


def values_of(snapshot: Snapshot) -> dict[str, bytes]:
    return {key: entry.value for key, entry in snapshot.entries.items()}
