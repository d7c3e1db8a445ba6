"""Apps and callers for tests: small, in this process, on plain sockets, so that what travels is what the test wrote."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

SLOW_SECONDS = 2.0  # how long a request to /slow takes


class HttpApp:
    """Answers every HTTP/1.1 request with its own request text, and keeps all that it was sent."""

    def __init__(self, port: int, name: str = "app") -> None:
        self.port, self.name = port, name
        self.seen: list[str] = []
        self.connections = 0
        self.delay = 0.0
        self.status = 200
        self._server = None

    async def __aenter__(self) -> HttpApp:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                body = await _read_body(reader, head)
                self.seen.append(head)
                if self.delay or "/slow" in head:
                    await asyncio.sleep(self.delay or SLOW_SECONDS)
                answer = f"{self.name}\n{head}".encode("latin-1") + body
                writer.write(
                    b"HTTP/1.1 %d Said\r\nx-app: %s\r\ncontent-length: %d\r\n\r\n"
                    % (self.status, self.name.encode(), len(answer))
                    + answer
                )
                await writer.drain()
        writer.close()


async def _read_body(reader: asyncio.StreamReader, head: str) -> bytes:
    """The body of a request: of its length, or of chunks."""
    for line in head.lower().split("\r\n"):
        name, _, value = line.partition(":")
        if name == "content-length":
            return await reader.readexactly(int(value))
        if name == "transfer-encoding" and value.strip() == "chunked":
            return await _read_chunks(reader)
    return b""


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    body = b""
    while size := int(await reader.readline(), 16):
        body += await reader.readexactly(size)
        await reader.readline()
    while (await reader.readline()).strip():
        pass  # trailers
    return body


class TcpApp:
    """Echoes. With a greeting it speaks first."""

    def __init__(self, port: int, greeting: bytes = b"") -> None:
        self.port, self.greeting = port, greeting
        self.received = b""
        self.connections = 0
        self._server = None

    async def __aenter__(self) -> TcpApp:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with suppress(ConnectionError, asyncio.CancelledError):
            if self.greeting:
                writer.write(self.greeting)
                await writer.drain()
            while data := await reader.read(65536):
                self.received += data
                writer.write(data)
                await writer.drain()
        writer.close()


class Answer:
    """One HTTP answer."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status, self.headers, self.body = status, headers, body

    @property
    def text(self) -> str:
        return self.body.decode("latin-1")


class Caller:
    """A keep-alive HTTP/1.1 connection to an upstream: its local port, or the path of its socket."""

    def __init__(self, port: int | str) -> None:
        self.port = port
        self.streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def send(self, raw: bytes, timeout: float = 5.0) -> Answer:
        """Send bytes and read one answer."""
        async with asyncio.timeout(timeout):
            if self.streams is None:
                path = isinstance(self.port, str)
                opening = asyncio.open_unix_connection(self.port) if path else None
                self.streams = await (opening or asyncio.open_connection("127.0.0.1", self.port))
            reader, writer = self.streams
            writer.write(raw)
            await writer.drain()
            return await read_answer(reader)

    async def get(self, path: str = "/", method: str = "GET", headers: str = "", timeout: float = 5.0) -> Answer:
        """One request. `headers` are whole lines, each with its CRLF."""
        return await self.send(f"{method} {path} HTTP/1.1\r\nhost: app\r\n{headers}\r\n".encode("latin-1"), timeout)

    def close(self) -> None:
        """Close the connection; the next request opens another."""
        if self.streams:
            self.streams[1].close()
            self.streams = None


async def read_answer(reader: asyncio.StreamReader) -> Answer:
    """Read one HTTP/1.1 answer with a length, chunks or until the end."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    lines = head.split("\r\n")
    headers = {key.lower(): value.strip() for key, _, value in (line.partition(":") for line in lines[1:]) if key}
    if "content-length" in headers:
        body = await reader.readexactly(int(headers["content-length"]))
    elif headers.get("transfer-encoding") == "chunked":
        body = await _read_chunks(reader)
    else:
        body = await reader.read()
    return Answer(int(lines[0].split()[1]), headers, body)


async def get(port: int, path: str = "/", method: str = "GET", headers: str = "") -> Answer:
    """One request on a connection of its own."""
    caller = Caller(port)
    try:
        return await caller.get(path, method, headers)
    finally:
        caller.close()


async def raw(port: int, data: bytes, wait: float = 1.0) -> bytes:
    """Send bytes and give back everything that comes within `wait` seconds or until the end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    received = b""
    until = time.monotonic() + wait
    with suppress(TimeoutError, ConnectionError):
        while (left := until - time.monotonic()) > 0:
            async with asyncio.timeout(left):
                chunk = await reader.read(65536)
            if not chunk:
                break
            received += chunk
    writer.close()
    return received


class Load:
    """Steady requests over keep-alive connections (`fresh`: over a new one each) until stopped.

    `answers` holds (time, status or error name), `reasons` the texts of answers from 500 up.
    """

    def __init__(self, port: int | str, connections: int, rate: float, *, fresh: bool = False) -> None:
        self.port, self.connections, self.rate, self.fresh = port, connections, rate, fresh
        self.answers: list[tuple[float, int | str]] = []
        self.reasons: list[str] = []
        self._tasks: list[asyncio.Task] = []

    async def __aenter__(self) -> Load:
        self._tasks = [asyncio.create_task(self._run(number)) for number in range(self.connections)]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _run(self, number: int) -> None:
        pause = self.connections / self.rate
        await asyncio.sleep(pause * number / self.connections)
        caller = Caller(self.port)
        due = time.monotonic()
        while True:
            began = time.monotonic()
            try:
                answer = await caller.get(timeout=1.0)
                self.answers.append((began, answer.status))
                if answer.status >= 500:
                    self.reasons.append(answer.text)
            except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
                self.answers.append((began, type(error).__name__))
                caller.close()
            else:
                if self.fresh or answer.headers.get("connection") == "close":  # as any HTTP client does
                    caller.close()
            due += pause
            await asyncio.sleep(max(0.0, due - time.monotonic()))

    def since(self, start: float) -> list[int | str]:
        """What was answered to requests begun from then on."""
        return [status for began, status in self.answers if began >= start]

    def not_cut(self) -> set[str]:
        """Why others failed with 5xx than since their connection ended, as the app's proxy or the caller's says it."""
        said = ("connection termination", "the instance ended the connection")
        return {reason for reason in self.reasons if not any(words in reason for words in said)}

    def failed(self) -> list[int | str]:
        """Everything but 200."""
        return [status for _, status in self.answers if status != 200]
