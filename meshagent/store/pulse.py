"""Wakes any number of waiting tasks at once, and no task misses a beat that came while it was busy."""

from __future__ import annotations

import asyncio


class Pulse:
    """A counter of beats that tasks of one event loop can wait on."""

    def __init__(self) -> None:
        self.count = 0
        self._waiting: set[asyncio.Future[None]] = set()

    def beat(self) -> None:
        """Wake everyone who waits."""
        self.count += 1
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_result(None)

    async def after(self, seen: int, *, at_most: float | None = None) -> None:
        """Return once `count` is not `seen` any more, at once if it is not now, or after `at_most` seconds."""
        if self.count != seen:
            return
        waiting = asyncio.get_running_loop().create_future()
        self._waiting.add(waiting)
        try:
            async with asyncio.timeout(at_most):
                await waiting
        except TimeoutError:
            return
        finally:
            self._waiting.discard(waiting)
