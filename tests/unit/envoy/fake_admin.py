"""An admin interface that says what a test wants, on a Unix socket."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nOK\n"


def chunked(body: bytes, size: int = 7) -> bytes:
    pieces = [body[begin : begin + size] for begin in range(0, len(body), size)]
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
    return b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"


@asynccontextmanager
async def fake_admin(answer: Callable[[str], bytes | None]) -> AsyncIterator[Path]:
    """`answer` gets "GET /path" and returns the response's bytes; None: there is none, and the connection stays open."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        said = answer(head.partition(" HTTP/1.1\r\n")[0])
        if said is None:
            await reader.read()  # until the client goes
        else:
            writer.write(said)
        writer.close()
        await writer.wait_closed()

    with tempfile.TemporaryDirectory(prefix="mesh") as name:
        path = Path(name) / "admin.sock"
        async with await asyncio.start_unix_server(serve, str(path)):
            yield path
