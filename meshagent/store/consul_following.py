"""Blocking queries on Consul's keys: one for each key and tree of a scope, or one for many keys of a folder."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from typing import Self

from meshagent.errors import StoreDenied
from meshagent.store.base import Scope
from meshagent.store.consul_kv import Revisions
from meshagent.store.pulse import Pulse
from meshagent.wire.consul import Answer, Consul, key_path

# So many keys of one folder are followed as the folder: each query holds one of the 200 connections that Consul allows
# an address.
CROWD = 8
# Releases before 1.12 wake whoever waits for an absent key by every write near it. When so many keys of a folder were
# woken for nothing so often in a row, the folder is followed in their place.
_CROWD_OF_ABSENT = 3
_FOR_NOTHING = 2
# Seconds before a query that was answered is sent again: what follows from the answer goes first, here and at the server.
_BREATH = 0.003
# The same for an answer that told nothing: a commit that wakes absent keys for nothing has woken others for good reason.
_LONG_BREATH = 0.03
_ABSENT = 404
# Ends the name of a folder's query: no key or tree ends like this.
_FOLDER = "//"
_LISTED = {"keys": "", "separator": "/"}

Query = tuple[str, Mapping[str, str]]


def only(scope: Scope) -> str | None:
    """The one key or tree of the scope, which a single call reads whole; None when there are several or none."""
    names = [*scope.keys, *scope.trees]
    return names[0] if len(names) == 1 else None


def queries_of(scope: Scope) -> dict[str, Query]:
    """What to follow for a scope: a name each, with path and parameters.

    Keys, and a single tree, are followed with their content. Of several trees only the moves matter: each is listed one
    level deep.
    """
    if (name := only(scope)) is not None:
        return {name: (key_path(name), {"recurse": ""} if name in scope.trees else {})}
    crowds = Counter(folder_of(key) for key in scope.keys)
    queries: dict[str, Query] = {tree: (key_path(tree), _LISTED) for tree in scope.trees}
    for key in scope.keys:
        folder = folder_of(key)
        crowded = folder and crowds[folder] >= CROWD
        queries |= {folder + _FOLDER: folder_query(folder)} if crowded else {key: (key_path(key), {})}
    return queries


def folder_of(key: str) -> str:
    """Where a key lies, "" for the root."""
    return key.rpartition("/")[0]


def folder_query(folder: str) -> Query:
    """What moves with every key of a folder: the folder is listed from without, so that the answer is its name alone."""
    return key_path(folder), _LISTED


class Followers:
    """Blocking queries, a task each, and their last answers. `pulse` beats when one moved; `falls` counts those back.

    `held` is the scope's content at the revision `after`, if that is known. Where every key to follow is in it, they are
    waited for from there on (`resumed`), and nothing is asked that was just read.
    """

    def __init__(
        self,
        consul: Consul,
        scope: Scope,
        gates: frozenset[str] = frozenset(),
        held: Revisions | None = None,
        after: int = 0,
    ) -> None:
        self._consul = consul
        self._scope = scope
        self._breath = 0.0 if only(scope) is not None else _BREATH
        self._queries = {key: (key_path(key), {}) for key in gates} if gates else queries_of(scope)
        self.resumed = held if held is not None and self._queries.keys() <= held.keys() else None
        # Whose first answer need not be awaited, and where each of them waits.
        self._begun = dict.fromkeys(self._queries, after) if self.resumed else {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._ended: set[asyncio.Task[None]] = set()
        self._for_nothing: Counter[str] = Counter()
        self._unlisted: set[str] = set()  # folders that the token may not list
        self.answers: dict[str, Answer] = {}
        self.pulse = Pulse()
        self.falls = 0
        self.closed = False

    @property
    def complete(self) -> bool:
        """Whether every query was answered once, or waits where its answer is known."""
        return self._queries.keys() <= self.answers.keys() | self._begun.keys()

    async def __aenter__(self) -> Self:
        for name in tuple(self._queries):
            self._start(name)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """End them all, and whoever waits for a beat."""
        self.closed = True
        self.pulse.beat()
        tasks = (*self._tasks.values(), *self._ended)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def check(self) -> None:
        """Raise what ended a query, if one has ended (StoreDenied)."""
        for task in self._tasks.values():
            if task.done() and not task.cancelled() and (error := task.exception()):
                raise error

    def moved(self, through: int, known: Revisions) -> bool:
        """Whether an answer may hold something that a content, complete up to the revision `through`, does not."""
        return any(
            answer.index > through and (answer.status != _ABSENT or name not in self._scope.keys or name in known)
            for name, answer in self.answers.items()
        )

    def quiet(self, through: int) -> dict[str, int]:
        """The folders that are followed as such and did not move after a revision, with the index at which they did."""
        return {
            name.removesuffix(_FOLDER): answer.index
            for name, answer in self.answers.items()
            if name.endswith(_FOLDER) and answer.index <= through
        }

    def _start(self, name: str) -> None:
        task = asyncio.create_task(self._follow(name, *self._queries[name]), name=f"consul-follow {name}")
        task.add_done_callback(lambda _: self.pulse.beat())
        self._tasks[name] = task

    def _end(self, name: str) -> None:
        del self._queries[name]
        self._begun.pop(name, None)
        self.answers.pop(name, None)
        task = self._tasks.pop(name)
        if not task.done():
            self._ended.add(task)
            task.add_done_callback(self._ended.discard)
            task.cancel()

    async def _follow(self, name: str, path: str, params: Mapping[str, str]) -> None:
        try:
            async for answer in self._consul.follow(path, params, index=self._begun.get(name, 0)):
                self._take(name, answer)
                await asyncio.sleep(_LONG_BREATH if self._for_nothing[name] else self._breath)
        except StoreDenied:
            # A folder that was followed in place of single keys: those may be allowed.
            if not name.endswith(_FOLDER) or name in queries_of(self._scope):
                raise
            self._scatter(name)

    def _take(self, name: str, answer: Answer) -> None:
        before = self.answers.get(name)
        self.answers[name] = answer
        known = before.index if before else self.resumed[name] if self.resumed and name in self._begun else 0
        fell = answer.index < known
        self.falls += fell
        # What was absent and still is moves with every write near it; of a folder the token may see nothing.
        exact = name in self._scope.keys or name in self._scope.trees
        if not exact or before is None or fell or not before.status == answer.status == _ABSENT:
            self._for_nothing[name] = 0
            self.pulse.beat()
        elif name in self._scope.keys:
            self._for_nothing[name] += 1
            self._gather(folder_of(name))

    def _gather(self, folder: str) -> None:
        """Follow a folder in place of its absent keys, once several of them were woken for nothing."""
        keys = [
            name for name, times in self._for_nothing.items() if times >= _FOR_NOTHING and folder_of(name) == folder
        ]
        if not folder or folder in self._unlisted or len(keys) < _CROWD_OF_ABSENT:
            return
        for key in keys:
            del self._for_nothing[key]
            self._end(key)
        if (name := folder + _FOLDER) not in self._queries:
            self._queries[name] = folder_query(folder)
            self._start(name)

    def _scatter(self, name: str) -> None:
        """Follow the keys of a folder one by one after all."""
        folder = name.removesuffix(_FOLDER)
        self._unlisted.add(folder)
        self._end(name)
        for key in self._scope.keys:
            if folder_of(key) == folder and key not in self._queries:
                self._queries[key] = (key_path(key), {})
                self._start(key)
