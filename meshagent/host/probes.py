"""One probe of a health check. Never raises for what a definition says or an app does: a failure is an answer."""

from __future__ import annotations

import asyncio
import re
import ssl
from contextlib import suppress
from functools import cache
from urllib.parse import urlsplit

from meshagent.host.command import run_command
from meshagent.model.service import Check

_HEAD_BYTES = 16384  # of an HTTP answer; a longer head is no answer to a health check
_LINE_CHARACTERS = 200  # of its first line, which may be anything when it is not HTTP
_BODY_BYTES = 512  # of a refusing answer, for a person to read why
_BODY_SECONDS = 0.1  # how long that body is waited for; the verdict is known already
_GOOD = re.compile(r"HTTP/1\.[01] 2[0-9]{2}( |$)")
_HEALTH_METHOD = "/grpc.health.v1.Health/Check"
# HealthCheckResponse is one enum in field 1; proto3 leaves the zero out.
_SERVING = b"\x08\x01"
_HEALTH_WORDS = {b"": "UNKNOWN", _SERVING: "SERVING", b"\x08\x02": "NOT_SERVING", b"\x08\x03": "SERVICE_UNKNOWN"}
# A check speaks to the app itself: a proxy from the environment (http_proxy) has no business between them.
_CHANNEL_OPTIONS = (("grpc.enable_http_proxy", 0),)
Answer = tuple[bool, str]  # passed, what it said


async def probe(check: Check) -> Answer:
    """Run an http, tcp, grpc or exec check once, within its timeout."""
    try:
        async with asyncio.timeout(check.timeout.total_seconds()):
            return await _ask(check)
    except TimeoutError:
        return False, f"no answer within {check.timeout.total_seconds():g} s"
    except (OSError, EOFError) as error:
        return False, str(error) or type(error).__name__
    except (ValueError, OverflowError) as error:  # a port above 65535, a host that IDNA refuses, a NUL in an argument
        return False, f"cannot be probed: {error}"


async def _ask(check: Check) -> Answer:
    if check.http is not None:
        return await _http(check.http)
    if check.tcp is not None:
        return await _tcp(check.tcp)
    if check.grpc is not None:
        return await _grpc(check.grpc)
    code, said = await run_command(check.exec or ())
    return code == 0, said or f"exit {code}"


async def _http(url: str) -> Answer:
    """A GET; 2xx passes. A redirect is an answer and is not followed (facts/security.md, attack 36).

    An https URL is held to the system's trusted roots and to its host name, on loopback too.
    """
    parts = urlsplit(url)
    if not parts.hostname or parts.port == 0:
        raise ValueError("the URL names no host and port")
    tls = _tls() if parts.scheme == "https" else None
    port = parts.port or (443 if tls else 80)
    reader, writer = await asyncio.open_connection(parts.hostname, port, ssl=tls, limit=_HEAD_BYTES)
    try:
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        host = parts.netloc.rpartition("@")[2]
        head = f"GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: meshagent-check\r\nConnection: close\r\n\r\n"
        writer.write(head.encode())
        await writer.drain()
        answer = await _head(reader)
        line = answer.partition("\r\n")[0].strip()[:_LINE_CHARACTERS]
        if _GOOD.match(line):
            return True, line
        return False, ": ".join(filter(None, (line, await _excerpt(reader, answer)))) or "closed without an answer"
    finally:
        await _closed(writer)


@cache
def _tls() -> ssl.SSLContext:
    """The system's roots, read once: reading them takes tens of milliseconds."""
    return ssl.create_default_context()


async def _head(reader: asyncio.StreamReader) -> str:
    """Status line and headers, as far as the app sent them before it closed or said too much."""
    try:
        return (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.IncompleteReadError as error:
        return error.partial.decode("latin-1")
    except asyncio.LimitOverrunError:
        return (await reader.read(_HEAD_BYTES)).decode("latin-1")


async def _excerpt(reader: asyncio.StreamReader, head: str) -> str:
    """The beginning of the body on one line, if it comes at once."""
    body = b""
    with suppress(TimeoutError):
        async with asyncio.timeout(_BODY_SECONDS):
            body = await reader.read(_BODY_BYTES)
    if "transfer-encoding: chunked" in head.lower():
        body = body.partition(b"\r\n")[2].partition(b"\r\n")[0]
    return " ".join(body.decode(errors="replace").split())


async def _tcp(target: str) -> Answer:
    """A connection."""
    host, _, port = target.rpartition(":")
    _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
    await _closed(writer)
    return True, "connected"


async def _closed(writer: asyncio.StreamWriter) -> None:
    """Let go at once: a TLS peer that never answers close_notify would hold up a verdict that is known."""
    writer.transport.abort()
    with suppress(OSError):
        await writer.wait_closed()


async def _grpc(target: str) -> Answer:
    """grpc.health.v1: SERVING passes. Its two messages have one field each, so they are written by hand."""
    import grpc

    address, _, service = target.partition("/")
    async with grpc.aio.insecure_channel(address, options=_CHANNEL_OPTIONS) as channel:
        call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(_HEALTH_METHOD, None, None)
        try:
            answer = await call(_health_request(service))
        except grpc.aio.AioRpcError as error:
            return False, f"{error.code().name}: {error.details()}"
    return answer == _SERVING, _HEALTH_WORDS.get(answer, "an answer that is none")


def _health_request(service: str) -> bytes:
    """HealthCheckRequest: field 1 is a string, its length a varint (protobuf's encoding); empty means the whole server."""
    name = service.encode()
    length, size = len(name), bytearray()
    while length > 0x7F:
        size.append(length & 0x7F | 0x80)
        length >>= 7
    return b"\x0a" + bytes(size) + bytes([length]) + name if name else b""
