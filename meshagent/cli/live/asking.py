"""One caller's connection to a local upstream: sends requests exactly as cases say them, byte for byte."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from meshagent.policy.request import Request

_TIMEOUT_SECONDS = 10.0
_BODILESS = (204, 304)


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back; header names are in lower case. Status 0: nothing did."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


NOTHING = Answer(0)


class Caller:
    """Asks one upstream, on one connection for as long as Envoy keeps it open."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, request: Request, host: str) -> Answer:
        """The answer to a request; NOTHING when none comes in ten seconds."""
        with suppress(OSError, TimeoutError, asyncio.IncompleteReadError, ValueError):
            async with asyncio.timeout(_TIMEOUT_SECONDS):
                if self._streams is None:
                    self._streams = await asyncio.open_unix_connection(str(self._socket))
                reader, writer = self._streams
                writer.write(sent(request, host))
                await writer.drain()
                answer = await _read(reader, bodiless=request.method == "HEAD")
                if answer.headers.get("connection") == "close":
                    self.close()
                return answer
        self.close()
        return NOTHING

    async def greet(self) -> str:
        """The line with which an app of TCP answers on a connection of its own; empty when it ends without one."""
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(_TIMEOUT_SECONDS):
                reader, writer = await asyncio.open_unix_connection(str(self._socket))
                try:
                    writer.write(b"who?\n")
                    return (await reader.readline()).decode("latin-1").strip()
                finally:
                    writer.close()
        return ""

    def close(self) -> None:
        """Close the connection; the next request opens another."""
        if self._streams:
            self._streams[1].close()
            self._streams = None


def can_be_sent(request: Request) -> bool:
    """Whether its path can stand in a request line: without a blank or a control character."""
    return bool(request.path) and all(" " < character != "\x7f" for character in request.path)


def sent(request: Request, host: str) -> bytes:
    """The bytes of a request, which has no body: nothing stands in it that the case does not say, but for the host."""
    given = any(name == "host" for name, _ in request.headers)
    lines = [f"{request.method} {request.path} HTTP/1.1"]
    lines += [] if given else [f"host: {host}"]
    lines += [f"{name}: {value}" for name, value in request.headers]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


async def _read(reader: asyncio.StreamReader, *, bodiless: bool) -> Answer:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.removesuffix("\r\n\r\n").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    status = int(first.split(" ")[1])
    if bodiless or status in _BODILESS:
        return Answer(status, headers)
    if headers.get("transfer-encoding", "").lower() == "chunked":
        return Answer(status, headers, await _chunks(reader))
    return Answer(status, headers, await reader.readexactly(int(headers.get("content-length", 0))))


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    body = b""
    while size := int((await reader.readline()).partition(b";")[0], 16):
        body += (await reader.readexactly(size + 2))[:size]
    while await reader.readline() != b"\r\n":
        continue  # trailers
    return body
