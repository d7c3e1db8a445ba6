"""All the ways of calling at once: HTTP and TCP, over connections that stay and over new ones, counted together."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import asynccontextmanager

from tests.system.apps import Caller, TcpApp, get
from tests.system.live import eventually, free_port
from tests.system.shop import shop

RATES = {"http kept": 110, "http new": 30, "tcp kept": 40, "tcp new": 20}  # requests a second, 200 together


class Calls:
    """Calls of every kind, each kind at its rate. `answers`: (kind, when it began, "ok" or what went wrong)."""

    def __init__(self, http: int, tcp: int, rates: dict[str, float] = RATES) -> None:
        self._ports = {"http": http, "tcp": tcp}
        self._rates = rates
        self._tasks: list[asyncio.Task] = []
        self.answers: list[tuple[str, float, str]] = []

    async def __aenter__(self) -> Calls:
        self._tasks = [asyncio.create_task(self._run(kind, rate)) for kind, rate in self._rates.items()]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def failed(self, since: float = 0.0) -> Counter[tuple[str, str]]:
        """What went wrong, by kind."""
        return Counter((kind, answer) for kind, began, answer in self.answers if answer != "ok" and began >= since)

    def count(self, kind: str = "", since: float = 0.0) -> int:
        """How many calls were answered."""
        return sum(each.startswith(kind) and began >= since for each, began, _ in self.answers)

    async def _run(self, kind: str, rate: float) -> None:
        protocol, _, kept = kind.partition(" ")
        make = HttpCaller if protocol == "http" else TcpCaller
        caller = make(self._ports[protocol])
        due = time.monotonic()
        while True:
            began = time.monotonic()
            try:
                async with asyncio.timeout(2.0):
                    answer = await caller.call()
            except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
                answer = type(error).__name__
            self.answers.append((kind, began, answer))
            if kept == "new" or answer != "ok":
                caller.close()
            due = max(due + 1 / rate, time.monotonic() - 1.0)
            await asyncio.sleep(max(0.0, due - time.monotonic()))


class HttpCaller:
    def __init__(self, port: int) -> None:
        self._caller = Caller(port)

    async def call(self) -> str:
        status = (await self._caller.get()).status
        return "ok" if status == 200 else str(status)

    def close(self) -> None:
        self._caller.close()


class TcpCaller:
    def __init__(self, port: int) -> None:
        self._port = port
        self._streams = None

    async def call(self) -> str:
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        writer.write(b"0123456789abcdef")
        await writer.drain()
        return "ok" if await reader.readexactly(16) == b"0123456789abcdef" else "other bytes"

    def close(self) -> None:
        if self._streams:
            self._streams[1].close()
            self._streams = None


class Stand:
    """A shop on two hosts: vm-1 calls payments (HTTP), which it runs too, and ledger (TCP) on vm-2."""

    def __init__(self, it, caller, called, http, tcp):
        self.mesh, self.agent, self.orders = it.mesh, it.agent, it.orders
        self.caller, self.called, self.http, self.tcp = caller, called, http, tcp


@asynccontextmanager
async def stand(ttl):
    """Everything that takes a certificate, on two hosts, with orders' calls, which are denied, all the while."""
    async with shop(ttl=ttl) as it:
        second = await it.mesh.agent("vm-2")
        port, local, inner = free_port(), free_port(), free_port()
        async with TcpApp(port):
            await second.up(name="ledger", port=port, protocol="tcp")
            upstreams = [{"service": "ledger", "local_port": local}, {"service": "payments", "local_port": inner}]
            await it.agent.up(name="desk", port=free_port(), protocol="http", upstreams=upstreams)
            await it.mesh.intend("ledger", desk="allow")
            await it.mesh.applied(await it.mesh.intend("payments", web="allow", desk="allow", orders="deny"))
            await eventually(lambda: len(second.status()["svids"]) == 1, 10)
            assert (await get(inner)).status == 200
            yield Stand(it, it.agent, second, it.web, local)
