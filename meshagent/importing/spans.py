"""Durations as other meshes write them: Go's `1h30m`, protobuf's `0.5s`, and Consul's whole nanoseconds."""

from __future__ import annotations

import re
from datetime import timedelta

from meshagent.model.names import format_duration

_PART = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ns|us|µs|ms|s|m|h)")
_MICROSECONDS = {"ns": 0.001, "us": 1.0, "µs": 1.0, "ms": 1e3, "s": 1e6, "m": 6e7, "h": 3.6e9}
_LONGEST = 3.6e15  # microseconds, a million hours: our own limit


def span(value: object) -> str:
    """Our spelling of a duration. Raises ValueError when it is none, is negative or too long."""
    if value in (0, "0") and not isinstance(value, bool):
        return "0ms"
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return _written(value * _MICROSECONDS["ns"])
    parts = _PART.findall(value) if isinstance(value, str) else []
    if not parts or "".join(number + unit for number, unit in parts) != value:
        raise ValueError("must be a duration such as 500ms or 1m30s")
    return _written(sum(float(number) * _MICROSECONDS[unit] for number, unit in parts))


def _written(microseconds: float) -> str:
    if microseconds > _LONGEST:
        raise ValueError("is longer than a million hours")
    return format_duration(timedelta(microseconds=round(microseconds)))
