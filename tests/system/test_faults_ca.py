"""Faults of facts/security.md 3.3 in which the CA is away, by their numbers, with certificates that live for seconds."""

from __future__ import annotations

import asyncio
import time
from contextlib import contextmanager
from datetime import UTC, datetime

import pytest

from tests.system.apps import get
from tests.system.live import eventually
from tests.system.load import Calls, stand

pytestmark = [pytest.mark.timeout(300)]
KINDS = ("http kept", "http new", "tcp kept", "tcp new")


@contextmanager
def ca_away(mesh):
    """The CA cannot write its audit log, so it signs nothing."""
    audit = mesh.ca / "audit.jsonl"
    aside = mesh.ca / "aside.jsonl"
    audit.rename(aside)
    audit.mkdir()
    try:
        yield
    finally:
        audit.rmdir()
        aside.rename(audit)


def ends(agent):
    """When each certificate of this host ends."""
    return {name: datetime.fromisoformat(svid["expires_at"]) for name, svid in agent.status()["svids"].items()}


async def until(moment):
    await asyncio.sleep(max(0.0, (moment - datetime.now(UTC)).total_seconds()))


async def test_fault_r13_a_ca_that_is_away_past_half_of_a_life_costs_no_request_and_is_told_at_66_percent():
    async with stand("20s") as it, Calls(it.http, it.tcp) as calls:
        await eventually(lambda: len(it.agent.events("svid_renewed")) >= 6, 40)
        with ca_away(it.mesh):
            before = ends(it.agent)
            first = min(before.values())
            await eventually(lambda: it.agent.events("svid_overdue"), 20)
            told = datetime.fromisoformat(it.agent.events("svid_overdue")[0]["timestamp"])
            left = first - told
            assert left.total_seconds() < 20 * 1.1 * 0.35
            assert [key for key in it.agent.status()["problems"] if key.startswith("svid/")]
            await asyncio.sleep(max(0.0, (first - datetime.now(UTC)).total_seconds() - 3.0))
        back = time.monotonic()
        await eventually(lambda: all(end > before[name] for name, end in ends(it.agent).items()), 20)
        assert time.monotonic() - back < 20
        await eventually(lambda: not it.agent.status()["problems"] and not it.called.status()["problems"], 5)
        assert not calls.failed() and calls.count() > 200 * 15


async def test_fault_r14_a_ca_that_is_away_past_the_end_closes_what_is_new_and_all_recovers_when_it_is_back():
    async with stand("10s") as it, Calls(it.http, it.tcp) as calls:
        with ca_away(it.mesh):
            await until(max((*ends(it.agent).values(), *ends(it.called).values())))
            ended = time.monotonic()
            await asyncio.sleep(4.0)
            fresh = [answer for kind, began, answer in calls.answers if kind == "tcp new" and began > ended + 0.5]
            assert fresh and "ok" not in fresh, "new connections fail closed"
            open_ones = [answer for kind, began, answer in calls.answers if kind == "tcp kept" and began > ended]
            assert set(open_ones) == {"ok"}, "what was proven when a connection was made holds for that connection"
            assert (await get(it.orders)).status != 200
        back = time.monotonic()
        await eventually(lambda: all(working(calls, kind) for kind in KINDS), 15, str(calls.failed()))
        recovered = time.monotonic() - back
        settled = time.monotonic()
        await asyncio.sleep(3.0)
        assert not calls.failed(since=settled), calls.failed(since=settled)
        assert recovered < 15
        assert not it.agent.status()["problems"] and it.agent.status()["envoy"]["restarts"] == 0


def working(calls, kind, last=5):
    """Whether the newest calls of a kind were answered."""
    answers = [answer for each, _, answer in calls.answers if each == kind][-last:]
    return len(answers) == last and set(answers) == {"ok"}
