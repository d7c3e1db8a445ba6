"""Waiting until a change is in force on every proxy that it concerns."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Collection
from dataclasses import dataclass

from meshagent.state.catalog import read_reports
from meshagent.state.changes import Name
from meshagent.state.keys import Keys
from meshagent.store.base import Store


@dataclass(frozen=True, slots=True)
class Waited:
    """Which hosts have the revision in force, which have not, and what those refuse, by host."""

    applied: tuple[str, ...]
    missing: tuple[str, ...]
    rejected: dict[str, dict[str, str]]


async def wait_applied(store: Store, keys: Keys, revision: int, changed: Collection[Name], timeout: float) -> Waited:
    """Wait until every live host that the change concerns reports the revision as applied, at most `timeout` seconds.

    An intention concerns the hosts of its destination (of a name outside the mesh: its callers), a service document its
    hosts and its callers, a route and an external its callers, a rollout its hosts and its callers,
    a gateway those who serve it, the mesh everybody.
    """
    changed = {*changed, *await _outside(store, keys, changed)}
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


async def _outside(store: Store, keys: Keys, changed: Collection[Name]) -> set[Name]:
    """The names outside the mesh whose intentions changed."""
    places = {keys.document("external", name): name for kind, name in changed if kind == "intention"}
    held = (await store.read(*places)).entries if places else {}
    return {("external", places[key]) for key in held if key in places}


async def _look(store: Store, keys: Keys, revision: int, changed: Collection[Name]) -> Waited:
    reports = await read_reports(store, keys)
    concerned = [report for report in reports if _concerns(changed, report.services, report.upstreams, report.gateways)]
    behind = {report.host: report.rejected for report in concerned if report.revision < revision}
    ahead = {report.host: _refused(changed, report.rejected) for report in concerned if report.host not in behind}
    refused = {host: found for host, found in (behind | ahead).items() if found}
    applied = tuple(host for host, found in ahead.items() if not found)
    return Waited(applied, tuple(sorted(behind | refused)), refused)


def _refused(changed: Collection[Name], rejected: dict[str, str]) -> dict[str, str]:
    """What a proxy refuses that the change may have to do with: resources are named after the services they are for."""
    names = {name for _, name in changed}
    everything = any(kind == "mesh" or name == "*" for kind, name in changed)
    return {name: why for name, why in rejected.items() if everything or names & set(re.split("[/:]", name))}


def _concerns(
    changed: Collection[Name], services: Collection[str], upstreams: Collection[str], gateways: Collection[str]
) -> bool:
    for kind, name in changed:
        if kind == "mesh" or (kind == "intention" and (name == "*" or name in services)):
            return True
        if kind in ("service", "rollout") and name in services:
            return True
        if kind in ("service", "route", "external", "rollout") and name in upstreams:
            return True
        if kind == "gateway" and name in gateways:
            return True
    return False
