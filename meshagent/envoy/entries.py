"""What Envoy tells of live requests over gRPC, as the same events that its log file has. Nothing secret is taken over."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from meshagent.envoy.requests import Seen, seen_of
from meshagent.model.tapping import side_and_service

if TYPE_CHECKING:
    from envoy.config.core.v3.address_pb2 import Address
    from envoy.data.accesslog.v3.accesslog_pb2 import (
        AccessLogCommon,
        HTTPAccessLogEntry,
        ResponseFlags,
        TCPAccessLogEntry,
        TLSProperties,
    )
    from envoy.service.accesslog.v3.als_pb2 import StreamAccessLogsMessage

_JUDGES = ("envoy.filters.http.rbac", "envoy.filters.network.rbac")
_RULE, _SHADOW = "enforced_effective_policy_id", "shadow_engine_result"
_REFUSED, _TICKET = "x-mesh-refused", "x-mesh-ticket"
# The names that Envoy's text logs have for them (docs: access log, command operators).
_FLAGS = {
    "failed_local_healthcheck": "LH",
    "no_healthy_upstream": "UH",
    "upstream_request_timeout": "UT",
    "local_reset": "LR",
    "upstream_remote_reset": "UR",
    "upstream_connection_failure": "UF",
    "upstream_connection_termination": "UC",
    "upstream_overflow": "UO",
    "no_route_found": "NR",
    "delay_injected": "DI",
    "fault_injected": "FI",
    "rate_limited": "RL",
    "unauthorized_details": "UAEX",
    "rate_limit_service_error": "RLSE",
    "downstream_connection_termination": "DC",
    "upstream_retry_limit_exceeded": "URX",
    "stream_idle_timeout": "SI",
    "invalid_envoy_request_headers": "IH",
    "downstream_protocol_error": "DPE",
    "upstream_max_stream_duration_reached": "UMSDR",
    "response_from_cache_filter": "RFCF",
    "no_filter_config_found": "NFCF",
    "duration_timeout": "DT",
    "upstream_protocol_error": "UPE",
    "no_cluster_found": "NC",
    "overload_manager": "OM",
    "dns_resolution_failure": "DF",
    "downstream_remote_reset": "DR",
}


def seen_in(message: StreamAccessLogsMessage, name: str) -> Iterator[Seen]:
    """The requests and connections of one message; `name` is what the stream's first message called itself."""
    side, service = side_and_service(name)
    for request in message.http_logs.log_entry:
        yield _seen(side, service, request.common_properties, _http(request))
    for connection in message.tcp_logs.log_entry:
        yield _seen(side, service, connection.common_properties, _tcp(connection))


def led_to(cluster: str) -> tuple[str, str]:
    """(service or name outside, subset) of a cluster that calls are led to; empty where it is none of those."""
    kind, _, rest = cluster.partition("/")
    if kind == "external":
        return rest.partition("/")[0], ""
    if kind not in ("out", "plain"):
        return "", ""
    called, _, subset = rest.partition("/")[2].removesuffix("+failover").partition("#")
    return called, subset


def _seen(side: str, service: str, common: AccessLogCommon, more: dict[str, Any]) -> Seen:
    called, subset = led_to(common.upstream_cluster)
    told = {
        "time": common.start_time.ToDatetime().isoformat(timespec="milliseconds") + "+00:00",
        "service": service,
        "side": f"outbound to {called}" if side == "outbound" else f"external {called}" if side == "external" else side,
        "source": _name(common.tls_properties, own=False) if side == "inbound" else "",
        "destination": _name(common.tls_properties, own=True) if side == "inbound" else "",
        "flags": _flags(common.response_flags),
        "failure": common.upstream_transport_failure_reason,
        "route": common.route_name if side != "inbound" else "",
        "subset": subset,
        "instance": _address(common.upstream_remote_address) if side != "inbound" else "",
        "duration_ms": common.duration.ToMilliseconds(),
        "remote": _address(common.downstream_remote_address),
        "rule": _judged(common, _RULE),
        "shadow": _judged(common, _SHADOW),
    }
    seen = seen_of(told | more)
    return replace(seen, destination=called) if side == "gateway" else seen


def _http(entry: HTTPAccessLogEntry) -> dict[str, Any]:
    from envoy.config.core.v3.base_pb2 import RequestMethod

    request, response = entry.request, entry.response
    headers = response.response_headers
    return {
        "method": RequestMethod.Name(request.request_method) if request.request_method else "",
        "path": (request.original_path or request.path).partition("?")[0].partition("#")[0],
        "authority": request.authority,
        "request_id": request.request_id,
        "status": response.response_code.value,
        "details": response.response_code_details,
        "bytes_received": request.request_body_bytes,
        "bytes_sent": response.response_body_bytes,
        "refused": headers.get(_REFUSED, ""),
        **_ticket(headers.get(_TICKET, ""), entry.common_properties),
    }


def _tcp(entry: TCPAccessLogEntry) -> dict[str, Any]:
    moved = entry.connection_properties
    return {
        "bytes_received": moved.received_bytes,
        "bytes_sent": moved.sent_bytes,
        "details": entry.common_properties.connection_termination_details,
    }


def _ticket(text: str, common: AccessLogCommon) -> dict[str, str]:
    """A ticket begins with when its stream began, so that one's own can be told from that of another proxy's answer."""
    began = f"{common.start_time.seconds}{common.start_time.nanos // 1000:06d}-"
    return {"ticket" if text.startswith(began) else "far_ticket": text}


def _flags(flags: ResponseFlags) -> list[str]:
    return [_FLAGS[field.name] for field, _ in flags.ListFields() if field.name in _FLAGS]


def _judged(common: AccessLogCommon, what: str) -> str:
    """What the filter of the rules says of the call."""
    for judge in _JUDGES:
        if judge in common.metadata.filter_metadata:
            found = common.metadata.filter_metadata[judge].fields
            if what in found:
                return found[what].string_value
    return ""


def _name(tls: TLSProperties, *, own: bool) -> str:
    """The URI in the certificate of one side."""
    shown = tls.local_certificate_properties if own else tls.peer_certificate_properties
    return next((each.uri for each in shown.subject_alt_name if each.uri), "")


def _address(address: Address) -> str:
    if address.HasField("pipe"):
        return address.pipe.path
    found = address.socket_address
    shown = f"[{found.address}]" if ":" in found.address else found.address
    return f"{shown}:{found.port_value}" if found.address else ""
