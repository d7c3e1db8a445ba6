"""The store protocol: bytes under keys, six methods, no mesh words.

A store is level-triggered: a watcher that lost its place gets the whole of its prefixes again (`Changes.full`).
Every provider is held to one suite, tests/conformance/test_store.py.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Protocol


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

    With `full` set, `entries` is the whole content (the watcher lost its place): keys that are not in it are gone.
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
    """The whole commit fails with `Conflict` unless the key's last write was at `revision` (0: the key is absent)."""

    key: str
    revision: int


Operation = Put | Delete | Expect


@dataclass(frozen=True, slots=True)
class StoreHealth:
    """`ok` with the server's version, or what is wrong, each with its next step, one sentence an item."""

    ok: bool
    version: str
    problems: tuple[str, ...] = field(default=())


class Lease(Protocol):
    """A promise to the store that its holder lives. Keys bound to it go when it is not renewed within its ttl."""

    id: str
    ttl: timedelta

    async def renew(self) -> None:
        """Start the ttl again. Raises LeaseLost when the store no longer knows it, StoreUnavailable when it is away."""

    async def revoke(self) -> None:
        """End it now, with its keys."""


class Store(Protocol):
    """What every store offers. Raises StoreUnavailable, StoreDenied, and from `commit` Conflict."""

    max_operations: int
    max_value: int

    async def read(self, *prefixes: str) -> Snapshot:
        """Everything under any of the prefixes, at one revision. A prefix may be a whole key."""

    def watch(self, prefixes: Sequence[str], *, after: int) -> AsyncIterator[Changes]:
        """Every change after the revision, for ever, without a gap; resumes by itself after an outage.

        Raises StoreUnavailable only when it cannot go on by itself.
        """

    async def commit(self, operations: Sequence[Operation]) -> int:
        """All operations or none. Returns the revision of the commit. Raises Conflict."""

    async def lease(self, ttl: timedelta) -> Lease:
        """A new lease."""

    async def check(self) -> StoreHealth:
        """Whether the store answers and which right is missing, exactly."""

    async def close(self) -> None:
        """Let go of connections and end the watches."""
