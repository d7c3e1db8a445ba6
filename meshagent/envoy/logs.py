"""Follows Envoy's log files and gives their lines as events. The files outlive the agent; reading begins at their end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Never

import structlog

from meshagent.envoy.admin import AdminClient
from meshagent.errors import EnvoyFailed

_log = structlog.get_logger(__name__)
_EVERY_SECONDS = 0.5
_ROTATE_BYTES = 64 << 20
_LONGEST_READ = 1 << 20  # bytes a look; a flood of lines is taken in turns
_LEVELS = {"warning": "warning", "error": "error", "critical": "error"}


async def follow(path: Path, admin: AdminClient) -> AsyncIterator[dict[str, Any]]:
    """Each JSON line appended from now on. Past 64 MiB the file is put aside as `.1` and Envoy begins a new one."""
    offset = path.stat().st_size if path.exists() else 0
    rest = b""
    while True:
        await asyncio.sleep(_EVERY_SECONDS)
        try:
            size = path.stat().st_size
        except OSError:
            continue
        if size < offset:
            offset, rest = 0, b""
        if size > offset:
            data = _read(path, offset)
            offset += len(data)
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                if event := parse_line(line):
                    yield event
        if offset > _ROTATE_BYTES:
            await _rotate(path, admin)


def parse_line(line: bytes) -> dict[str, Any] | None:
    """The object on one line; None when it is not one."""
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) else None


async def tell_log(path: Path, admin: AdminClient) -> Never:
    """Say in the agent's log what Envoy says in its own."""
    async for event in follow(path, admin):
        level = _LEVELS.get(str(event.get("level")), "info")
        getattr(_log, level)("envoy_logged", logger_name=event.get("logger"), message=event.get("message"))
    raise AssertionError("unreachable")


async def tell_requests(path: Path, admin: AdminClient) -> Never:
    """Say in the agent's log which requests Envoy logged."""
    async for event in follow(path, admin):
        refused = str(event.get("details") or "").startswith("rbac_access_denied")
        _log.info(
            "request_refused" if refused else "request_logged",
            **{key: value for key, value in event.items() if key != "event"},
        )
    raise AssertionError("unreachable")


def _read(path: Path, offset: int) -> bytes:
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(_LONGEST_READ)


async def _rotate(path: Path, admin: AdminClient) -> None:
    try:
        path.replace(path.with_suffix(path.suffix + ".1"))
        await admin.post("/reopen_logs")
    except (OSError, EnvoyFailed) as error:
        _log.warning("log_not_rotated", path=str(path), problem=str(error))
