"""One probe of a health check. Never raises for what the app does: a failure is an answer."""

from __future__ import annotations

import asyncio
import os
import signal
import ssl
from contextlib import suppress
from urllib.parse import urlsplit

from meshagent.model.service import Check

_OUTPUT_BYTES = 4096
_HEALTH_METHOD = "/grpc.health.v1.Health/Check"
_ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"}
Answer = tuple[bool, str]  # passed, what it said


async def probe(check: Check) -> Answer:
    """Run an http, tcp, grpc or exec check once, within its timeout."""
    try:
        async with asyncio.timeout(check.timeout.total_seconds()):
            if check.http is not None:
                return await _http(check.http)
            if check.tcp is not None:
                return await _tcp(check.tcp)
            if check.grpc is not None:
                return await _grpc(check.grpc, check.timeout.total_seconds())
            return await _exec(check.exec or ())
    except TimeoutError:
        return False, f"no answer within {check.timeout.total_seconds():g} s"
    except (OSError, ssl.SSLError, EOFError) as error:
        return False, str(error) or type(error).__name__


async def _http(url: str) -> Answer:
    """A GET; 2xx passes. A redirect is an answer and is not followed (facts/security.md, attack 36)."""
    parts = urlsplit(url)
    tls = ssl.create_default_context() if parts.scheme == "https" else None
    port = parts.port or (443 if tls else 80)
    reader, writer = await asyncio.open_connection(parts.hostname, port, ssl=tls)
    try:
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        head = (
            f"GET {path} HTTP/1.1\r\nHost: {parts.netloc}\r\nUser-Agent: meshagent-check\r\nConnection: close\r\n\r\n"
        )
        writer.write(head.encode())
        await writer.drain()
        answer = await reader.read(_OUTPUT_BYTES)
    finally:
        await _closed(writer)
    line = answer.partition(b"\r\n")[0].decode(errors="replace")
    words = line.split(" ")
    passed = len(words) > 1 and words[0].startswith("HTTP/") and words[1].isdigit() and words[1].startswith("2")
    return passed, line or "closed without an answer"


async def _tcp(target: str) -> Answer:
    """A connection."""
    host, _, port = target.rpartition(":")
    _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
    await _closed(writer)
    return True, "connected"


async def _closed(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()


async def _grpc(target: str, timeout: float) -> Answer:
    """grpc.health.v1: SERVING passes. Its two messages have one field each, so they are written by hand."""
    import grpc

    address, _, service = target.partition("/")
    name = service.encode()
    async with grpc.aio.insecure_channel(address) as channel:
        call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(_HEALTH_METHOD, None, None)
        try:
            answer = await call(b"\x0a" + bytes([len(name)]) + name if name else b"", timeout=timeout)
        except grpc.aio.AioRpcError as error:
            return False, f"{error.code().name}: {error.details()}"
    return answer == b"\x08\x01", "SERVING" if answer == b"\x08\x01" else "NOT_SERVING"


async def _exec(argv: tuple[str, ...]) -> Answer:
    """A command without a shell and without our environment; exit 0 passes. Its whole group ends with it."""
    process = await asyncio.create_subprocess_exec(
        *argv,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=_ENVIRONMENT,
        start_new_session=True,
    )
    try:
        output = await process.stdout.read(_OUTPUT_BYTES) if process.stdout else b""
        while process.stdout and await process.stdout.read(_OUTPUT_BYTES):
            continue  # read on, so that it does not block, and keep only the beginning
        code = await process.wait()
    finally:
        _end_group(process.pid)
        await process.wait()
    return code == 0, output.decode(errors="replace").strip() or f"exit {code}"


def _end_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return
