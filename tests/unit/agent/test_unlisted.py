"""Upstreams that nobody has listed yet are left out, for a while."""

from __future__ import annotations

import asyncio

import pytest

from meshagent.agent import unlisted
from meshagent.agent.unlisted import Unlisted
from meshagent.model.mesh import Mesh
from meshagent.model.service import ServiceDefinition
from meshagent.model.world import Local, World

CALLS = [{"service": "db", "local_port": 9001}, {"service": "api", "local_port": 9002}]
WEB = Local(ServiceDefinition.model_validate({"name": "web", "port": 8080, "upstreams": CALLS}), 21000)


def world(*listed):
    return World(1, Mesh(), instances=dict.fromkeys(listed, ()))


def called(locals_):
    return [upstream.service for each in locals_ for upstream in each.definition.upstreams]


async def test_what_nobody_has_listed_yet_is_left_out_and_the_rest_is_as_it_was():
    leave_out = Unlisted(lambda: None).left_out
    assert called(leave_out((WEB,), world("db"))) == ["db"]
    assert leave_out((WEB,), world("db", "api"))[0] is WEB


async def test_without_a_world_nothing_is_left_out():
    assert called(Unlisted(lambda: None).left_out((WEB,), None)) == ["db", "api"]


async def test_an_upstream_that_is_not_listed_in_time_is_served_as_what_is_known_of_it(monkeypatch):
    monkeypatch.setattr(unlisted, "_PATIENCE_SECONDS", 0.01)
    told = asyncio.Event()
    known = Unlisted(told.set)
    assert called(known.left_out((WEB,), world("db"))) == ["db"]
    await asyncio.wait_for(told.wait(), 5)
    assert called(known.left_out((WEB,), world("db"))) == ["db", "api"]


async def test_one_that_was_listed_in_time_is_not_told_of(monkeypatch):
    monkeypatch.setattr(unlisted, "_PATIENCE_SECONDS", 0.01)
    known = Unlisted(lambda: pytest.fail("nobody waits"))
    known.left_out((WEB,), world("db"))
    known.left_out((WEB,), world("db", "api"))
    await asyncio.sleep(0.03)


async def test_one_that_was_late_and_is_taken_out_is_waited_for_again_when_it_comes_back(monkeypatch):
    monkeypatch.setattr(unlisted, "_PATIENCE_SECONDS", 0.01)
    told = asyncio.Event()
    known = Unlisted(told.set)
    known.left_out((WEB,), world("db"))
    await asyncio.wait_for(told.wait(), 5)
    known.left_out((), world("db"))
    assert called(known.left_out((WEB,), world("db"))) == ["db"]
