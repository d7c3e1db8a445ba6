"""The Consul store: keys in Consul's key-value store, commits as its transactions, leases as its sessions.

Consul keeps no history. A watch that starts where this client did not read or watch before gets the whole of its
prefixes, unless nothing has happened in them since. A revision is Consul's index of the last write to any key.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import timedelta

from meshagent.errors import LeaseLost, StoreDenied, StoreUnavailable
from meshagent.store.access import Access
from meshagent.store.base import Changes, Operation, Put, Scope, Snapshot, StoreHealth, check_operations
from meshagent.store.consul_following import Followers
from meshagent.store.consul_kv import MAX_OPERATIONS, MAX_VALUE, Memory, refusal_of, revision_of, revisions_of, steps_of
from meshagent.store.consul_reading import Reading
from meshagent.store.consul_watching import Watch
from meshagent.wire.consul import Consul, open_consul

# Consul's own default for the shortest life of a session. It ends one between one and two lives after its last renewal.
SHORTEST_TTL = timedelta(seconds=10)
_NOWHERE = "/v1/session/info/00000000-0000-4000-8000-000000000000"
_SAID_AT_ONCE = 1.0  # seconds: whoever is asked knows it by itself
_OK = 200
_ABSENT = 404


async def open_url(url: str, access: Access) -> ConsulStore:
    """The store at `consul://host:port[,host:port][?dc=..&ns=..&partition=..&tls=true]`; it need not answer yet.

    Raises UsageProblem for a bad URL, StoreDenied for TLS files that cannot be used.
    """
    return ConsulStore(open_consul(url, access))


class ConsulLease:
    """A session that nothing but its time ends: no health check of the Consul node takes part."""

    def __init__(self, consul: Consul, session: str, ttl: timedelta) -> None:
        self.id = session
        self.ttl = ttl
        self._consul = consul

    async def renew(self) -> None:
        """Start the ttl again. Raises LeaseLost when Consul no longer knows it, StoreUnavailable when it is away."""
        answer = await self._consul.put(f"/v1/session/renew/{self.id}")
        if answer.status == _ABSENT:
            raise LeaseLost(
                f"The lease was not renewed within {self.ttl.total_seconds():g} s and has ended.",
                next_step="Make a new lease and write its keys again.",
            )

    async def revoke(self) -> None:
        """End it now, with its keys."""
        await self._consul.put(f"/v1/session/destroy/{self.id}")


class ConsulStore:
    """A `Store` in Consul. Belongs to the event loop that it is first used on."""

    max_operations = MAX_OPERATIONS
    max_value = MAX_VALUE

    def __init__(self, consul: Consul) -> None:
        self._consul = consul
        self._reading = Reading(consul)
        self._memory = Memory()
        self._watches: set[Followers] = set()
        self._version = ""

    async def read(self, *prefixes: str) -> Snapshot:
        """Everything under any of the prefixes, at one revision. Raises StoreDenied for what may not be read."""
        scope = Scope.of(prefixes)
        snapshot = await self._reading.read(scope)
        self._memory.keep(scope, snapshot.revision, revisions_of(snapshot.entries))
        return snapshot

    def watch(self, prefixes: Sequence[str], *, after: int, gates: Sequence[str] = ()) -> AsyncIterator[Changes]:
        """Every change after the revision, for ever, until the store is closed. Raises StoreDenied."""
        return self._watch(Scope.of(prefixes), after, frozenset(gates))

    async def commit(self, operations: Sequence[Operation]) -> int:
        """All operations or none. Returns the revision. Raises Conflict, LeaseLost and StoreDenied."""
        check_operations(operations, max_operations=self.max_operations, max_value=self.max_value)
        steps = steps_of(operations)
        writes = any(step.writes for step in steps)
        answer = await self._reading.transaction([step.form for step in steps], writes=writes) if steps else {}
        if answer.get("Errors"):
            raise refusal_of(steps, answer)
        if writes:
            revision = revision_of(answer)
            if len(operations) == 1 and isinstance(operations[0], Put):
                # Who writes one key and then watches it need not read it.
                self._memory.keep(Scope.of([operations[0].key]), revision, {operations[0].key: revision})
            return revision
        return await self._reading.newest(Scope.of(operation.key for operation in operations))

    async def lease(self, ttl: timedelta) -> ConsulLease:
        """A new lease of this ttl, or of 10 s where Consul takes no shorter one. Raises StoreDenied."""
        if ttl <= timedelta(0):
            raise StoreDenied(f"A lease of {ttl.total_seconds():g} s cannot live.", next_step="Ask for a longer one.")
        try:
            return await self._session(ttl)
        except StoreDenied:
            if ttl >= SHORTEST_TTL:
                raise
            return await self._session(SHORTEST_TTL)

    async def check(self) -> StoreHealth:
        """Whether the cluster has a leader and knows the token. Raises StoreUnavailable when no agent answers."""
        try:
            await self._consul.get(_NOWHERE)  # the leader answers it, whatever the token may do, if it is one at all
        except StoreDenied as error:
            return StoreHealth(ok=False, version=await self._said_version(), problems=(f"{error} {error.next_step}",))
        except StoreUnavailable:
            if not await self._leaderless():
                raise
            problem = "The Consul cluster has no leader: see `consul operator raft list-peers`."
            return StoreHealth(ok=False, version=await self._said_version(), problems=(problem,))
        return StoreHealth(ok=True, version=await self._said_version())

    async def close(self) -> None:
        """End the watches and let go of the connections."""
        for followers in tuple(self._watches):
            await followers.close()
        await self._consul.close()

    def forget(self) -> None:
        """Drop what is remembered of earlier reads and watches: a watch that starts now may get the whole."""
        self._memory.forget()

    async def _watch(self, scope: Scope, after: int, gates: frozenset[str]) -> AsyncIterator[Changes]:
        if self._consul.closed:
            return
        async with Followers(self._consul, scope, gates, self._memory.recall(scope, after), after) as followers:
            self._watches.add(followers)
            try:
                watch = Watch(followers, self._reading, self._memory, scope, gated=bool(gates))
                async for changes in watch.run(after):
                    yield changes
            finally:
                self._watches.discard(followers)

    async def _session(self, ttl: timedelta) -> ConsulLease:
        wanted = {
            "Name": "meshagent",
            "TTL": f"{ttl.total_seconds():.3f}s",
            "Behavior": "delete",
            # A key is free for the next holder as soon as its lease has ended.
            "LockDelay": "0s",
            # An agent of Consul that restarts, or a flap of gossip, must not take what serves out of the catalog.
            "NodeChecks": [],
            "Checks": [],
        }
        answer = await self._consul.put("/v1/session/create", body=wanted)
        if answer.status != _OK:
            raise StoreDenied(
                f"Consul grants no lease of {ttl.total_seconds():g} s: {answer.body.decode(errors='replace').strip()}",
                next_step="Ask for a ttl that its session_ttl_min allows.",
            )
        return ConsulLease(self._consul, str(answer.json()["ID"]), ttl)

    async def _leaderless(self) -> bool:
        """Whether that is why nothing is answered."""
        try:
            return not (await self._consul.get("/v1/status/leader", deadline=_SAID_AT_ONCE)).json()
        except (StoreDenied, StoreUnavailable):
            return False

    async def _said_version(self) -> str:
        """The server's version, as far as the token may know it."""
        if not self._version:
            try:
                told = (await self._consul.get("/v1/agent/self")).json()
                self._version = f"Consul {told['Config']['Version']}"
            except (StoreDenied, StoreUnavailable):
                return "Consul, of a version that the token may not see"
        return self._version
