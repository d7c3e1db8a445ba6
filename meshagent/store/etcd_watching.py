"""Watches of etcd's keys. One range is told as etcd tells it; several are read together once one of them moved.

etcd tells a commit whole within one range. Between ranges it promises no order that a client could wait for: progress
answers overtake events up to 3.4.24 and 3.5.7. So events of several ranges are a bell, and one read since the last one
says what happened. What that read cannot show, the keys that are gone, follows from its counts.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import TypeVar

from meshagent.errors import StoreUnavailable
from meshagent.store.base import Changes, Scope
from meshagent.store.etcd_holding import Holding
from meshagent.store.etcd_kv import (
    Content,
    Keys,
    changes_of,
    entries_of,
    entry_of,
    gone_of,
    keys_after,
    keys_of,
    ranges_of,
    told_of,
)
from meshagent.store.etcd_reading import Reading
from meshagent.wire import etcd_pb2 as pb
from meshagent.wire.etcd import Etcd
from meshagent.wire.etcd_watch import Watch, pause_of

Result = TypeVar("Result")

# When the last read is no longer ago than this, in seconds, the next one takes all there is and not one commit alone.
_BUSY = 0.025


class Watching:
    """One watch of a scope from a revision on."""

    def __init__(self, etcd: Etcd, reading: Reading, scope: Scope, after: int) -> None:
        self._etcd = etcd
        self._reading = reading
        self._scope = scope
        self._watch = Watch(etcd, ranges_of(scope), after=after)
        self._known: Keys | None = None
        # For single keys alone: a tree cannot be compared.
        ranges = ranges_of(scope)
        self._holding = Holding(ranges) if not scope.trees and len(ranges) > 1 else None
        # Keys that etcd said were deleted after the position, with the revision of that.
        self._deleted: dict[bytes, int] = {}
        self._read_at = 0.0

    async def run(self) -> AsyncGenerator[Changes]:
        """Every change, until the client is closed. Raises StoreDenied."""
        several = len(ranges_of(self._scope)) != 1
        if several:
            position = self._watch.position
            there = await self._surely(lambda: self._reading.keys(self._scope, position))
            if there is not None:
                self._hold(there, keys_of(there))
            if changes := await (self._surely(self._news) if self._known is not None else self._whole()):
                yield changes
        async with aclosing(self._watch.run()) as answers:
            async for answer in answers:
                if changes := await self._changes(answer, several=several):
                    yield changes

    async def _changes(self, answer: pb.WatchResponse | None, *, several: bool) -> Changes | None:
        """What an answer means; None for nothing."""
        if answer is None:
            return await self._whole()
        if not several:
            changes = changes_of(answer.events, self._scope, self._watch.position)
            self._watch.position = changes.revision
            return changes if changes.entries or changes.deleted else None
        fresh = [event for event in answer.events if event.kv.mod_revision > self._watch.position]
        self._deleted |= {event.kv.key: event.kv.mod_revision for event in fresh if event.type == pb.Event.DELETE}
        if not fresh:
            return None
        rung = max(event.kv.mod_revision for event in fresh)
        return await self._surely(lambda: self._checked(fresh, rung))

    async def _whole(self) -> Changes | None:
        """All of the scope, as of now: the watcher lost its place. None when the client is closed meanwhile."""
        content = await self._surely(lambda: self._reading.newest(self._scope))
        if content is None:
            return None
        self._hold(content, keys_of(content))
        self._move(content.revision)
        return Changes(content.revision, tuple(entries_of(content, self._scope).values()), full=True)

    async def _checked(self, fresh: Sequence[pb.Event], rung: int) -> Changes | None:
        """What happened to several keys: these events, if all others are as they were; else what a reading shows."""
        if (holding := self._holding) is None:
            return await self._news(rung)
        puts = {event.kv.key: event.kv for event in fresh}
        told = {event.kv.key: event.kv.mod_revision * (event.type == pb.Event.PUT) for event in fresh}
        read, asks = holding.asks(told)
        met = await self._reading.check(asks)
        if met is None or met[0] < rung:
            return await self._news(rung)
        revision, found = met
        values = puts | {kv.key: kv for kv in found}
        now = told | dict.fromkeys(read, 0) | {kv.key: kv.mod_revision for kv in found}
        changed = [key for key, at in now.items() if holding.revisions[key] != at]
        entries = (entry_of(values[key], self._scope) for key in changed if now[key])
        deleted = tuple(key.decode() for key in changed if not now[key])
        if any((holding.revisions[key] == 0) != (now[key] == 0) for key in changed):
            self._known = None
        holding.take(now)
        holding.note(changed)
        self._known = self._known or holding.keys
        self._move(revision)
        changes = Changes(revision, tuple(entry for entry in entries if entry), deleted)
        return changes if changed else None

    async def _news(self, rung: int = 0) -> Changes | None:
        """What happened in several ranges since the position, at least up to the revision that etcd told of."""
        known, since = self._known or (), self._watch.position + 1
        before, self._read_at = self._read_at, asyncio.get_running_loop().time()
        if rung and self._read_at - before > _BUSY:
            news = await self._reading.news(self._scope, since=since, revision=rung)
        else:
            news = await self._reading.newest(self._scope, since=since)
        if news.revision < self._watch.position:
            return None  # The store went back: the watch will say so.
        deleted = {key for key, revision in self._deleted.items() if revision <= news.revision}
        gone = gone_of(known, news, deleted)
        if gone is None:
            there = await self._reading.keys(self._scope, news.revision)
            if there is None:
                raise StoreUnavailable("etcd was compacted between two reads.", next_step="Nothing: it is read again.")
            now = keys_of(there)
        else:
            now = keys_after(known, news, gone)
        changes = told_of(known, news, now, self._scope)
        self._hold(news, now)
        self._move(news.revision)
        return changes if changes.entries or changes.deleted else None

    def _hold(self, content: Content, now: Keys) -> None:
        """Know that these keys are there, some with the revisions that a reading found."""
        if self._holding:
            written = {kv.key: kv.mod_revision for kvs in content.found for kv in kvs}
            held = self._holding.revisions
            self._holding.take({key: written.get(key, held[key]) for keys in now for key in keys})
            self._holding.take(dict.fromkeys(held.keys() - frozenset().union(*now), 0))
            self._holding.note(key for key in written if self._known is not None)
        self._known = now

    def _move(self, revision: int) -> None:
        self._watch.position = revision
        self._deleted = {key: at for key, at in self._deleted.items() if at > revision}

    async def _surely(self, read: Callable[[], Awaitable[Result]]) -> Result | None:
        """What the read gives, tried again until it does; None when the client is closed meanwhile."""
        attempt = 0
        while True:
            try:
                return await read()
            except StoreUnavailable as error:
                problem = str(error)
            if self._etcd.closed:
                return None
            self._etcd.tell(lost=problem)
            pause = pause_of(attempt, random.random())  # noqa: S311 - jitter
            await asyncio.wait({self._etcd.closing}, timeout=pause)
            attempt += 1
