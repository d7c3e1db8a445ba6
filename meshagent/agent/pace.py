"""When to wait a little. Pure; clock and chance are passed in.

Envoy is served each change at once, unless they come in a storm. A shared store is asked at once, unless this host has just
booted, and maybe many others with it.
"""

from __future__ import annotations

import math
import random
import re
from collections import deque

# Twenty changes within 0.4 s, so 50 a second, are a storm: what people and rollouts do stays far below.
_STORM_CHANGES = 20
_STORM_SECONDS = 0.4
_STORM_INTERVAL = 0.125  # then Envoy is served 8 times a second: each push costs it more than a change costs us
_JUST_BOOTED = 90.0
# A hundred agents that start at once ask an etcd 1,000 times in the first second, and never 200 times a second with this.
_SPREAD = 25.0
# What a host that runs asks in all that time, as a multiple of what its start asks: on Consul 0.8 a second, and 25.
_RUNNING = 0.8
_NUMBER = re.compile(r"\d{1,9}(?=\D*$)")
_GOLDEN = (math.sqrt(5) - 1) / 2


def chance_of(host: str) -> float:
    """Where in a crowd a host starts, 0 to 1 and always the same.

    Hosts whose names differ in their last number lie evenly, however many there are: multiples of the golden ratio fill
    the gaps between earlier ones. Others lie by chance, so now and then some of them together.
    """
    number = _NUMBER.search(host)
    others = random.Random(_NUMBER.sub("#", host)).random()  # noqa: S311 - spreads hosts out
    return (others + int(number[0]) * _GOLDEN) % 1.0 if number else others


def start_pause(uptime: float, chance: float) -> float:
    """Seconds to let pass before a shared store is first asked, `uptime` seconds after the host booted.

    `chance` is 0 to 1 and spreads hosts out: more of them at first, while few others run and ask as well, so that the
    store is asked alike all the time. An agent that starts later than at boot does so by itself: it waits for nothing.
    """
    if uptime >= _JUST_BOOTED:
        return 0.0
    return -_SPREAD / _RUNNING * math.log1p(-chance * -math.expm1(-_RUNNING))


class Pace:
    """Remembers when changes came and when they were served. All times are monotonic seconds."""

    def __init__(self) -> None:
        self._changes: deque[float] = deque(maxlen=_STORM_CHANGES)
        self._served = float("-inf")

    def changed(self, now: float) -> None:
        """Something changed."""
        self._changes.append(now)

    def served(self, now: float) -> None:
        """Envoy was served all that had changed."""
        self._served = now

    def pause(self, now: float) -> float:
        """Seconds to let pass before serving: 0 but in a storm, where more will have changed by then."""
        stormy = len(self._changes) == _STORM_CHANGES and now - self._changes[0] < _STORM_SECONDS
        return max(0.0, self._served + _STORM_INTERVAL - now) if stormy else 0.0
