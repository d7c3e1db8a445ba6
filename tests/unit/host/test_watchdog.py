"""The watchdog is fed while all parts move, and only then."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest

from meshagent.host.notify import Notifier
from meshagent.host.watchdog import Signs, feed, feed_every, stuck


@dataclass(frozen=True, slots=True)
class Counting(Notifier):
    fed: list[int] = field(default_factory=list)

    def alive(self) -> None:
        self.fed.append(1)


def test_it_is_fed_three_times_within_the_time_that_systemd_gives():
    assert feed_every({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "7"}, 7) == 20.0
    assert feed_every({"WATCHDOG_USEC": "60000000"}, 7) == 20.0


@pytest.mark.parametrize("env", [{}, {"WATCHDOG_USEC": "x"}, {"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "8"}])
def test_nobody_is_fed_where_systemd_does_not_watch_us(env):
    assert feed_every(env, 7) == 0.0


@pytest.mark.parametrize(
    ("signs", "word"),
    [
        (Signs(0, 0, 0), ""),
        (Signs(119, 29, 59), ""),
        (Signs(121, 0, 0), "store"),
        (Signs(0, 31, 0), "Envoy runs"),
        (Signs(0, 0, 61), "no stream"),
    ],
)
def test_a_part_that_does_not_move_is_named(signs, word):
    assert stuck(signs).find(word) >= 0 and bool(stuck(signs)) == bool(word)


async def test_it_goes_hungry_while_something_is_stuck_and_is_fed_again_after():
    notifier, seen = Counting(), []
    answers = [Signs(0, 0, 0), Signs(500, 0, 0), Signs(500, 0, 0), Signs(0, 0, 0)]

    async def look() -> Signs:
        if len(seen) == len(answers):
            await asyncio.Event().wait()
        seen.append(len(notifier.fed))
        return answers[len(seen) - 1]

    task = asyncio.create_task(feed(notifier, 0, look))
    while len(seen) < len(answers) or len(notifier.fed) < 2:
        await asyncio.sleep(0)
    task.cancel()
    assert seen == [0, 1, 1, 1] and len(notifier.fed) == 2
