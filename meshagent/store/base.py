"""The store protocol: bytes under keys, six methods, no mesh words.

A store is level-triggered: a watcher that lost its place gets the whole of its prefixes again (`Changes.full`).
Every provider is held to one suite, tests/conformance/test_store*.py.

Prefixes, the same for every provider: one that ends in `/` means every key below it, the empty one means every key,
and any other names exactly one key. So `a/` covers `a/b` but neither `a` nor `ab`, and `a` covers `a` alone.
"""

from __future__ import annotations

import unicodedata
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Protocol

from meshagent.errors import StoreDenied

MAX_KEY_BYTES = 1024
_SHOWN_CHARACTERS = 80
# Control characters, lone surrogates, line and paragraph separators: none of them survives a log line or a URL.
_UNPRINTABLE = frozenset({"Cc", "Cs", "Zl", "Zp"})


@dataclass(frozen=True, slots=True)
class Entry:
    """One key. `revision` is the store revision of its last write."""

    key: str
    value: bytes
    revision: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A consistent read: everything under the prefixes asked for, at `revision`."""

    entries: Mapping[str, Entry]
    revision: int


@dataclass(frozen=True, slots=True)
class Changes:
    """What happened under the watched prefixes up to `revision`, coalesced to the last state of each key.

    It never holds half of a commit, and it may hold several. `deleted` may name a key that the watcher never saw:
    one that came and went in between. With `full` set, `entries` is the whole content (the watcher lost its place):
    keys that are not in it are gone.
    """

    revision: int
    entries: tuple[Entry, ...] = ()
    deleted: tuple[str, ...] = ()
    full: bool = False


@dataclass(frozen=True, slots=True)
class Put:
    """Write `value`. With `lease` (a `Lease.id`) the key dies with that lease."""

    key: str
    value: bytes
    lease: str | None = None


@dataclass(frozen=True, slots=True)
class Delete:
    """Remove the key; nothing happens when it is absent."""

    key: str


@dataclass(frozen=True, slots=True)
class Expect:
    """The whole commit fails with `Conflict` unless the key's last write was at `revision` (0: the key is absent).

    Judged against the content before the commit, wherever it stands among the operations.
    """

    key: str
    revision: int


Operation = Put | Delete | Expect


@dataclass(frozen=True, slots=True)
class Scope:
    """What a list of prefixes covers, so that `key in scope` costs the depth of the key, not the number of prefixes.

    `trees` end in `/` or are empty (everything); `keys` are whole keys that no tree covers already.
    """

    keys: frozenset[str]
    trees: frozenset[str]

    @classmethod
    def of(cls, prefixes: Iterable[str]) -> Scope:
        """The scope of the prefixes, without those that another one covers. Raises StoreDenied for a bad prefix."""
        wanted = set(prefixes)
        for prefix in wanted:
            check_prefix(prefix)
        trees = frozenset(prefix for prefix in wanted if not prefix or prefix.endswith("/"))
        outer = frozenset(tree for tree in trees if not _below(tree, trees))
        return cls(keys=frozenset(key for key in wanted - trees if not _below(key, outer)), trees=outer)

    def __contains__(self, key: str) -> bool:
        return key in self.keys or _below(key, self.trees)


def _below(key: str, trees: frozenset[str]) -> bool:
    """Whether one of the trees covers the key; a tree does not lie below itself."""
    if "" in trees and key:
        return True
    end = key.find("/")
    while 0 <= end < len(key) - 1:
        if key[: end + 1] in trees:
            return True
        end = key.find("/", end + 1)
    return False


def check_key(key: str) -> None:
    """Raise StoreDenied unless every store can hold this key and every tool can print it.

    Refused: empty, more than 1024 bytes of UTF-8, control characters and line separators, and the segments that a
    path or URL would swallow (empty, `.` and `..`).
    """
    reason = _fault(key)
    if reason:
        raise StoreDenied(f"Not a key: {_shown(key)}: {reason}.", next_step="Use non-empty words separated by '/'.")


def check_prefix(prefix: str) -> None:
    """Raise StoreDenied unless the prefix is empty, a key, or a key and `/`."""
    if prefix:
        check_key(prefix.removesuffix("/"))


def check_operations(operations: Sequence[Operation], *, max_operations: int, max_value: int) -> None:
    """Raise StoreDenied for what no store may be asked to commit; every provider calls it first.

    Refused: too many operations, a bad key, a value of more than `max_value` bytes, and two writes of one key (their
    order would mean different things to different stores).
    """
    if len(operations) > max_operations:
        raise StoreDenied(
            f"A commit of {len(operations)} operations; this store takes {max_operations}.",
            next_step="Split the change.",
        )
    written: set[str] = set()
    for operation in operations:
        check_key(operation.key)
        if isinstance(operation, Expect):
            continue
        if operation.key in written:
            raise StoreDenied(f"{operation.key} is written twice in one commit.", next_step="Write each key once.")
        written.add(operation.key)
        if isinstance(operation, Put) and len(operation.value) > max_value:
            raise StoreDenied(
                f"{operation.key}: a value of {len(operation.value)} bytes; this store takes {max_value}.",
                next_step="Make the record smaller or split it.",
            )


def _fault(key: str) -> str:
    """What is wrong with the key, or nothing."""
    if not key:
        return "it is empty"
    if any(unicodedata.category(character) in _UNPRINTABLE for character in key):
        return "it holds a control character"
    if len(key.encode()) > MAX_KEY_BYTES:
        return f"it is longer than {MAX_KEY_BYTES} bytes"
    segments = key.split("/")
    if "" in segments:
        return "it holds an empty segment"
    if "." in segments or ".." in segments:
        return "it holds a segment '.' or '..'"
    return ""


def _shown(key: str) -> str:
    """The key fit for a message: escaped, and no longer than a line."""
    shown = ascii(key)
    return shown if len(shown) <= _SHOWN_CHARACTERS else f"{shown[:_SHOWN_CHARACTERS]}...'"


@dataclass(frozen=True, slots=True)
class StoreHealth:
    """`ok` with the server's version, or what is wrong, each with its next step, one sentence an item.

    With `ok` the store serves, and problems are what should be mended all the same.
    """

    ok: bool
    version: str
    problems: tuple[str, ...] = field(default=())


class Lease(Protocol):
    """A promise to the store that its holder lives. Keys bound to it go when it is not renewed within its ttl.

    A key put again without the lease is no longer bound to it.
    """

    @property
    def id(self) -> str:
        """What `Put.lease` names."""

    @property
    def ttl(self) -> timedelta:
        """How long the store waits for a renewal."""

    async def renew(self) -> None:
        """Start the ttl again. Raises LeaseLost when the store no longer knows it, StoreUnavailable when it is away."""

    async def revoke(self) -> None:
        """End it now, with its keys. Nothing happens when it is gone already."""


class Store(Protocol):
    """What every store offers. Raises StoreUnavailable, StoreDenied, and from `commit` Conflict and LeaseLost."""

    @property
    def max_operations(self) -> int:
        """How many operations one commit may hold."""

    @property
    def max_value(self) -> int:
        """How many bytes one value may have."""

    async def read(self, *prefixes: str) -> Snapshot:
        """Everything under any of the prefixes, at one revision. A prefix without a final `/` is a whole key."""

    def watch(self, prefixes: Sequence[str], *, after: int, gates: Sequence[str] = ()) -> AsyncIterator[Changes]:
        """Every change after the revision, for ever, without a gap; resumes by itself after an outage.

        `gates` are keys of it with which everything is written that has to be seen at once. A store that pays for each
        key that it waits for (Consul) waits for these alone, and looks at all else with them and every few seconds.

        Ends when the store is closed. A revision that the store does not know (compacted, or newer than its newest)
        is answered with `Changes.full`. Raises StoreUnavailable only when it cannot go on by itself.
        """

    async def commit(self, operations: Sequence[Operation]) -> int:
        """All operations or none. Returns the revision of the commit, which its keys now carry.

        A commit that changes nothing (only expectations, deletes of absent keys) makes no revision and returns the
        newest. Raises Conflict, LeaseLost (a `Put.lease` that is gone), StoreDenied (see `check_operations`).
        """

    async def lease(self, ttl: timedelta) -> Lease:
        """A new lease. Raises StoreDenied when the store cannot grant this ttl."""

    async def check(self) -> StoreHealth:
        """Which right or resource is missing, exactly. Raises StoreUnavailable when the store does not answer."""

    async def close(self) -> None:
        """Let go of connections and end the watches."""
