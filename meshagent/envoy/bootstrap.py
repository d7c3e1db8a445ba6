"""What Envoy is started with. Pure. Everything else reaches it over the agent's socket."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meshagent.model.tapping import TAP_CLUSTER

_SPARE_FILES = 500
_T = "type.googleapis.com/envoy."
# With 10, the default, Envoy took the agent's answers to a thousand small requests for a flood and ended the stream (measured).
_WINDOW_UPDATES = "max_inbound_window_update_frames_per_data_frame_sent"
_ADS = {"ads": {}, "resource_api_version": "V3"}
# Kept statistics: an inclusion list costs 0.95 of the CPU and 0.82 of the memory of all.
_STATS = (
    r"(server|listener_manager|cluster_manager|control_plane|overload)\..*",
    r"http\..*\.downstream_rq_(active|total|[1-5]xx|completed|time)",
    r"(http|listener)\..*\.downstream_cx_(active|total)",
    r"tcp\..*\.downstream_cx_total",
    r"(http|tcp)\.(in|out|gateway)\..*\.downstream_cx_[rt]x_bytes_total",
    r"cluster\.(out|plain)/.*\.upstream_cx_[rt]x_bytes_total",
    r"(cluster\.[^.]+|cluster\.external/.*|vhost\..*\.route\..*)\.upstream_rq_(total|active|[1-5]xx|completed|time|timeout|per_try_timeout|retry|retry_success|retry_overflow|retry_limit_exceeded|(pending|active)_overflow)",
    r".*\.upstream_cx_(active|total|connect_fail|connect_timeout|overflow|destroy_\w+_with_active_rq)",
    r".*\.ssl\.(handshake|connection_error|fail_verify_\w+)",
    r".*\.(downstream_cx_overflow|downstream_global_cx_overflow|downstream_rq_timeout|rate_limited)",
    r".*rbac\.(.+\.)?(shadow_)?(allowed|denied)",
    r".*\.circuit_breakers\.default\.remaining_(cx|pending|rq)",  # there only where a service has limits
    r".*\.(membership_(healthy|total)|outlier_detection\.ejections_active)",
    r"access_logs\.grpc_access_log\.logs_dropped",
)
# What waits for an agent that does not read is bounded by these, and by nothing else (measured: without them 2 MB a second).
_TAP_WINDOW = 262_144


# Bounds of the distribution of latencies, in ms. Envoy's own are 19, and between 1 and 5 ms it has none.
LATENCY_BOUNDS = (0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 30_000, 3_600_000)


@dataclass(frozen=True, slots=True)
class BootstrapSettings:
    """`node`: the host's name. The sockets are in a directory that only their user may enter.

    `max_connections`: downstream connections at most, of all listeners together; more are refused.
    """

    node: str
    xds_socket: Path
    admin_socket: Path
    max_connections: int = 50_000

    @property
    def tap_socket(self) -> Path:
        """Where the agent takes live requests while somebody watches."""
        return self.xds_socket.with_name("tap.sock")


def connections_allowed(wanted: int, open_files: int | None) -> int:
    """How many downstream connections to accept when a process may have `open_files` (None: any number) open.

    Each may need a second one to the application or the next host; some stay for listeners, logs and the agent.
    """
    if open_files is None:
        return wanted
    return max(1, min(wanted, (open_files - min(_SPARE_FILES, open_files // 4)) // 2))


def bootstrap(settings: BootstrapSettings) -> bytes:
    """The same settings give the same bytes, so that an agent knows a running Envoy as its own."""
    return json.dumps(_config(settings), sort_keys=True, indent=1).encode()


def _config(settings: BootstrapSettings) -> dict[str, Any]:
    return {
        "node": {"id": settings.node, "cluster": "meshagent"},
        "admin": {
            "address": {"pipe": {"path": str(settings.admin_socket), "mode": 0o600}},
            "ignore_global_conn_limit": True,
        },
        "dynamic_resources": {"lds_config": _ADS, "cds_config": _ADS, "ads_config": _ads_config()},
        "static_resources": {"clusters": [_xds_cluster(settings.xds_socket), _tap_cluster(settings.tap_socket)]},
        # Envoy refuses larger patterns by default (100), and ours for "does not look like this header" grow with the text.
        "layered_runtime": {
            "layers": [
                {"name": "static", "static_layer": {"re2.max_program_size.error_level": 100_000}},
                {"name": "admin", "admin_layer": {}},
            ]
        },
        "cluster_manager": {"enable_deferred_cluster_creation": True},
        "deferred_stat_options": {"enable_deferred_creation_stats": True},
        "stats_config": {
            "stats_matcher": {"inclusion_list": {"patterns": [{"safe_regex": {"regex": one}} for one in _STATS]}},
            "histogram_bucket_settings": [{"match": {"suffix": "rq_time"}, "buckets": LATENCY_BOUNDS}],
        },
        "overload_manager": {
            "resource_monitors": [
                {
                    "name": "envoy.resource_monitors.global_downstream_max_connections",
                    "typed_config": {
                        "@type": f"{_T}extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
                        "max_active_downstream_connections": settings.max_connections,
                    },
                }
            ]
        },
    }


def _ads_config() -> dict[str, Any]:
    # Envoy's default leaves an agent that restarted without its proxy for up to 6 s (measured), 30 s at worst.
    back_off = {"base_interval": "0.1s", "max_interval": "1s"}
    grpc = {"envoy_grpc": {"cluster_name": "xds", "retry_policy": {"retry_back_off": back_off}}}
    return {
        "api_type": "DELTA_GRPC",
        "transport_api_version": "V3",
        "set_node_on_first_message_only": True,
        "grpc_services": [grpc],
    }


def _xds_cluster(socket: Path) -> dict[str, Any]:
    return _grpc_cluster("xds", socket, {_WINDOW_UPDATES: 1_000_000})


def _tap_cluster(socket: Path) -> dict[str, Any]:
    """Where live requests go while somebody watches; nobody listens there otherwise."""
    windows = {"initial_stream_window_size": _TAP_WINDOW, "initial_connection_window_size": _TAP_WINDOW}
    return _grpc_cluster(TAP_CLUSTER, socket, windows) | {"per_connection_buffer_limit_bytes": _TAP_WINDOW}


def _grpc_cluster(name: str, socket: Path, http2: dict[str, int]) -> dict[str, Any]:
    endpoint = {"endpoint": {"address": {"pipe": {"path": str(socket)}}}}
    options = f"{_T}extensions.upstreams.http.v3.HttpProtocolOptions"
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "1s",
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": options,
                "explicit_http_config": {"http2_protocol_options": http2},
            }
        },
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
    }
