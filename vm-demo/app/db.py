"""The guestbook's database: entries in a file, behind a line protocol on TCP. It knows nothing of the mesh.

A client sends `ADD entry-as-JSON`, `ALL` or `FROM number` (that one and all later ones, as they come), one line each.
An entry is answered as its JSON on a line, the end of an answer as an empty line.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from contextlib import suppress
from pathlib import Path


class Entries:
    """What was written, oldest first; each is on disk before it is told."""

    def __init__(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        self._file = file
        self._lines = file.read_text().splitlines() if file.exists() else []
        self._grown = asyncio.Condition()

    async def add(self, text: str) -> str:
        """Keep an entry and give its line. Raises ValueError when it is no JSON."""
        line = json.dumps(json.loads(text))
        with self._file.open("a") as file:
            file.write(line + "\n")
        async with self._grown:
            self._lines.append(line)
            self._grown.notify_all()
        return line

    def since(self, number: int) -> list[str]:
        """The lines from that number on."""
        return self._lines[number:]

    async def wait_beyond(self, number: int) -> None:
        """Until there are more than so many."""
        async with self._grown:
            await self._grown.wait_for(lambda: len(self._lines) > number)


async def answer(entries: Entries, request: str, writer: asyncio.StreamWriter) -> None:
    """One request."""
    word, _, rest = request.partition(" ")
    if word == "ADD":
        _write(writer, await entries.add(rest), "")
    elif word == "ALL":
        _write(writer, *entries.since(0), "")
    elif word == "FROM":
        number = int(rest) if rest.strip() else len(entries.since(0))
        while True:
            _write(writer, *(lines := entries.since(number)))
            await writer.drain()
            number += len(lines)
            await entries.wait_beyond(number)
    else:
        _write(writer, json.dumps({"error": "ADD, ALL or FROM"}), "")
    await writer.drain()


async def serve(file: Path, port: int) -> None:
    """For ever."""
    entries = Entries(file)

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, ValueError):
            while line := await reader.readline():
                await answer(entries, line.decode().strip(), writer)
        writer.close()

    async with await asyncio.start_server(connected, "127.0.0.1", port) as server:
        await server.serve_forever()


def _write(writer: asyncio.StreamWriter, *lines: str) -> None:
    writer.write("".join(f"{line}\n" for line in lines).encode())


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--file", type=Path, default=Path("/var/lib/guestbook/entries.jsonl"))
    parser.add_argument("--port", type=int, default=5000)
    given = parser.parse_args()
    asyncio.run(serve(given.file, given.port))
