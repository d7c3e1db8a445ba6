"""When policy changed in the store: what the demo's times are counted from."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from types import TracebackType
from typing import Self

from meshagent.state.keys import Keys
from meshagent.store import open_store
from meshagent.store.base import Changes

_OPEN_SECONDS = 5.0


class Commits:
    """Watches the manifest as an agent does, in a thread of its own, and notes the moment of each new revision.

    Another process's commit is seen 0.4 ms after it was made (measured at the median, SQLite), so times counted from
    here are that much too short, and never include the command's own start.
    """

    def __init__(self, store_url: str) -> None:
        self._url = store_url
        self._moments: list[float] = []
        self._opened = threading.Event()
        self._end: Callable[[], object] = _nothing
        self._thread = threading.Thread(target=lambda: asyncio.run(self._follow()), name="commits")

    def __enter__(self) -> Self:
        self._thread.start()
        self._opened.wait(_OPEN_SECONDS)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()
        self._thread.join()

    def first_since(self, moment: float) -> float | None:
        """The first change after a moment, both of time.monotonic(); None when there was none."""
        return next((each for each in tuple(self._moments) if each >= moment), None)

    async def _follow(self) -> None:
        key = Keys().manifest
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        store = await open_store(self._url)
        try:
            noting = asyncio.create_task(self._note(store.watch((key,), after=(await store.read(key)).revision)))
            self._end = partial(loop.call_soon_threadsafe, ended.set)
            self._opened.set()
            await ended.wait()
        finally:
            await store.close()
        await noting

    async def _note(self, changes: AsyncIterator[Changes]) -> None:
        async for _ in changes:
            self._moments.append(time.monotonic())


def _nothing() -> None:
    """What there is to end before the watch has begun."""
