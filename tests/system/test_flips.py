"""A hundred flips of one pair under load: every answer is what the rule in force says, and nobody else notices."""

from __future__ import annotations

import asyncio
import time

from tests.system.apps import HttpApp, Load
from tests.system.live import free_port, live_mesh

FLIPS = 100
EVERY_SECONDS = 0.15
# How long after a commit an answer may still follow the old rule. Measured: 1 to 5 ms on a quiet machine; tests share two
# busy cores with everything else that runs.
SETTLED_SECONDS = 0.1


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
            rules = [(time.monotonic(), 200)]
            async with Load(web, 16, 200) as flipped, Load(orders, 16, 200) as other:
                await asyncio.sleep(0.5)
                for number in range(FLIPS):
                    allowed = number % 2 == 1
                    await mesh.intend("payments", orders="allow", **({"web": "allow"} if allowed else {"web": "deny"}))
                    rules.append((time.monotonic(), 200 if allowed else 403))
                    await asyncio.sleep(EVERY_SECONDS)
        assert len(flipped.answers) > 1000 and len(other.answers) > 1000
        assert other.failed() == []
        assert wrong(flipped.answers, rules) == []
        assert {status for _, status in flipped.answers} == {200, 403}


def wrong(answers, rules):
    """Answers that no rule gives which was in force at any moment from the request until it had settled."""
    found = []
    for began, status in answers:
        current = [wanted for at, wanted in rules if at <= began][-1:]
        near = [wanted for at, wanted in rules if began - SETTLED_SECONDS <= at <= began + SETTLED_SECONDS]
        before = [wanted for at, wanted in rules if at <= began - SETTLED_SECONDS][-1:]
        if status not in (*current, *near, *(before if near else ())):
            found.append((began, status))
    return found
