"""Ports that are taken, and those that will be free in a moment."""

from __future__ import annotations

import asyncio
import socket

import pytest

from meshagent.agent.ports import is_free, require_free, until_free
from meshagent.agent.roster import Roster
from meshagent.errors import PortInUse
from meshagent.model.service import ServiceDefinition


@pytest.fixture
def taken():
    """A socket that listens, and its port."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening, listening.getsockname()[1]


def test_a_port_on_which_somebody_listens_is_not_free(taken):
    assert not is_free("127.0.0.1", taken[1])
    with pytest.raises(PortInUse, match="for mTLS"):
        require_free("127.0.0.1", taken[1], "mTLS")


async def test_a_port_that_is_given_up_in_a_moment_is_waited_for(taken):
    listening, port = taken
    waiting = asyncio.create_task(until_free([("127.0.0.1", port)], 10))
    await asyncio.sleep(0)
    assert not waiting.done()
    listening.close()
    await waiting
    assert is_free("127.0.0.1", port)


async def test_one_that_stays_taken_is_not_waited_for_longer_than_told(taken):
    await until_free([("127.0.0.1", taken[1])], 0.02)
    assert not is_free("127.0.0.1", taken[1])


def test_what_others_here_still_need_is_not_given_up(tmp_path):
    tmp_path.chmod(0o700)
    roster = Roster(tmp_path / "services.json", "127.0.0.2", 29000, lambda: None)
    upstream = {"service": "payments", "local_port": 29101}
    web, jobs = (
        ServiceDefinition.model_validate({"name": name, "port": port, "upstreams": [each]})
        for name, port, each in (("web", 29201, upstream), ("jobs", 29202, {**upstream, "local_port": 29102}))
    )
    first, second = roster.add(web, "api"), roster.add(jobs, "api")
    roster.remove(first.place)
    assert roster.given_up(first) == [("127.0.0.1", 29101)]
    roster.remove(second.place)
    assert roster.given_up(second) == [("127.0.0.1", 29102), ("127.0.0.2", 29000)]
