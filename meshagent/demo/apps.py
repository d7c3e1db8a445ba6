"""The demo's processes: `python -m meshagent.demo.apps http|tcp --name NAME --port PORT`, or `agent ...`.

With `--parent PID` a process ends when that parent does, whatever ends it. Nothing here is imported that takes long.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import json
import os
import runpy
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

_PR_SET_PDEATHSIG = 1
_TICK_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Request:
    """What the app was sent; header names are in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]


def parse(head: str) -> Request:
    """The request of a head, up to and with its empty line. Raises ValueError for what is none."""
    line, *rest = head.removesuffix("\r\n\r\n").split("\r\n")
    method, path, _ = line.split(" ")
    return Request(
        method, path, {key.lower(): value.strip() for key, _, value in (each.partition(":") for each in rest)}
    )


def caller(certificate: str) -> str:
    """The name in x-forwarded-client-cert (`By=...;Hash=...;URI=...`), as the sidecar proved it; "" without one."""
    fields = dict(each.partition("=")[::2] for each in certificate.split(";"))
    return fields.get("URI", "").strip('"')


def answer(name: str, request: Request) -> bytes:
    """What the HTTP service says: who it is, what it was asked, and who its sidecar says is asking."""
    certificate = request.headers.get("x-forwarded-client-cert", "")
    told = {"service": name, "method": request.method, "path": request.path, "caller": caller(certificate)}
    body = json.dumps({**told, "x-forwarded-client-cert": certificate}).encode() + b"\n"
    return _head("application/json", f"content-length: {len(body)}") + (b"" if request.method == "HEAD" else body)


async def serve_http(name: str, port: int) -> None:
    """Answer every request as `answer` does, and /stream with a line every 0.2 s for as long as it is read."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError):
            while True:
                request = parse((await reader.readuntil(b"\r\n\r\n")).decode("latin-1"))
                await drop_body(reader, request.headers)
                if request.path == "/stream":
                    async for part in _ticks():
                        await _send(writer, part)
                await _send(writer, answer(name, request))
        writer.close()

    await _for_ever(await asyncio.start_server(connected, "127.0.0.1", port))


async def serve_tcp(port: int) -> None:
    """Send back whatever comes."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                await _send(writer, data)
        writer.close()

    await _for_ever(await asyncio.start_server(connected, "127.0.0.1", port))


def die_with(parent: int) -> None:
    """Ask the kernel for SIGTERM when the parent ends (prctl(2), Linux); end now when it has ended already."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        sys.exit(0)


def main(arguments: Sequence[str]) -> None:
    """Run one of the processes, for ever. What `agent` is given beyond --parent goes to `meshagent agent`."""
    parser = argparse.ArgumentParser(prog="meshagent.demo.apps", allow_abbrev=False)
    parser.add_argument("kind", choices=("http", "tcp", "agent"))
    parser.add_argument("--name", default="app")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--parent", type=int)
    given, rest = parser.parse_known_args(arguments)
    if given.parent is not None:
        die_with(given.parent)
    if given.kind == "agent":
        sys.argv = ["meshagent", "agent", *rest]
        runpy.run_module("meshagent", run_name="__main__")
    elif rest:
        parser.error(f"unknown: {' '.join(rest)}")
    else:
        asyncio.run(serve_tcp(given.port) if given.kind == "tcp" else serve_http(given.name, given.port))


async def _for_ever(server: asyncio.Server) -> None:
    async with server:
        await server.serve_forever()


async def _send(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(data)
    await writer.drain()


async def drop_body(reader: asyncio.StreamReader, headers: Mapping[str, str]) -> None:
    """Read past the body, or the next request would begin in it."""
    if headers.get("transfer-encoding", "").lower() == "chunked":
        while size := int((await reader.readuntil(b"\r\n")).partition(b";")[0], 16):
            await reader.readexactly(size + 2)
        while await reader.readuntil(b"\r\n") != b"\r\n":
            continue  # trailers
    elif length := int(headers.get("content-length", 0)):
        await reader.readexactly(length)


async def _ticks() -> AsyncIterator[bytes]:
    yield _head("text/plain", "transfer-encoding: chunked")
    number = 0
    while True:
        number += 1
        line = b"tick %d\n" % number
        yield b"%x\r\n%s\r\n" % (len(line), line)
        await asyncio.sleep(_TICK_SECONDS)


def _head(content: str, framing: str) -> bytes:
    return f"HTTP/1.1 200 OK\r\ncontent-type: {content}\r\n{framing}\r\n\r\n".encode()


if __name__ == "__main__":
    main(sys.argv[1:])
