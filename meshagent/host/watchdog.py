"""systemd's watchdog: fed while the agent's own parts move. What others do to us (a store that is away) is no reason to die."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Never

import structlog

from meshagent.host.notify import Notifier

_log = structlog.get_logger(__name__)
_MICROSECONDS = 1_000_000
_TIMES = 3  # fed so often within the time that systemd allows


def feed_every(env: Mapping[str, str], pid: int) -> float:
    """Seconds between two feedings; 0 where systemd watches nobody, or another process (sd_watchdog_enabled(3))."""
    text, owner = env.get("WATCHDOG_USEC", ""), env.get("WATCHDOG_PID", "")
    if not text.isdecimal() or (owner and owner != str(pid)):
        return 0.0
    return int(text) / _MICROSECONDS / _TIMES


@dataclass(frozen=True, slots=True)
class Signs:
    """Seconds since each part last showed that it moves.

    `store`: the loop that asks after the store came round, whatever it was told. `envoy`: Envoy answered, or was known
    not to be there. `stream`: Envoy, while it is there, had its stream to us.
    """

    store: float
    envoy: float
    stream: float


# A store may take its time: opening it is put off by up to 24 s after boot, and each call has a timeout of its own.
_PATIENCE = Signs(store=120.0, envoy=30.0, stream=60.0)


def stuck(signs: Signs, patience: Signs = _PATIENCE) -> str:
    """What does not move any more, in words; "" when all does."""
    if signs.store > patience.store:
        return f"the store's loop has not come round for {signs.store:.0f} s"
    if signs.envoy > patience.envoy:
        return f"Envoy runs, and has not answered for {signs.envoy:.0f} s"
    if signs.stream > patience.stream:
        return f"Envoy answers, and has had no stream to this agent for {signs.stream:.0f} s"
    return ""


async def feed(notifier: Notifier, every: float, look: Callable[[], Awaitable[Signs]]) -> Never:
    """Look every so many seconds, and tell systemd that we are alive unless something is stuck. For ever."""
    told = ""
    while True:
        problem = stuck(await look())
        if not problem:
            notifier.alive()
        elif not told:
            _log.error("watchdog_not_fed", problem=problem)
        told = problem
        await asyncio.sleep(every)
