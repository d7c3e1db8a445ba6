"""What is told to the watchdog: when each part of the agent last moved."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from meshagent.agent.liveness import Liveness
from meshagent.errors import EnvoyFailed, StoreUnavailable
from meshagent.store.lazy import LazyStore


class Clock:
    """The event loop's, as the test moves it."""

    def __init__(self, monkeypatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: self.now)


class Admin:
    def __init__(self) -> None:
        self.answers = True

    async def server_info(self):
        if not self.answers:
            raise EnvoyFailed("no answer")
        return {}


@pytest.fixture
async def parts(monkeypatch):
    async def away():
        raise StoreUnavailable("away")

    envoy = SimpleNamespace(pid=7, admin=Admin())
    xds = SimpleNamespace(streams=["one"])
    store = LazyStore(away)
    return SimpleNamespace(
        envoy=envoy, xds=xds, store=store, clock=Clock(monkeypatch), liveness=Liveness(store, envoy, xds)
    )


async def after(parts, seconds: float):
    """The signs, with a look now and one after that time."""
    await parts.liveness.look()
    parts.clock.now += seconds
    return await parts.liveness.look()


async def test_a_store_that_answers_that_it_is_away_moves(parts):
    await parts.liveness.look()
    parts.clock.now += 50
    assert not (await parts.store.check()).ok
    assert (await parts.liveness.look()).store == 0


async def test_a_store_that_nobody_asks_after_does_not(parts):
    assert (await after(parts, 50)).store == 50


async def test_an_envoy_that_answers_and_has_its_stream_moves(parts):
    signs = await after(parts, 50)
    assert (signs.envoy, signs.stream) == (0, 0)


async def test_an_envoy_that_runs_and_does_not_answer_counts_against_envoy_alone(parts):
    parts.envoy.admin.answers, parts.xds.streams = False, []
    signs = await after(parts, 50)
    assert (signs.envoy, signs.stream) == (50, 0)


async def test_an_envoy_that_is_not_there_counts_against_nobody(parts):
    parts.envoy.pid, parts.xds.streams = 0, []
    signs = await after(parts, 50)
    assert (signs.envoy, signs.stream) == (0, 0)


async def test_an_envoy_without_a_stream_to_us_counts(parts):
    parts.xds.streams = []
    signs = await after(parts, 50)
    assert (signs.envoy, signs.stream) == (0, 50)
