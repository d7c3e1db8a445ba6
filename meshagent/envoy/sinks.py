"""Looks after the log files that policy asks for beside the agent's own: keeps them small, and prints one of them."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Never

import structlog

from meshagent.envoy.admin import AdminClient
from meshagent.envoy.logs import rotate
from meshagent.envoy.spawn import make_file
from meshagent.envoy.tail import Tail
from meshagent.model.defaults import LOG_FILES

_log = structlog.get_logger(__name__)
_EVERY_SECONDS = 0.5
_LOOK_SECONDS = 10.0
_ROTATE_BYTES = 64 << 20


def to_stdout(data: bytes) -> None:
    """Write to this process's stdout, as it is."""
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


async def keep_sinks(
    directory: Path,
    admin: AdminClient,
    *,
    every: float = _EVERY_SECONDS,
    look: float = _LOOK_SECONDS,
    rotate_bytes: int = _ROTATE_BYTES,
    write: Callable[[bytes], None] = to_stdout,
) -> Never:
    """Print what is appended to the one file, `every` so many seconds, and put either aside as `.1` when it is overgrown.

    Whoever reads stdout slowly holds up nothing but this. Where nobody reads it any more, that is logged once.
    """
    for name in LOG_FILES.values():
        make_file(directory / name)
    async with asyncio.TaskGroup() as group:
        group.create_task(_print(directory / LOG_FILES["stdout"], every, write))
        group.create_task(_keep_small([directory / name for name in LOG_FILES.values()], admin, look, rotate_bytes))
    raise AssertionError("unreachable")


async def _print(path: Path, every: float, write: Callable[[bytes], None]) -> Never:
    tail, closed = Tail(path), False
    try:
        while True:
            await asyncio.sleep(every)
            lines = tail.lines()
            if tail.skipped:
                _log.warning("log_skipped", path=str(path), bytes=tail.skipped)
                tail.skipped = 0
            if lines and not closed:
                closed = not await asyncio.to_thread(_written, write, b"\n".join(lines) + b"\n")
    finally:
        tail.close()


def _written(write: Callable[[bytes], None], data: bytes) -> bool:
    try:
        write(data)
    except (OSError, ValueError) as error:  # ValueError: stdout was closed
        _log.warning("stdout_closed", problem=str(error))
        return False
    return True


async def _keep_small(paths: list[Path], admin: AdminClient, look: float, rotate_bytes: int) -> Never:
    limits = dict.fromkeys(paths, rotate_bytes)
    while True:
        await asyncio.sleep(look)
        for path in paths:
            if path.exists() and path.stat().st_size > limits[path]:
                limits[path] = rotate_bytes if await rotate(path, admin) else limits[path] + rotate_bytes
