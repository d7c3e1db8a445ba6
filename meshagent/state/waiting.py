"""Waiting until a change is in force on every proxy that it concerns."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import dataclass

from meshagent.state.catalog import read_reports
from meshagent.state.changes import Name
from meshagent.state.keys import Keys
from meshagent.store.base import Store


@dataclass(frozen=True, slots=True)
class Waited:
    """Which hosts have applied the revision, which have not yet, and what those refuse, by host."""

    applied: tuple[str, ...]
    missing: tuple[str, ...]
    rejected: dict[str, dict[str, str]]


async def wait_applied(store: Store, keys: Keys, revision: int, changed: Collection[Name], timeout: float) -> Waited:
    """Wait until every live host that the change concerns reports the revision as applied, at most `timeout` seconds.

    An intention concerns the hosts of its destination, a service document its hosts and its callers, the mesh everybody.
    """
    after = (await store.read(keys.reports)).revision
    waited = await _look(store, keys, revision, changed)
    if not waited.missing:
        return waited
    try:
        async with asyncio.timeout(timeout):
            async for _ in store.watch((keys.reports,), after=after):
                waited = await _look(store, keys, revision, changed)
                if not waited.missing:
                    break
    except TimeoutError:
        pass
    return waited


async def _look(store: Store, keys: Keys, revision: int, changed: Collection[Name]) -> Waited:
    reports = await read_reports(store, keys)
    concerned = [report for report in reports if _concerns(changed, report.services, report.upstreams)]
    applied = tuple(report.host for report in concerned if report.revision >= revision)
    behind = {report.host: report.rejected for report in concerned if report.revision < revision}
    rejected = {host: found for host, found in behind.items() if found}
    return Waited(applied, tuple(sorted(behind)), rejected)


def _concerns(changed: Collection[Name], services: Collection[str], upstreams: Collection[str]) -> bool:
    for kind, name in changed:
        if kind == "mesh" or (kind == "intention" and (name == "*" or name in services)):
            return True
        if kind == "service" and (name in services or name in upstreams):
            return True
    return False
