"""Watches of Consul's key-value store: blocking queries say that something moved, one consistent read says what."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from typing import Self

from meshagent.errors import StoreUnavailable
from meshagent.store.base import Changes, Scope, Snapshot
from meshagent.store.consul_kv import Memory, Revisions, difference, revisions_of
from meshagent.store.consul_reading import Reading, content_of, only
from meshagent.store.pulse import Pulse
from meshagent.wire.consul import Answer, Consul, key_path, pause_of

# So many keys of one folder are followed as the folder. A key that is absent is woken by every write near it, and each
# query holds one of the 200 connections that Consul allows an address.
CROWD = 8
_ABSENT = 404


def queries_of(scope: Scope) -> dict[str, tuple[str, Mapping[str, str]]]:
    """What to follow for a scope: a name each, with path and parameters.

    A single name is followed with its content. Of several only the moves matter: trees are listed one level deep, and a
    folder from without, so that the answer is its name alone.
    """
    if (name := only(scope)) is not None:
        return {name: (key_path(name), {"recurse": ""} if name in scope.trees else {})}
    listed = {"keys": "", "separator": "/"}
    crowds = Counter(key.rpartition("/")[0] for key in scope.keys)
    queries: dict[str, tuple[str, Mapping[str, str]]] = {tree: (key_path(tree), listed) for tree in scope.trees}
    for key in scope.keys:
        folder = key.rpartition("/")[0]
        crowded = folder and crowds[folder] >= CROWD
        queries[f"{folder}/*" if crowded else key] = (key_path(folder), listed) if crowded else (key_path(key), {})
    return queries


class Followers:
    """Blocking queries, a task each, and their last answers. `pulse` beats when one moved; `falls` counts those back."""

    def __init__(self, consul: Consul, scope: Scope) -> None:
        self._consul = consul
        self._queries = queries_of(scope)
        self._scope = scope
        self._tasks: list[asyncio.Task[None]] = []
        self.answers: dict[str, Answer] = {}
        self.pulse = Pulse()
        self.falls = 0
        self.closed = False

    @property
    def complete(self) -> bool:
        """Whether every query was answered once."""
        return len(self.answers) == len(self._queries)

    async def __aenter__(self) -> Self:
        for name, (path, params) in self._queries.items():
            task = asyncio.create_task(self._follow(name, path, params), name=f"consul-follow {name}")
            task.add_done_callback(lambda _: self.pulse.beat())
            self._tasks.append(task)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """End them all, and whoever waits for a beat."""
        self.closed = True
        self.pulse.beat()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def check(self) -> None:
        """Raise what ended a query, if one has ended (StoreDenied)."""
        for task in self._tasks:
            if task.done() and not task.cancelled() and (error := task.exception()):
                raise error

    async def _follow(self, name: str, path: str, params: Mapping[str, str]) -> None:
        async for answer in self._consul.follow(path, params):
            before = self.answers.get(name)
            self.answers[name] = answer
            fell = before is not None and answer.index < before.index
            self.falls += fell
            # What was absent and still is moves with every write near it; of a folder the token may see nothing.
            exact = name in self._scope.keys or name in self._scope.trees
            if not exact or before is None or fell or not before.status == answer.status == _ABSENT:
                self.pulse.beat()


class Watch:
    """One watch of a scope from a revision on."""

    def __init__(self, followers: Followers, reading: Reading, memory: Memory, scope: Scope) -> None:
        self._followers = followers
        self._reading = reading
        self._memory = memory
        self._scope = scope
        self._seen = -1
        self._falls = 0

    async def run(self, after: int) -> AsyncIterator[Changes]:
        """Every change after the revision, until the followers are closed. Raises StoreDenied."""
        known: Revisions | None = None
        position, begun, attempt = after, False, 0
        while await self._moved():
            try:
                falls = self._followers.falls
                now = await self._content(known or {})
                known = (known if falls == self._falls else None) if begun else await self._known(now, after)
                changes = await self._told(known, now, position)
            except StoreUnavailable:
                await self._pause(attempt)
                attempt += 1
                continue
            begun, attempt, self._falls = True, 0, falls
            known = revisions_of(now.entries)
            if changes:
                self._memory.keep(self._scope, changes.revision, known, instead_of=position)
                position = changes.revision
                yield changes

    async def _moved(self) -> bool:
        """Wait until there is something to look at; not so when the followers are closed. Raises StoreDenied."""
        followers = self._followers
        while not followers.closed:
            followers.check()
            count = followers.pulse.count
            if followers.complete and count != self._seen:
                self._seen = count
                return True
            await followers.pulse.after(count)
        return False

    async def _pause(self, attempt: int) -> None:
        """Before the same is tried again."""
        self._seen = -1
        pulse = self._followers.pulse
        await pulse.after(pulse.count, at_most=pause_of(attempt, random.random()))  # noqa: S311 - jitter

    async def _content(self, known: Revisions) -> Snapshot:
        """All of the scope, at least as new as the followers' answers."""
        answers = self._followers.answers
        if (name := only(self._scope)) is not None:
            return content_of(answers[name], self._scope)
        absent = {name for name, answer in answers.items() if answer.status == _ABSENT}
        floor = max((answer.index for answer in answers.values()), default=0)
        return await self._reading.collect(self._scope, (answers.keys() | known.keys()) - absent, floor)

    async def _known(self, now: Snapshot, after: int) -> Revisions | None:
        """The content at the revision; None when nobody knows it, since Consul keeps no history."""
        if after > await self._reading.newest(self._scope):
            return None
        moves = [answer.index for answer in self._followers.answers.values()]
        if max((*moves, *(entry.revision for entry in now.entries.values())), default=0) <= after:
            return revisions_of(now.entries)
        return self._memory.recall(self._scope, after)

    async def _told(self, known: Revisions | None, now: Snapshot, position: int) -> Changes | None:
        """What to tell, None for nothing. What is gone is believed only where it may be read."""
        if known is None:
            await self._reading.require(self._scope)
            return Changes(now.revision, tuple(now.entries.values()), full=True)
        changes = difference(known, now.entries, max(now.revision, position + 1))
        if changes.deleted:
            await self._reading.require(Scope(frozenset(changes.deleted), self._scope.trees))
        return changes if changes.entries or changes.deleted else None
