"""Calls that were seen: who called whom, how often and when last, and of requests which method and which kind of path."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

LOGGED_PERCENT = "meshagent.shadow_log_percent"
"""Envoy's runtime key: of how many requests in a hundred that shadow would refuse there is a line in the access log."""


class CallKey(NamedTuple):
    """What is counted together. Without a method it is every call of the pair, whatever it asked for.

    `path` is a pattern as `policy/patterns.py` has them: `*` stands for one segment, `/**` at the end for all below.
    """

    source: str
    destination: str
    method: str = ""
    path: str = ""


@dataclass(frozen=True, slots=True)
class Observed:
    """How often such a call was seen, when last (with its zone), and by the proxies of which hosts."""

    key: CallKey
    calls: int
    last: datetime
    hosts: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        """The evidence for a person."""
        calls = "1 call" if self.calls == 1 else f"{self.calls} calls"
        hosts = f", seen by {', '.join(self.hosts)}" if self.hosts else ""
        return f"{calls}, the last at {self.last:%Y-%m-%dT%H:%M:%SZ}{hosts}"
