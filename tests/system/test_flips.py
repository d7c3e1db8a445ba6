"""A hundred flips of one pair under load: every answer is what the rule in force says, and nobody else notices."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass

from tests.system.apps import Caller, HttpApp
from tests.system.live import free_port, live_mesh

FLIPS = 100
# Longer than twice the tolerance, or else every moment would be near some flip and no answer could be wrong.
EVERY_SECONDS = 0.23
# How long after a commit an answer may still follow the old rule. Measured: 1 to 5 ms on a quiet machine; tests share two
# busy cores with everything else that runs.
SETTLED_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Flip:
    """A commit of web's rule: when it was asked for, when it was done, what web is answered from then on."""

    asked: float
    done: float
    status: int


@dataclass(frozen=True, slots=True)
class Timed:
    """An answer, or the name of the error in its place, and the request's beginning and end."""

    began: float
    ended: float
    status: int | str


async def test_a_hundred_flips_under_load_answer_only_200_and_403_and_another_source_only_200():
    async with live_mesh() as mesh:
        agent = await mesh.agent()
        app, web, orders = free_port(), free_port(), free_port()
        async with HttpApp(app):
            await agent.up(name="payments", port=app, protocol="http")
            for name, local in (("web", web), ("orders", orders)):
                upstreams = [{"service": "payments", "local_port": local}]
                await agent.up(name=name, port=free_port(), protocol="http", upstreams=upstreams)
            await mesh.applied(await mesh.intend("payments", web="allow", orders="allow"))
            flips = [Flip(0.0, 0.0, 200)]
            flipped, other, until = [], [], asyncio.Event()
            callers = [(web, flipped)] * 16 + [(orders, other)] * 16
            async with asyncio.TaskGroup() as group:
                for port, answers in callers:
                    group.create_task(ask(port, answers, until))
                await flip(mesh, flips)
                until.set()
    assert {answer.status for answer in other} == {200} and len(other) > 2000
    assert {answer.status for answer in flipped} == {200, 403} and len(flipped) > 2000
    assert [answer for answer in flipped if answer.status not in possible(answer, flips)] == []
    decided = [answer for answer in flipped if len(possible(answer, flips)) == 1]
    assert len(decided) > len(flipped) / 4, f"{len(decided)} of {len(flipped)} answers were judged"


async def flip(mesh, flips):
    """Deny and allow web in turn, and note it."""
    await asyncio.sleep(0.5)
    for number in range(FLIPS):
        action, status = ("allow", 200) if number % 2 else ("deny", 403)
        asked = time.monotonic()
        await mesh.intend("payments", orders="allow", web=action)
        flips.append(Flip(asked, time.monotonic(), status))
        await asyncio.sleep(EVERY_SECONDS)


async def ask(port, answers, until):
    """Requests over one keep-alive connection, about twelve a second."""
    caller = Caller(port)
    while not until.is_set():
        began = time.monotonic()
        try:
            status = (await caller.get(timeout=1.0)).status
        except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
            status = type(error).__name__
            caller.close()
        answers.append(Timed(began, time.monotonic(), status))
        await asyncio.sleep(random.uniform(0.04, 0.12))
    caller.close()


def possible(answer, flips):
    """What a rule says that may have been in force at some moment of the request."""
    ends = [following.done + SETTLED_SECONDS for following in flips[1:]] + [float("inf")]
    return {
        each.status for each, end in zip(flips, ends, strict=True) if each.asked <= answer.ended and answer.began <= end
    }


def test_the_judge_finds_an_answer_that_follows_a_rule_no_longer_in_force_and_one_that_comes_too_early():
    flips = [Flip(0.0, 0.0, 200), Flip(1.0, 1.01, 403), Flip(2.0, 2.01, 200)]
    assert possible(Timed(0.5, 0.51, 403), flips) == {200}
    assert possible(Timed(1.05, 1.06, 200), flips) == {200, 403}
    assert possible(Timed(1.2, 1.21, 200), flips) == {403}
    assert possible(Timed(0.9, 1.3, 200), flips) == {200, 403}
    assert possible(Timed(2.5, 2.51, 200), flips) == {200}
