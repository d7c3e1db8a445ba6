"""A mesh for tests of rollouts: payments in two versions, of which the new one may ail; and calls that never cease."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime

from meshagent.state.progress import read_progress
from tests.system.apps import HttpApp, read_answer
from tests.system.live import KEYS

SERVICE = {
    "kind": "service",
    "name": "payments",
    "protocol": "http",
    "subsets": {"v1": {"version": "v1"}, "v2": {"version": "v2"}},
}


class Ailing(HttpApp):
    """Of its answers, every `nth` is a 500 (0: none)."""

    nth = 0

    @property
    def status(self) -> int:
        self._told = getattr(self, "_told", 0) + 1
        return 500 if self.nth and self._told % self.nth == 0 else 200

    @status.setter
    def status(self, _: int) -> None:
        self._told = 0


class Rolling:
    """A rollout of quick steps, with an id of its own."""

    def __init__(self, mesh, **more):
        plain = {"kind": "rollout", "name": "payments", "base": "v1", "to": "v2", "every": "1s", "min_requests": 10}
        self.document = plain | {"id": datetime.now(UTC).strftime("%H:%M:%S.%f")} | more
        self.mesh = mesh

    async def begin(self):
        await self.mesh.apply(self.document)
        return self

    async def progress(self):
        """How far it has come; None before it has begun."""
        found = (await read_progress(self.mesh.store, KEYS, ["payments"]))["payments"].progress
        return found if found and found.run.startswith(self.document["id"]) else None

    async def until(self, wanted, seconds=30.0):
        """The progress, once it is as wanted."""
        ends = time.monotonic() + seconds
        while not ((found := await self.progress()) and wanted(found)):
            assert time.monotonic() < ends, (found, [agent.tail() for agent in self.mesh.agents])
            await asyncio.sleep(0.1)
        return found


class Calls:
    """What the calls since the last `forget` were answered: by app, or by status where it was not 200."""

    def __init__(self) -> None:
        self.answers: Counter = Counter()

    def forget(self) -> None:
        self.answers = Counter()


@asynccontextmanager
async def calling(port, rate=300, batch=20):
    """Calls go on, so many a second, `batch` of them pipelined; one that breaks off counts as its error."""
    calls = Calls()

    async def call():
        request = b"GET / HTTP/1.1\r\nhost: app\r\n\r\n"
        while True:
            with suppress(OSError, asyncio.IncompleteReadError):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                while True:
                    due = time.monotonic() + batch / rate
                    writer.write(request * batch)
                    for _ in range(batch):
                        answer = await read_answer(reader)
                        calls.answers[answer.headers.get("x-app", "")] += 1
                        calls.answers[answer.status] += 1
                    await asyncio.sleep(max(0.0, due - time.monotonic()))
            calls.answers["broken"] += 1
            await asyncio.sleep(0.05)

    task = asyncio.create_task(call())
    try:
        yield calls
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
