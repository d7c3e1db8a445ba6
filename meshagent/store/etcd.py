"""The etcd store: keys as they are, commits as its transactions, leases as its leases, revisions as its revisions.

A revision is etcd's own (`header.revision`, and `mod_revision` of a key). All of it holds for 3.4 and later.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from datetime import timedelta

import structlog

from meshagent.errors import LeaseLost, StoreDenied
from meshagent.store.access import Access
from meshagent.store.base import Changes, Operation, Scope, Snapshot, StoreHealth, check_operations
from meshagent.store.etcd_flaws import rights_problem
from meshagent.store.etcd_kv import (
    MAX_OPERATIONS,
    MAX_VALUE,
    conflict_of,
    lease_name,
    lease_number,
    named,
    transaction_of,
)
from meshagent.store.etcd_reading import Reading
from meshagent.store.etcd_watching import Watching
from meshagent.wire import etcd_pb2 as pb
from meshagent.wire.etcd import Etcd, open_etcd
from meshagent.wire.etcd_calls import COMPACT, GRANT, READ, REVOKE, STATUS, WRITE, Behind

log = structlog.get_logger(__name__)

_OPEN_TO_ALL = (
    "etcd's authentication is off, so anyone who reaches it may change policy: see `etcdctl auth enable`,"
    " or let an operator's key sign policy (policy_public_keys)."
)


async def open_url(url: str, access: Access) -> EtcdStore:
    """The store at `etcd://host:port[,host:port][?tls=true]`; it need not answer yet.

    Raises UsageProblem for a bad URL, StoreDenied for TLS files or a password that cannot be used.
    """
    return EtcdStore(open_etcd(url, access), guarded=bool(access.username))


class EtcdLease:
    """A lease of etcd."""

    def __init__(self, etcd: Etcd, number: int, ttl: timedelta) -> None:
        self.id = lease_name(number)
        self.ttl = ttl
        self._etcd = etcd

    async def renew(self) -> None:
        """Start the ttl again. Raises LeaseLost when etcd no longer knows it, StoreUnavailable when it is away."""
        await self._etcd.keep_alive(lease_number(self.id))

    async def revoke(self) -> None:
        """End it now, with its keys."""
        try:
            await self._etcd.call(REVOKE, pb.LeaseRevokeRequest(ID=lease_number(self.id)))
        except LeaseLost:
            return


class EtcdStore:
    """A `Store` in etcd. Belongs to the event loop that opened it. `guarded`: it logs in as a user."""

    max_operations = MAX_OPERATIONS
    max_value = MAX_VALUE

    def __init__(self, etcd: Etcd, *, guarded: bool) -> None:
        self._etcd = etcd
        self._guarded = guarded
        self._reading = Reading(etcd)
        self._warned = ""

    async def read(self, *prefixes: str) -> Snapshot:
        """Everything under any of the prefixes, at one revision. Raises StoreDenied for what may not be read."""
        return await self._reading.read(Scope.of(prefixes))

    def watch(self, prefixes: Sequence[str], *, after: int, gates: Sequence[str] = ()) -> AsyncIterator[Changes]:  # noqa: ARG002
        """Every change after the revision, for ever, until the store is closed. Raises StoreDenied."""
        return self._watch(Scope.of(prefixes), after)

    async def commit(self, operations: Sequence[Operation]) -> int:
        """All operations or none. Returns the revision. Raises Conflict, LeaseLost and StoreDenied."""
        wanted = tuple(operations)
        check_operations(wanted, max_operations=self.max_operations, max_value=self.max_value)
        ask = transaction_of(wanted)
        writes = any(each.WhichOneof("request") != "request_range" for each in ask.success)
        try:
            answer = await self._etcd.call(WRITE if writes else READ, ask)
        except StoreDenied as error:
            if "permission denied" not in error.message:
                raise
            raise StoreDenied(
                f"The user may not write {named(wanted)}.",
                next_step="Grant its role the right: etcdctl role grant-permission --prefix ROLE readwrite PLACE",
            ) from None
        if not answer.succeeded:
            raise conflict_of(wanted, answer)
        return answer.header.revision

    async def lease(self, ttl: timedelta) -> EtcdLease:
        """A new lease of whole seconds: of this ttl or more, for etcd takes none shorter than 1.5 elections."""
        seconds = math.ceil(ttl.total_seconds())
        if seconds <= 0:
            raise StoreDenied(f"A lease of {ttl.total_seconds():g} s cannot live.", next_step="Ask for a longer one.")
        granted = await self._etcd.call(GRANT, pb.LeaseGrantRequest(TTL=seconds))
        return EtcdLease(self._etcd, granted.ID, timedelta(seconds=granted.TTL))

    async def check(self) -> StoreHealth:
        """Whether the member has a leader and etcd knows the user. Raises StoreUnavailable when no member answers.

        Rights that this release does not enforce are told among the problems, though it serves: see etcd_flaws.py.
        """
        try:
            await self._etcd.sign_in()
            status = await self._etcd.call(STATUS, pb.StatusRequest())
        except StoreDenied as error:
            return StoreHealth(ok=False, version="etcd", problems=(f"{error} {error.next_step}",))
        wrong = [f"etcd reports: {problem}." for problem in status.errors]
        if not status.leader:
            wrong.append("The etcd cluster has no leader: see `etcdctl endpoint status --cluster`.")
        doubts = self._doubts(status.version)
        return StoreHealth(ok=not wrong, version=f"etcd {status.version}", problems=(*wrong, *doubts))

    async def close(self) -> None:
        """End the watches and let go of the connections."""
        await self._etcd.close()

    async def compact(self) -> None:
        """Forget the history up to now, as etcd does by itself where --auto-compaction-retention is set."""
        newest = await self._etcd.call(READ, pb.TxnRequest())
        try:
            await self._etcd.call(COMPACT, pb.CompactionRequest(revision=newest.header.revision))
        except Behind:
            return  # it was done already

    async def _watch(self, scope: Scope, after: int) -> AsyncIterator[Changes]:
        if self._etcd.closed:
            return
        async with aclosing(Watching(self._etcd, self._reading, scope, after).run()) as told:
            async for changes in told:
                yield changes

    def _doubts(self, version: str) -> tuple[str, ...]:
        """What one should know of the rights of users here, logged once."""
        if not self._guarded:
            return ()
        doubt = _OPEN_TO_ALL if self._etcd.auth_off else rights_problem(version)
        if doubt and doubt != self._warned:
            log.warning("store_rights_doubted", version=version, problem=doubt)
        self._warned = doubt
        return (doubt,) if doubt else ()
