"""The requests and connections that this host's Envoy logged, newest first: the agent's access log as values.

What is read is bounded, whatever was logged: the last bytes of the file, and of the one that was put aside before it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from meshagent.model.names import parse_spiffe_id
from meshagent.model.reasons import flag_words, reason_of

_LOOK_BYTES = 4 << 20  # about 6000 lines, 60 ms
_BLOCK = 64 << 10
_MOST = 1000
_SIDES = {"outbound to ": "outbound", "external ": "external"}


@dataclass(frozen=True, slots=True)
class Seen:
    """One line. `side`: inbound, outbound, external or gateway. `service` is whose proxy wrote it.

    `source` and `destination` are services (or a name outside), as far as they are proven or declared; "" where they are
    not; `source_id` and `destination_id` their SPIFFE IDs. `ticket` is what the caller got where this proxy answered, and
    `far_ticket` what came with the answer of another one. `reason` is a code of `model/reasons.py`, "" where nothing
    failed; `flags` are Envoy's, `flag_words` say them. `rule` is the id of the rule that let it in. `status` and the fields
    of requests are 0 and "" for connections. `duration_ms` is -1 where nobody knows it. `claimed` is what a certificate says that
    was not believed. `doubted`: it was let in, and shadow would refuse it.
    """

    time: datetime
    ticket: str
    far_ticket: str
    side: str
    service: str
    source: str
    source_id: str
    destination: str
    destination_id: str
    method: str
    path: str
    authority: str
    status: int
    reason: str
    flags: tuple[str, ...]
    details: str
    failure: str
    rule: str
    route: str
    subset: str
    instance: str
    duration_ms: int
    bytes_received: int
    bytes_sent: int
    request_id: str
    trace_id: str
    remote: str
    server_name: str
    claimed: str
    doubted: bool

    @property
    def http(self) -> bool:
        """Whether it is a request; else a connection."""
        return bool(self.method or self.status)

    @property
    def ended(self) -> datetime:
        """When it was logged: lines are in this order."""
        return self.time + timedelta(milliseconds=max(self.duration_ms, 0))

    @property
    def flag_words(self) -> tuple[str, ...]:
        """What Envoy's flags say."""
        return flag_words(self.flags)

    def data(self) -> dict[str, Any]:
        """As plain data, with the flags in words."""
        found = {name: getattr(self, name) for name in self.__slots__}
        return found | {"time": self.time.isoformat(), "flags": list(self.flags), "flag_words": list(self.flag_words)}


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which requests are asked for; what is empty does not matter. `status` is one, or a class as `4xx`.

    `failed`: only those with a reason.
    """

    ticket: str = ""
    source: str = ""
    destination: str = ""
    side: str = ""
    reason: str = ""
    status: str = ""
    since: datetime | None = None
    failed: bool = False

    def holds(self, seen: Seen) -> bool:
        """Whether it is asked for."""
        named = (("source", self.source), ("destination", self.destination), ("side", self.side))
        return (
            (not self.ticket or self.ticket in (seen.ticket, seen.far_ticket))
            and all(not value or getattr(seen, name) == value for name, value in named)
            and (not self.reason or seen.reason == self.reason)
            and (not self.failed or bool(seen.reason))
            and (not self.since or seen.ended >= self.since)
            and (not self.status or _has_status(seen.status, self.status))
        )


def read_requests(
    path: Path, wanted: Wanted, *, most: int = 100, look_bytes: int = _LOOK_BYTES
) -> tuple[tuple[Seen, ...], bool]:
    """Up to `most` (at most 1000) logged requests, newest first, and whether all that is kept was looked at.

    `path` is the access log; `path`.1 the one before it. At most `look_bytes` of both are read. A file that is not there
    has no lines.
    """
    found: list[Seen] = []
    left = look_bytes
    for each in (path, path.with_name(f"{path.name}.1")):
        for line in _backwards(each, left):
            seen = parse_seen(line) if not wanted.ticket or wanted.ticket.encode() in line else None
            if seen is None:
                continue
            if wanted.since and seen.ended < wanted.since:
                return tuple(found), True
            if wanted.holds(seen) and len(found) >= min(most, _MOST):
                return tuple(found), False
            if wanted.holds(seen):
                found.append(seen)
        left -= _size(each)
    return tuple(found), left >= 0


def parse_seen(line: bytes) -> Seen | None:
    """The request on one line; None when it is not one. A field that an older line lacks is empty."""
    try:
        event = json.loads(line.decode(errors="replace"))
        return seen_of(event) if isinstance(event, dict) else None
    except ValueError:
        return None


def seen_of(event: dict[str, Any]) -> Seen:
    """The request that an event tells of. Raises ValueError without a time."""
    side, called = _side(_text(event, "side"))
    service = _text(event, "service")
    source_id, destination_id = _text(event, "source"), _text(event, "destination")
    inward = side == "inbound"
    flags = tuple(flag for flag in _text(event, "flags").split(",") if flag not in ("", "-"))
    status, details, failure = _number(event, "status", 0), _text(event, "details"), _text(event, "failure")
    return Seen(
        time=datetime.fromisoformat(_text(event, "time")).astimezone(UTC),
        ticket=_text(event, "ticket"),
        far_ticket=_far(event),
        side=side,
        service=service,
        source=_service(source_id) if inward else service,
        source_id=source_id,
        destination=(service or _named(event)) if inward else called or _service(destination_id),
        destination_id=destination_id,
        method=_text(event, "method"),
        path=_text(event, "path"),
        authority=_text(event, "authority"),
        status=status,
        reason=reason_of(side, status, flags, details, failure, _text(event, "refused")),
        flags=flags,
        details=details,
        failure=failure,
        rule=_text(event, "rule"),
        route=_text(event, "route"),
        subset=_text(event, "subset"),
        instance=_text(event, "instance"),
        duration_ms=_number(event, "duration_ms", -1),
        bytes_received=_number(event, "bytes_received", 0),
        bytes_sent=_number(event, "bytes_sent", 0),
        request_id=_text(event, "request_id"),
        trace_id=_text(event, "trace_id"),
        remote=_text(event, "remote"),
        server_name=_text(event, "server_name"),
        claimed=_text(event, "claimed"),
        doubted=_text(event, "shadow") == "denied" and not details.startswith("rbac_access_denied"),
    )


def _backwards(path: Path, most: int) -> Iterator[bytes]:
    """The lines of the last `most` bytes, newest first. One that the limit cuts is left out."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return
    try:
        end = os.fstat(descriptor).st_size
        lowest, rest = max(0, end - max(most, 0)), b""
        while end > lowest:
            begin = max(lowest, end - _BLOCK)
            rest = os.pread(descriptor, end - begin, begin) + rest
            first, *lines = rest.split(b"\n")
            for line in reversed(lines):
                if line:
                    yield line
            rest, end = first, begin
        if lowest == 0 and rest:
            yield rest
    finally:
        os.close(descriptor)


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except OSError:
        return 0


def _side(text: str) -> tuple[str, str]:
    """(side, what was called) of the log's `outbound to payments`."""
    for beginning, side in _SIDES.items():
        if text.startswith(beginning):
            return side, text.removeprefix(beginning)
    return text, ""


def _far(event: dict[str, Any]) -> str:
    """The ticket of another proxy's answer; this proxy's own is said twice."""
    far = _text(event, "far_ticket")
    return "" if far == _text(event, "ticket") else far


def _named(event: dict[str, Any]) -> str:
    """The service that the server name in TLS (`source.destination.domain`) asks for, of a connection that came to none."""
    _, _, rest = _text(event, "server_name").partition(".")
    return rest.partition(".")[0]


def _service(uri: str) -> str:
    known = parse_spiffe_id(uri)
    return known[1] if known else ""


def _text(event: dict[str, Any], name: str) -> str:
    value = event.get(name)
    if isinstance(value, list):
        return ",".join(map(str, value))
    return "" if value is None or value == "-" else str(value)


def _number(event: dict[str, Any], name: str, otherwise: int) -> int:
    value = event.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) else otherwise


def _has_status(status: int, wanted: str) -> bool:
    return str(status) == wanted or (wanted.endswith("xx") and str(status)[:1] == wanted[:1])
