"""The demo's processes: `python -m meshagent.demo.apps http|tcp NAME PORT`, or `agent ...`. They end when their parent does."""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import runpy
import signal
import sys
from contextlib import suppress

_PR_SET_PDEATHSIG = 1


async def serve(kind: str, name: str, port: int) -> None:
    """Serve on loopback, for ever."""

    async def http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                writer.write(answer(name, (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")))
                await writer.drain()
        writer.close()

    async def tcp(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(http if kind == "http" else tcp, "127.0.0.1", port)
    await server.serve_forever()


def answer(name: str, head: str) -> bytes:
    """What the HTTP service says to a request: who it is, what it was asked, and who its sidecar says is asking."""
    line, *rest = head.split("\r\n")
    headers = {key.lower(): value.strip() for key, _, value in (each.partition(":") for each in rest)}
    body = json.dumps({"service": name, "request": line, "caller": headers.get("x-forwarded-client-cert", "")}).encode()
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body) + body


def die_with_parent() -> None:
    """Ask the kernel for SIGTERM when the parent ends (Linux)."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() == 1:
        sys.exit(0)


if __name__ == "__main__":
    die_with_parent()
    if sys.argv[1] == "agent":
        sys.argv[:1] = ["meshagent"]
        runpy.run_module("meshagent", run_name="__main__")
    asyncio.run(serve(sys.argv[1], sys.argv[2], int(sys.argv[3])))
