"""Watches of Consul's key-value store: blocking queries bring what moved, one check says that nothing else did.

A commit of several keys wakes several queries, and nothing says which is the last. So before a change is told, all keys
are compared with what is expected of them, in one transaction that answers no values. Where that does not explain what
is there (something is gone, older data came back), everything is read.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import AsyncIterator

from meshagent.errors import StoreUnavailable
from meshagent.store.base import Changes, Entry, Scope, Snapshot
from meshagent.store.consul_following import Followers, only
from meshagent.store.consul_kv import TRANSACTION, Memory, Revisions, difference, entries_of, revisions_of
from meshagent.store.consul_reading import Reading, content_of
from meshagent.wire.consul import pause_of

_OK = 200
_ABSENT = 404
# So many keys that changed last are asked for at once: they may well change together again.
_LIKELY = 16
# Behind gates, a scope of so many keys is read whole: one call tells more than two.
_READ_WHOLE = 32
# Seconds after which what lies behind gates is looked at though none of them moved: somebody wrote past them.
_LOOK_EVERY = (5.0, 9.0)


class Watch:
    """One watch of a scope from a revision on."""

    def __init__(
        self, followers: Followers, reading: Reading, memory: Memory, scope: Scope, *, gated: bool = False
    ) -> None:
        self._followers = followers
        self._reading = reading
        self._memory = memory
        self._scope = scope
        self._gated = gated
        self._due = False
        self._falls = 0
        # Everything that the scope holds, None before the first reading, and up to which revision that is complete.
        self._known: Revisions | None = followers.resumed
        self._seen = -1 if self._known is None else followers.pulse.count
        self._through = 0
        self._position = 0
        self._likely: OrderedDict[str, None] = OrderedDict()

    async def run(self, after: int) -> AsyncIterator[Changes]:
        """Every change after the revision, until the followers are closed. Raises StoreDenied."""
        self._position = after
        self._through, attempt = after if self._known is not None else 0, 0
        while await self._moved():
            try:
                changes = await self._news()
            except StoreUnavailable:
                await self._pause(attempt)
                attempt += 1
                continue
            attempt = 0
            if changes and self._known is not None and (changes.full or changes.entries or changes.deleted):
                self._memory.keep(self._scope, changes.revision, self._known, instead_of=self._position)
                self._position = changes.revision
                self._note(changes)
                yield changes

    async def _news(self) -> Changes | None:
        """What happened since the last time; None for nothing."""
        known, falls = self._known, self._followers.falls
        if known is None or falls != self._falls or only(self._scope) is not None:
            return await self._read(falls)
        if not self._due and not self._followers.moved(self._through, known):
            return None
        return await self._check(known) or await self._read(falls)

    async def _read(self, falls: int) -> Changes | None:
        """The same from a reading of everything."""
        now = await self._content(self._known or {})
        if self._known is None:
            known = await self._recalled(now, self._position)
        else:
            known = self._known if falls == self._falls else None
        changes = await self._told(known, now, self._position)
        self._known, self._falls, self._through = revisions_of(now.entries), falls, now.revision
        return changes

    async def _check(self, known: Revisions) -> Changes | None:
        """The same from what the queries brought and a check; empty for nothing, None when that does not tell."""
        answers = self._followers.answers
        # All that happened up to here is in what the check meets, since the answers came before it.
        floor = max((answer.index for answer in answers.values()), default=self._through)
        told, gone = self._brought(known)
        held = {**known, **revisions_of(told)}
        for key in gone:
            held.pop(key)
        size = len(self._scope.keys) + len(self._scope.trees)
        folders = self._followers.quiet(self._through) if size > TRANSACTION else {}
        whole = self._gated and size <= _READ_WHOLE
        asked = (self._scope.keys if whole else self._likely.keys()) - told.keys()
        met = await self._reading.check(self._scope, held, asked, folders)
        if met is None:
            return None
        entries = {**told, **met.entries}
        revision = max(floor, *met.revisions.values(), 0)
        news = tuple(entry for key, entry in entries.items() if known.get(key) != entry.revision)
        deleted = tuple(key for key in gone if key not in met.revisions)
        if deleted:
            await self._reading.require(Scope(frozenset(deleted), self._scope.trees))
        self._known, self._through = met.revisions, revision
        return Changes(max(revision, self._position + 1), news, deleted)

    def _brought(self, known: Revisions) -> tuple[dict[str, Entry], frozenset[str]]:
        """The entries that the queries of single keys brought, and the keys that they said are gone."""
        told: dict[str, Entry] = {}
        gone: set[str] = set()
        for name, answer in self._followers.answers.items():
            if answer.index <= self._through or name not in self._scope.keys:
                continue
            if answer.status == _OK:
                told |= entries_of(answer.json(), self._scope)
            elif answer.status == _ABSENT and answer.index > known.get(name, answer.index):
                gone.add(name)
        # What was written since is newer than the answer.
        return {key: entry for key, entry in told.items() if entry.revision > known.get(key, 0)}, frozenset(gone)

    def _note(self, changes: Changes) -> None:
        """What changed now is likely to change again; not so what came with the whole."""
        for entry in () if changes.full else changes.entries:
            self._likely[entry.key] = None
            self._likely.move_to_end(entry.key)
        while len(self._likely) > _LIKELY:
            self._likely.popitem(last=False)

    async def _moved(self) -> bool:
        """Wait until there is something to look at; not so when the followers are closed. Raises StoreDenied."""
        followers = self._followers
        while not followers.closed:
            followers.check()
            count = followers.pulse.count
            if followers.complete and count != self._seen:
                self._seen, self._due = count, False
                return True
            await followers.pulse.after(count, at_most=random.uniform(*_LOOK_EVERY) if self._gated else None)  # noqa: S311
            if self._gated and followers.complete and followers.pulse.count == count and not followers.closed:
                self._due = True
                return True
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

    async def _recalled(self, now: Snapshot, after: int) -> Revisions | None:
        """The content at the revision; None when nobody knows it, since Consul keeps no history."""
        newest = await self._reading.newest(self._scope)
        if after > newest:
            return None
        if self._gated:  # nobody follows the keys behind the gates, so nobody knows when one of them went
            return revisions_of(now.entries) if newest <= after else self._memory.recall(self._scope, after)
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
