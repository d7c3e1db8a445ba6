"""What connected clients hold and were sent, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class TypeStatus:
    """One resource type of one client; the counters run since it connected, bytes are those of whole responses."""

    subscribed: int
    applied: int
    rejected: Mapping[str, str]  # name: why
    resources_sent: int
    removals_sent: int
    responses_sent: int
    bytes_sent: int


@dataclass(frozen=True, slots=True)
class Client:
    """Who a client says that it is, such as `vm-1`, `envoy`, `1.40.0`; empty where it does not say."""

    node: str = ""
    user_agent: str = ""
    version: str = ""


@dataclass(frozen=True, slots=True)
class StreamStatus:
    """One connected client."""

    client: Client
    connected_at: datetime
    applied_generation: int
    types: Mapping[str, TypeStatus]  # by type URL
