"""A way to a store that counts what is asked: requests of HTTP/1.1 and calls of HTTP/2, each with its time."""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_left
from contextlib import asynccontextmanager, suppress

from tests.system.live import free_port

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_FRAME_HEAD = 9
_HEADERS = 1


class Counting:
    """Passes connections on to the server at `target` and notes when each request came."""

    def __init__(self, target: int) -> None:
        self.port = free_port()
        self._target = target
        self.times: list[float] = []

    def most(self, seconds: float = 1.0, since: float = 0.0) -> int:
        """The most requests within any span of that length."""
        times = [each for each in self.times if each >= since]
        return max((bisect_left(times, begin + seconds) - at for at, begin in enumerate(times)), default=0)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, until either side ends it."""
        with suppress(OSError):
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
            asking = asyncio.create_task(_pass(reader, far_writer, self._counter()))
            telling = asyncio.create_task(_pass(far_reader, writer, lambda _: None))
            try:
                await asyncio.wait((asking, telling), return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in (asking, telling):
                    task.cancel()
                far_writer.close()
        writer.close()

    def _counter(self):
        rest = b""
        frames = None

        def count(data: bytes) -> None:
            nonlocal rest, frames
            rest += data
            if frames is None:
                frames = rest.startswith(_PREFACE)
                rest = rest.removeprefix(_PREFACE)
            found, rest = _calls(rest) if frames else (rest.count(b" HTTP/1.1\r\n"), b"")
            self.times += [time.monotonic()] * found

        return count


def _calls(data: bytes) -> tuple[int, bytes]:
    """How many calls begin in these frames, and what is left of the last one."""
    found = 0
    while len(data) >= _FRAME_HEAD and len(data) >= (end := _FRAME_HEAD + int.from_bytes(data[:3])):
        found += data[3] == _HEADERS
        data = data[end:]
    return found, data


async def _pass(reader, writer, count) -> None:
    with suppress(OSError):
        while data := await reader.read(1 << 16):
            count(data)
            writer.write(data)
            await writer.drain()


@asynccontextmanager
async def counting(target: int):
    """A `Counting` that runs."""
    made = Counting(target)
    connections: set[asyncio.Task] = set()

    async def connected(reader, writer):
        connections.add(asyncio.current_task())
        await made.serve(reader, writer)

    server = await asyncio.start_server(connected, "127.0.0.1", made.port, limit=1 << 20)
    try:
        yield made
    finally:
        server.close()
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)
