"""This host in the store: its lease, its instances, its report. Whatever the store forgets is put back."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Never

import structlog

from meshagent.errors import LeaseLost, StoreDenied, StoreUnavailable
from meshagent.model.service import Instance
from meshagent.state.catalog import commit_all, delete_instance, put_instance, put_report
from meshagent.state.keys import Keys
from meshagent.state.records import ReportRecord
from meshagent.store.base import Lease, Operation, Store

_log = structlog.get_logger(__name__)
TTL = timedelta(seconds=10)
_LONGEST_PAUSE = 2.0


class Membership:
    """Keeps what is offered in the store, under one lease."""

    def __init__(self, store: Store, keys: Keys, ttl: timedelta = TTL) -> None:
        self._store = store
        self._keys = keys
        self._ttl = ttl
        self._lease: Lease | None = None
        self._instances: Mapping[tuple[str, str], Instance] = {}
        self._report: ReportRecord | None = None
        self._later: ReportRecord | None = None
        self._written: dict[tuple[str, str], Instance] = {}
        self._written_report: ReportRecord | None = None
        self._wake = asyncio.Event()
        self._settled = asyncio.Condition()
        self.last_error = ""

    def offer(self, instances: Mapping[tuple[str, str], Instance]) -> None:
        """Say which instances there are now, by service and id."""
        self._instances = dict(instances)
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
        """Wait until the store holds what was offered."""
        async with self._settled:
            await self._settled.wait_for(lambda: self._written == self._instances and self._lease is not None)

    async def run(self) -> Never:
        """Write and renew, for ever."""
        attempt = 0
        renew: Callable[[], float] = asyncio.get_running_loop().time
        due = renew()
        while True:
            self._wake.clear()
            try:
                if renew() >= due:
                    await self._renew()
                    due = renew() + self._ttl.total_seconds() * random.uniform(0.25, 0.33)  # noqa: S311 - jitter
                await self._write()
                attempt = 0
                pause = due - renew()
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

    async def leave(self) -> None:
        """Take everything out of the store. An unreachable store is left to the lease."""
        try:
            if self._lease:
                await self._lease.revoke()
        except (StoreUnavailable, StoreDenied, LeaseLost) as error:
            _log.warning("lease_not_revoked", problem=str(error))
        self._forget()

    async def _renew(self) -> None:
        if self._lease is None:
            self._lease = await self._store.lease(self._ttl)
        else:
            await self._lease.renew()
        self._report = self._later or self._report

    async def _write(self) -> None:
        """Bring the store up to what is offered."""
        if self._lease is None:
            return
        instances, report = dict(self._instances), self._report
        new = [each for place, each in instances.items() if self._written.get(place) != each]
        operations: list[Operation] = [put_instance(self._keys, each, self._lease.id) for each in new]
        for place, each in self._written.items():
            if place not in instances:
                operations.append(delete_instance(self._keys, each.service, each.host, each.id))
        if report is not None and report != self._written_report:
            operations.append(put_report(self._keys, report, self._lease.id))
        if operations:
            await commit_all(self._store, operations)
        self.last_error = ""
        async with self._settled:
            self._written, self._written_report = instances, report
            self._settled.notify_all()

    def _forget(self) -> None:
        self._lease = None
        self._written, self._written_report = {}, None

    def _failed(self, problem: str) -> None:
        if problem != self.last_error:
            _log.warning("registration_delayed", problem=problem)
        self.last_error = problem
