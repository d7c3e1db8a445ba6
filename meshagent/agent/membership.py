"""This host in the mesh: its lease and report in the store, its instances in the catalog. What they forget is put back."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import timedelta
from typing import Never

import structlog

from meshagent.catalog.base import Catalog, Offer
from meshagent.errors import LeaseLost, StoreDenied, StoreUnavailable
from meshagent.model.service import Instance
from meshagent.state.catalog import put_report
from meshagent.state.keys import Keys
from meshagent.state.records import ReportRecord
from meshagent.store.base import Changes, Lease, Store

_log = structlog.get_logger(__name__)
_LONGEST_PAUSE = 2.0
# Of a lease's life, so that it survives renewals that fail: they are tried again within 2 s. A lease that is forgotten is
# noticed by the watch below.
_RENEWED = (0.38, 0.46)


class Membership:
    """Keeps what is offered in the catalog, and one lease for the host in the store."""

    def __init__(self, store: Store, keys: Keys, catalog: Catalog, ttl: timedelta) -> None:
        self._store = store
        self._catalog = catalog
        self._keys = keys
        self._ttl = ttl
        self._lease: Lease | None = None
        self._offers: Mapping[tuple[str, str], Offer] = {}
        self._report: ReportRecord | None = None
        self._later: ReportRecord | None = None
        self._written: dict[tuple[str, str], Offer] = {}
        self._tried: dict[tuple[str, str], Offer] = {}  # may be there: an answer was lost
        self._written_report: ReportRecord | None = None
        self._wake = asyncio.Event()
        self._settled = asyncio.Condition()
        self._reported = asyncio.Event()
        self._guarded = ("", 0)  # the key of the report, and the revision of the store at which it was first there
        self._doubted = self._left = False
        self.last_error = ""

    @property
    def lease(self) -> str:
        """The id of the host's lease; empty while there is none."""
        return self._lease.id if self._lease else ""

    def offer(self, offers: Mapping[tuple[str, str], Offer]) -> None:
        """Say which instances there are now, by service and id."""
        self._offers = dict(offers)
        self._wake.set()

    def report(self, report: ReportRecord, *, urgent: bool) -> None:
        """Say what the host reports now.

        One that differs in its time alone is not written. One that differs in its revision alone, because something
        changed that does not concern this host, waits for the next renewal: else each change would be a write a host.
        """
        known = self._later or self._report
        if known and report.model_copy(update={"at": known.at}) == known:
            return
        self._later = report
        if urgent or not known or report.model_copy(update={"at": known.at, "revision": known.revision}) != known:
            self._report = report
            self._wake.set()

    async def settled(self) -> None:
        """Wait until the catalog holds what was offered."""
        async with self._settled:
            await self._settled.wait_for(lambda: self._written == self._offers and self._lease is not None)

    async def run(self) -> Never:
        """Write and renew, for ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._guard())
            await self._keep()
        raise AssertionError("keeps for ever")

    async def _keep(self) -> Never:
        attempt = 0
        now: Callable[[], float] = asyncio.get_running_loop().time
        due = now()
        while not self._left:
            self._wake.clear()
            try:
                if (began := now()) >= due or self._doubted:
                    await self._renew()
                    # From when it was sent: on a slow line the answer comes late, and the lease's time runs already.
                    due = began + self._ttl.total_seconds() * random.uniform(*_RENEWED)  # noqa: S311 - jitter
                await self._write()
                attempt = 0
                pause = due - now()
            except LeaseLost:
                _log.warning("lease_lost")
                self._forget()
                due = pause = 0.0
            except (StoreUnavailable, StoreDenied) as error:
                pause = random.uniform(0.05, min(_LONGEST_PAUSE, 0.1 * 2**attempt))  # noqa: S311 - jitter
                attempt += 1
                self._failed(str(error))
            try:
                async with asyncio.timeout(max(pause, 0.0)):
                    await (self._wake.wait() if attempt == 0 else asyncio.sleep(_LONGEST_PAUSE + 1))
            except TimeoutError:
                pass
        await asyncio.Event().wait()
        raise AssertionError("nobody sets it")

    async def _guard(self) -> Never:
        """Have the lease looked at as soon as the store drops the report, which is bound to it.

        So a lease that the store forgot is made again at once, and renewals need not come often.
        """
        await self._reported.wait()
        (key, after), attempt = self._guarded, 0
        while True:
            try:
                async for changes in self._store.watch([key], after=after):
                    after, attempt = changes.revision, 0
                    if _drops(changes, key):
                        self._doubted = True
                        self._wake.set()
            except (StoreUnavailable, StoreDenied):
                attempt += 1
            await asyncio.sleep(random.uniform(0.5, _LONGEST_PAUSE * 2 ** min(attempt, 4)))  # noqa: S311 - jitter

    async def leave(self, earlier: Iterable[Instance] = ()) -> None:
        """Take everything out, for good. A catalog or store that cannot be reached is left to time.

        `earlier`: instances that this agent may have left there in an earlier life, before it crashed.
        """
        self._left = True
        self._wake.set()
        try:
            known = {place: offer.instance for place, offer in (self._tried | self._written).items()}
            more = [each for each in earlier if (each.service, each.id) not in known]
            await self._catalog.deregister([*known.values(), *more])
            if self._lease:
                await self._lease.revoke()
        except (StoreUnavailable, StoreDenied, LeaseLost) as error:
            _log.warning("lease_not_revoked", problem=str(error))
        self._forget()

    async def _renew(self) -> None:
        if self._lease is None:
            self._lease = await self._store.lease(self._ttl)
        else:
            instances = [offer.instance for offer in self._written.values()]
            often = self._ttl.total_seconds() * _RENEWED[0]
            # At once, for on a slow line one after the other is too late for the last.
            await at_once(repeated(self._lease.renew, often), repeated(lambda: self._catalog.renew(instances), often))
        if self._doubted:
            self._doubted, self._written_report = False, None
        self._report = self._later or self._report

    async def _write(self) -> None:
        """Bring the catalog and the store up to what is offered."""
        if self._lease is None:
            return
        offers, report = dict(self._offers), self._report
        if gone := [each.instance for place, each in (self._tried | self._written).items() if place not in offers]:
            await self._catalog.deregister(gone)
        if new := {place: each for place, each in offers.items() if self._written.get(place) != each}:
            self._tried |= new
            await self._catalog.register(list(new.values()), self._lease.id)
        if report is not None and report != self._written_report:
            revision = await self._store.commit([put_report(self._keys, report, self._lease.id)])
            if not self._reported.is_set():
                self._guarded = (self._keys.report(report.host), revision)
                self._reported.set()
        self.last_error = ""
        async with self._settled:
            self._written, self._tried, self._written_report = offers, {}, report
            self._settled.notify_all()

    def _forget(self) -> None:
        self._lease = None
        self._written, self._written_report = {}, None

    def _failed(self, problem: str) -> None:
        if problem != self.last_error:
            _log.warning("registration_delayed", problem=problem)
        self.last_error = problem


async def repeated(call: Callable[[], Awaitable[None]], every: float) -> None:
    """Have a harmless call done, begun again after `every` seconds without an answer, which may be all that was lost.

    Raises what the one raised that ends first.
    """
    calls: set[asyncio.Future[None]] = set()
    try:
        while True:
            calls.add(asyncio.ensure_future(call()))
            done, _ = await asyncio.wait(calls, timeout=every, return_when=asyncio.FIRST_COMPLETED)
            if done:
                return done.pop().result()
    finally:
        for each in calls:
            each.cancel()
        await asyncio.gather(*calls, return_exceptions=True)


async def at_once(*calls: Awaitable[None]) -> None:
    """Have all of them done, whatever becomes of the others. Raises what the first in this order that failed raised."""
    for outcome in await asyncio.gather(*calls, return_exceptions=True):
        if outcome is not None:
            raise outcome


def _drops(changes: Changes, key: str) -> bool:
    """Whether the key is gone with the changes."""
    return key in changes.deleted or (changes.full and all(entry.key != key for entry in changes.entries))
