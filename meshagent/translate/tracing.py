"""Spans of the calls that proxies carry, by OTLP. Without a sampling there is nothing of it in any resource.

Envoy's OpenTelemetry tracer takes and gives W3C's `traceparent` and `tracestate` alone; B3 headers pass by as they are. A
caller's trace is gone on with as its flag says, whatever the sampling here (measured on 1.40).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping

from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.route.v3.route_components_pb2 import Route
from envoy.config.route.v3.route_components_pb2 import Tracing as RouteTracing
from envoy.config.trace.v3.opentelemetry_pb2 import OpenTelemetryConfig
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
)
from envoy.extensions.upstreams.http.v3.http_protocol_options_pb2 import HttpProtocolOptions
from envoy.type.v3.percent_pb2 import FractionalPercent

from meshagent.model.defaults import Tracing
from meshagent.translate.settings import pack

COLLECTOR = "otlp"
_HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_SECONDS = 2


def collector_cluster(tracing: Tracing | None) -> Cluster:
    """The way to the collector: HTTP/2 in plain text. Without one it leads nowhere, for logs that ask for it all the same."""
    host, port = tracing.collector if tracing else ("127.0.0.1", 0)
    cluster = Cluster(name=COLLECTOR, type=Cluster.STATIC if _is_address(host) else Cluster.STRICT_DNS)
    cluster.connect_timeout.FromSeconds(_SECONDS)
    cluster.load_assignment.cluster_name = COLLECTOR
    if not port:
        return cluster
    address = cluster.load_assignment.endpoints.add().lb_endpoints.add().endpoint.address.socket_address
    address.address, address.port_value = host, port
    options = HttpProtocolOptions()
    options.explicit_http_config.http2_protocol_options.SetInParent()
    pack(cluster.typed_extension_protocol_options[_HTTP_OPTIONS], options)
    return cluster


def trace(
    manager: HttpConnectionManager, tracing: Tracing | None, sampling: float, service: str, tags: Mapping[str, str]
) -> None:
    """Spans of a connection manager as those of `service`, each with these tags."""
    if tracing is None:
        return
    asked = manager.tracing
    asked.random_sampling.value = sampling
    asked.client_sampling.value = 0  # x-client-trace-id is not W3C's
    asked.overall_sampling.value = 100
    if not tracing.paths:
        asked.max_path_tag_length.value = 0  # Envoy's tag has the query in it
    for name, value in sorted(tags.items()):
        asked.custom_tags.add(tag=f"mesh.{name}").literal.value = value
    provider = OpenTelemetryConfig(service_name=service)
    provider.grpc_service.envoy_grpc.cluster_name = COLLECTOR
    provider.grpc_service.timeout.FromSeconds(_SECONDS)
    asked.provider.name = "envoy.tracers.opentelemetry"
    pack(asked.provider.typed_config, provider)


def trace_route(route: Route, name: str, sampling: float) -> None:
    """The rule's name on the spans of its requests, and the share of them that begin a trace."""
    asked: RouteTracing = route.tracing
    for share, percent in (
        (asked.random_sampling, sampling),
        (asked.client_sampling, 0),
        (asked.overall_sampling, 100),
    ):
        share.numerator, share.denominator = round(percent * 10_000), FractionalPercent.MILLION
    asked.custom_tags.add(tag="mesh.route").literal.value = name


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
