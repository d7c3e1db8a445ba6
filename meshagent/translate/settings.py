"""What translation needs to know of this host beyond the view, and the names shared by all resources."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from envoy.config.core.v3.config_source_pb2 import ApiVersion, ConfigSource, ExtensionConfigSource
from google.protobuf.any_pb2 import Any
from google.protobuf.message import Message

ROOTS = "roots"
SYSTEM_ROOTS = "/etc/ssl/certs/ca-certificates.crt"  # of Debian and its kin
_FETCH_SECONDS = 2


@dataclass(frozen=True, slots=True)
class Settings:
    """`access_log_path`: the file to which Envoy appends one JSON line a logged request.

    `longest_connection`: after so long a caller's HTTP connection is drained. Who calls is proven when it is made, and Envoy
    does not end one whose certificate ended meanwhile (measured: facts/security.md, finding 6).

    `ipv6`: whether this host has a loopback address of it.

    `system_roots`: the file in which this host keeps the roots that it believes.

    `workers`: Envoy's worker threads.
    """

    access_log_path: str
    longest_connection: timedelta = timedelta(hours=1)
    ipv6: bool = True
    system_roots: str = SYSTEM_ROOTS
    workers: int = 1


def from_ads(source: ConfigSource) -> None:
    """Make the source the aggregated stream."""
    source.ads.SetInParent()
    source.resource_api_version = ApiVersion.V3
    # Default 15 s. What a listener waits for in vain keeps all listeners of a starting Envoy down (measured).
    source.initial_fetch_timeout.FromSeconds(_FETCH_SECONDS)


def by_ecds(discovery: ExtensionConfigSource, default: Message, *, awaited: bool = False) -> None:
    """Make what a filter holds come by the aggregated stream, under the filter's own name.

    Until it is there the filter holds `default`; or else (`awaited`) the listener waits for it, and holds that if none comes.
    """
    from_ads(discovery.config_source)
    pack(discovery.default_config, default)
    discovery.apply_default_config_without_warming = not awaited
    discovery.type_urls.append(f"type.googleapis.com/{default.DESCRIPTOR.full_name}")


def pack(target: Any, message: Message) -> None:
    """Put a message into an Any, with the same bytes each time."""
    target.Pack(message, deterministic=True)
