"""GET /v1/requests: what this host's access log has, as plain data."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from meshagent.envoy.requests import Wanted, read_requests
from meshagent.envoy.spawn import ACCESS_LOG
from meshagent.errors import UsageProblem
from meshagent.model.names import parse_duration

_ASKED = frozenset({"ticket", "source", "destination", "side", "reason", "status", "since", "failed", "most"})
_MOST = 100


async def logged_requests(directory: Path, query: Mapping[str, str], now: datetime) -> dict[str, Any]:
    """`requests` newest first, and `all`: whether everything that is kept was looked at.

    `directory` is the agent's data directory. `query`: the fields of `Wanted`, with `since` a time or how long ago (`10m`),
    and `most`. Raises UsageProblem for what is not one of them.
    """
    wanted, most = _wanted(query, now)
    found, whole = await asyncio.to_thread(read_requests, directory / ACCESS_LOG, wanted, most=most)
    return {"requests": [each.data() for each in found], "all": whole}


def _wanted(query: Mapping[str, str], now: datetime) -> tuple[Wanted, int]:
    if unknown := sorted(query.keys() - _ASKED):
        raise UsageProblem(
            f"requests cannot be asked for by {unknown[0]}", next_step=f"use {', '.join(sorted(_ASKED))}"
        )
    most = query.get("most", str(_MOST))
    if not most.isdecimal():
        raise UsageProblem(f"most is a number, not {most}")
    texts = {name: query.get(name, "") for name in ("ticket", "source", "destination", "side", "reason", "status")}
    failed = query.get("failed", "") not in ("", "0", "false")
    return Wanted(**texts, since=_since(query.get("since", ""), now), failed=failed), int(most)


def _since(text: str, now: datetime) -> datetime | None:
    if not text:
        return None
    try:
        ago: timedelta | None = parse_duration(text)
    except ValueError:
        ago = None
    if ago is not None:
        return now - ago
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except ValueError:
        raise UsageProblem(f"since is a time or how long ago, such as 10m, not {text}") from None
