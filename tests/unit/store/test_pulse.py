from __future__ import annotations

import asyncio

from meshagent.store.pulse import Pulse


async def test_one_beat_wakes_all_who_wait() -> None:
    pulse = Pulse()
    waiting = [asyncio.create_task(pulse.after(pulse.count)) for _ in range(3)]
    await asyncio.sleep(0)
    pulse.beat()
    await asyncio.wait_for(asyncio.gather(*waiting), 5)


async def test_a_beat_that_came_while_one_was_busy_is_not_missed() -> None:
    pulse = Pulse()
    seen = pulse.count
    pulse.beat()
    await asyncio.wait_for(pulse.after(seen), 5)


async def test_a_wait_with_a_limit_ends_without_a_beat() -> None:
    pulse = Pulse()
    await asyncio.wait_for(pulse.after(pulse.count, at_most=0.001), 5)
    assert pulse.count == 0


async def test_a_cancelled_wait_leaves_nothing_behind() -> None:
    pulse = Pulse()
    waiting = asyncio.create_task(pulse.after(pulse.count))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    pulse.beat()
    assert pulse._waiting == set()
