"""Follows Envoy's log files and gives their lines as events. The files outlive the agent; reading begins at their end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Never

import structlog

from meshagent.envoy.admin import AdminClient
from meshagent.envoy.spawn import make_file
from meshagent.envoy.tail import Tail
from meshagent.errors import EnvoyFailed
from meshagent.model.reasons import FINE, reason_of

_log = structlog.get_logger(__name__)
_EVERY_SECONDS = 0.5
_ROTATE_BYTES = 64 << 20
_LEVELS = {"trace": "debug", "debug": "debug", "info": "info", "warning": "warning", "error": "error"}
_LEVELS["critical"] = "critical"

Event = dict[str, Any]


async def follow(
    path: Path, admin: AdminClient, *, every: float = _EVERY_SECONDS, rotate_bytes: int = _ROTATE_BYTES
) -> AsyncIterator[Event]:
    """Each JSON line appended from now on, looked for `every` so many seconds.

    Past `rotate_bytes` the file is put aside as `.1` and Envoy begins a new one.
    """
    tail = Tail(path)
    limit = rotate_bytes
    try:
        while True:
            await asyncio.sleep(every)
            for line in tail.lines():
                if event := parse_line(line):
                    yield event
            if tail.skipped:
                _log.warning("log_skipped", path=str(path), bytes=tail.skipped)
                tail.skipped = 0
            if _size(path) > limit:
                limit = rotate_bytes if await rotate(path, admin) else limit + rotate_bytes
    finally:
        tail.close()


def parse_line(line: bytes) -> Event | None:
    """The object on one line; None when it is not one."""
    try:
        event = json.loads(line.decode(errors="replace"))
    except ValueError:
        return None
    return event if isinstance(event, dict) else None


async def tell_log(path: Path, admin: AdminClient) -> Never:
    """Say in the agent's log what Envoy says in its own."""
    async for event in follow(path, admin):
        level = _LEVELS.get(str(event.get("level")), "info")
        getattr(_log, level)("envoy_logged", logger_name=event.get("logger"), message=event.get("message"))
    raise AssertionError("unreachable")


async def tell_requests(path: Path, admin: AdminClient, hand: Callable[[Event], None] = lambda event: None) -> Never:
    """Say in the agent's log which requests Envoy logged, and hand each of them to `hand`, which must not raise.

    What went well and shadow would refuse is not said one by one: it may be all there is.
    """
    async for event in follow(path, admin):
        hand(event)
        if event.get("shadow") == "denied" and reason_in(event) == FINE:
            continue
        name = "request_refused" if is_refusal(event) else "request_logged"
        _log.info(name, **{key: value for key, value in event.items() if key != "event"})
    raise AssertionError("unreachable")


def is_refusal(event: Event) -> bool:
    """Whether a line of the access log tells of a request or connection that an intention refused."""
    return reason_in(event) == "intention"


def reason_in(event: Event) -> str:
    """The code of why the call failed, as far as its own line tells; empty where nothing did."""
    flags = [flag for flag in str(event.get("flags") or "").split(",") if flag not in ("", "-")]
    status = event.get("status")
    number = status if isinstance(status, int) else 0
    return reason_of(str(event.get("side")), number, flags, str(event.get("details") or ""))


async def rotate(path: Path, admin: AdminClient) -> bool:
    """Put the file aside as `.1`, in place of the last one, and have Envoy begin a new one. Returns whether it did."""
    aside = path.with_name(f"{path.name}.1")
    try:
        path.replace(aside)
        make_file(path)  # before Envoy would, with mode 0644
    except OSError as error:
        _log.warning("log_not_rotated", path=str(path), problem=str(error))
        return False
    try:
        await admin.post("/reopen_logs")
    except EnvoyFailed as error:
        aside.replace(path)  # it still writes there
        _log.warning("log_not_rotated", path=str(path), problem=str(error))
        return False
    return True


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
