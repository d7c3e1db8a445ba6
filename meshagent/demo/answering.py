"""Apps of a scratch mesh, all in this process: each says in every answer which one it is, and that is all that it does."""

from __future__ import annotations

import asyncio
import struct
from contextlib import AsyncExitStack, suppress
from functools import partial
from types import TracebackType
from typing import Self

from meshagent.demo.apps import drop_body, parse
from meshagent.demo.processes import free_ports
from meshagent.model.names import Protocol

APP_HEADER = "x-case-app"
"""The header in which an app of HTTP says its name; one of TCP sends a line with it as soon as it is sent anything."""

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _SETTINGS, _PING, _CONTINUATION = 0, 1, 4, 6, 9  # RFC 9113, section 6
_ACK = _END_STREAM = 1
_END_HEADERS = 4
_STATUS_200 = b"\x88"  # RFC 7541, appendix A: the whole field is entry 8
_SERVING = b"\0\0\0\0\x02\x08\x01"  # a gRPC message: grpc.health.v1.HealthCheckResponse with status SERVING


class Apps:
    """The apps of one scratch mesh, for as long as the context lasts."""

    def __init__(self) -> None:
        self._open = AsyncExitStack()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._open.aclose()

    async def start(self, names: dict[str, Protocol]) -> dict[str, int]:
        """An app of each name that speaks this protocol, and the port of loopback on which it listens."""
        ports = dict(zip(names, free_ports(len(names)), strict=True))
        for name, protocol in names.items():
            serve = {"tcp": _serve_lines, "http": _serve_http}.get(protocol, _serve_http2)
            own = partial(serve, name, protocol == "grpc") if serve is _serve_http2 else partial(serve, name)
            server = await asyncio.start_server(own, "127.0.0.1", ports[name])
            self._open.callback(server.close)
        return ports


async def _serve_lines(name: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while await reader.read(65536):
            writer.write(f"{name}\n".encode())
            await writer.drain()
    writer.close()


async def _serve_http(name: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    answer = f"HTTP/1.1 200 OK\r\n{APP_HEADER}: {name}\r\ncontent-length: 0\r\n\r\n".encode()
    with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError):
        while True:
            request = parse((await reader.readuntil(b"\r\n\r\n")).decode("latin-1"))
            await drop_body(reader, request.headers)
            writer.write(answer)
            await writer.drain()
    writer.close()


async def _serve_http2(name: str, grpc: bool, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """As much of HTTP/2 as it takes to answer every request alike: what was asked is not even looked at."""
    with suppress(ConnectionError, asyncio.IncompleteReadError):
        await reader.readexactly(len(_PREFACE))
        writer.write(_frame(_SETTINGS, 0, 0))
        ended = False
        while True:
            kind, flags, stream, payload = await _read_frame(reader)
            if kind in (_SETTINGS, _PING) and not flags & _ACK:
                writer.write(_frame(kind, _ACK, 0, payload if kind == _PING else b""))
            if kind in (_DATA, _HEADERS):
                ended = bool(flags & _END_STREAM)
            if ended and (kind == _DATA or (kind in (_HEADERS, _CONTINUATION) and flags & _END_HEADERS)):
                ended = False
                writer.write(_answer(name, stream, grpc=grpc))
            await writer.drain()
    writer.close()


async def _read_frame(reader: asyncio.StreamReader) -> tuple[int, int, int, bytes]:
    """Kind, flags, stream and payload."""
    head = await reader.readexactly(9)
    kind, flags, stream = struct.unpack(">BBI", head[3:])
    return kind, flags, stream & 0x7FFFFFFF, await reader.readexactly(int.from_bytes(head[:3], "big"))


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + struct.pack(">BBI", kind, flags, stream) + payload


def _answer(name: str, stream: int, *, grpc: bool) -> bytes:
    fields = _STATUS_200 + _field(APP_HEADER, name)
    if not grpc:
        return _frame(_HEADERS, _END_HEADERS | _END_STREAM, stream, fields)
    return (
        _frame(_HEADERS, _END_HEADERS, stream, fields + _field("content-type", "application/grpc"))
        + _frame(_DATA, 0, stream, _SERVING)
        + _frame(_HEADERS, _END_HEADERS | _END_STREAM, stream, _field("grpc-status", "0"))
    )


def _field(name: str, value: str) -> bytes:
    """A literal without indexing (RFC 7541, section 6.2.2); both parts are shorter than 127 bytes."""
    parts = (name.encode(), value.encode())
    return b"\0" + b"".join(bytes([len(part)]) + part for part in parts)
