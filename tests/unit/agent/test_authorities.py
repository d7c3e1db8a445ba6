"""The CAs that an agent has opened: once each, tended when roots change, closed with the agent."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from meshagent.agent.authorities import Authorities
from meshagent.errors import AuthorityUnavailable
from meshagent.model.identity import TrustBundle
from meshagent.model.mesh import Mesh
from meshagent.model.world import World

ONE, TWO = (TrustBundle((("mesh.internal", (pem,)),)) for pem in ("ONE", "TWO"))


def world(bundle):
    return World(1, Mesh(), {}, {}, {}, bundle)


class Tended:
    def __init__(self, fails=False):
        self.tended = asyncio.Queue()
        self.fails = fails
        self.closed = False

    async def tend(self, bundle):
        self.tended.put_nowait(bundle)
        if self.fails:
            raise AuthorityUnavailable("it is away", next_step="wait")

    async def close(self):
        self.closed = True


class Plain:
    async def close(self):
        pass


async def running(authorities):
    task = asyncio.create_task(authorities.run())
    await asyncio.sleep(0)
    return task


async def ended(task):
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def test_each_trust_domain_has_one_and_all_are_closed():
    opened = []
    authorities = Authorities(lambda domain: opened.append(Tended()) or opened[-1])
    assert authorities("a") is authorities("a") is not authorities("b")
    await authorities.close()
    assert [each.closed for each in opened] == [True, True]


async def test_new_roots_are_taken_up_at_once_and_the_same_ones_are_not():
    tended = Tended()
    authorities = Authorities(lambda _: tended)
    task = await running(authorities)
    authorities.world_changed(world(ONE))
    assert await asyncio.wait_for(tended.tended.get(), 1) == ONE
    authorities.world_changed(world(ONE))
    authorities.world_changed(world(TWO))
    assert await asyncio.wait_for(tended.tended.get(), 1) == TWO
    assert tended.tended.empty()
    await ended(task)


async def test_one_that_cannot_be_tended_is_a_problem_until_it_can():
    tended = Tended(fails=True)
    authorities = Authorities(lambda _: tended)
    task = await running(authorities)
    for bundle, problem in ((ONE, "it is away: wait"), (TWO, "")):
        authorities.world_changed(world(bundle))
        await asyncio.wait_for(tended.tended.get(), 1)
        await asyncio.sleep(0)
        assert authorities.problem == problem
        tended.fails = False
    await ended(task)


async def test_one_that_keeps_no_credentials_is_left_alone():
    authorities = Authorities(lambda _: Plain())
    task = await running(authorities)
    authorities.world_changed(world(ONE))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not task.done() and not authorities.problem
    await ended(task)
