"""The HTTP connection managers: hardened towards the mesh, forgiving towards the local app."""

from __future__ import annotations

from collections.abc import Sequence

from envoy.config.core.v3.protocol_pb2 import HttpProtocolOptions
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
    HttpFilter,
)
from envoy.extensions.http.early_header_mutation.header_mutation.v3.header_mutation_pb2 import HeaderMutation

from meshagent.model.defaults import AccessLog
from meshagent.model.view import Egress, Outbound, ProxyView
from meshagent.translate.accesslog import EXTERNAL, GATEWAY, Line, logs, outbound_logs
from meshagent.translate.counting import gateway_prefix, outbound_prefix
from meshagent.translate.extras import extra_places
from meshagent.translate.replies import explain_failures, explain_refusals, tell_failures, tell_unreached
from meshagent.translate.router import router, router_by_ecds
from meshagent.translate.settings import Settings, pack
from meshagent.translate.tracing import trace

# Headers that only a sidecar may set (facts/security.md, findings 7 and 9; attack test 6). One expression: a mutation for
# each prefix and name costs 1 to 2 % of a request more.
_OWN_HEADERS = "x-(envoy-.*|mesh-.*|forwarded-for|real-ip)"
# And what nobody outside may say at a gateway: who called or how, and that a call is part of a trace.
_OUTSIDE_HEADERS = "x-(envoy-.*|mesh-.*|forwarded-.*|real-ip|request-id|b3-.*)|forwarded|b3|traceparent|tracestate"
_NOBODY = "255.255.255.255"  # with no range at all, Envoy takes private addresses for internal (measured)
# As Envoy's guide for the edge has them: a peer that nobody knows holds little memory.
STREAMS, STREAM_WINDOW, WHOLE_WINDOW = 100, 64 << 10, 1 << 20


def inbound_manager(
    stat_prefix: str,
    line: Line,
    policy: AccessLog,
    settings: Settings,
    filters: Sequence[HttpFilter],
    *,
    strangers: bool,
) -> HttpConnectionManager:
    """Towards the mesh: normalised, bounded, nothing believed that the peer cannot prove. The caller adds the routes.

    `strangers`: peers show no certificate, so they are not waited for, and are told nothing that is said among proxies.
    """
    manager = _manager(stat_prefix, [*filters, router()])
    _remove(manager, _OWN_HEADERS)
    if strangers:
        _await_headers(manager)
    else:
        _leave_idle(manager)
        manager.http2_protocol_options.connection_keepalive.interval.FromSeconds(60)
        manager.http2_protocol_options.connection_keepalive.timeout.FromSeconds(20)
    manager.common_http_protocol_options.headers_with_underscores_action = HttpProtocolOptions.REJECT_REQUEST
    manager.common_http_protocol_options.max_connection_duration.FromTimedelta(settings.longest_connection)
    manager.generate_request_id.value = False
    manager.strip_trailing_host_dot = True
    manager.forward_client_cert_details = HttpConnectionManager.SANITIZE_SET
    manager.set_current_client_cert_details.uri = True
    explain_refusals(manager, line.service)
    tell_unreached(manager, among_proxies=not strangers)
    manager.access_log.extend(logs(policy, line, settings))
    return manager


def outbound_manager(outbound: Outbound, view: ProxyView, settings: Settings) -> HttpConnectionManager:
    """Towards the local app: HTTP/1.0 too, and none of the headers by which an app could steer the sidecar.

    Paths are normalised as the other side does it, so that routes and intentions judge the same one. Nobody counts as
    internal, so Envoy itself takes away what steers a proxy; what is for the other side to say is taken away there.
    """
    stat_prefix = outbound_prefix(outbound)
    manager = _manager(stat_prefix, [*extra_places(stat_prefix), router_by_ecds()])
    manager.internal_address_config.cidr_ranges.add(address_prefix=_NOBODY).prefix_len.value = 32
    _leave_idle(manager)
    manager.http_protocol_options.accept_http_10 = True
    manager.http_protocol_options.default_host_for_http_10 = outbound.upstream
    manager.forward_client_cert_details = HttpConnectionManager.SANITIZE
    explain_failures(manager, outbound.source, outbound.upstream)
    manager.access_log.extend(outbound_logs(outbound, view, settings))
    if outbound.traced and outbound.traffic.tracing:
        tags = {"service": outbound.source, "upstream": outbound.upstream, "host": view.host}
        trace(manager, view.tracing, outbound.traffic.tracing.sampling, outbound.source, tags)
    return manager


def gateway_manager(gateway: str, view: ProxyView, settings: Settings) -> HttpConnectionManager:
    """Towards outside: hardened as towards the mesh, and bounded for peers that nobody knows. The caller adds the routes.

    Measured on Envoy 1.40: what a client says of itself in x-forwarded-for and the like is gone before Envoy sets its own.
    """
    stat_prefix = gateway_prefix(gateway)
    manager = _manager(stat_prefix, [*extra_places(stat_prefix), router(told_apart=True)])
    _remove(manager, _OUTSIDE_HEADERS)
    _await_headers(manager)
    manager.common_http_protocol_options.headers_with_underscores_action = HttpProtocolOptions.REJECT_REQUEST
    manager.http2_protocol_options.max_concurrent_streams.value = STREAMS
    manager.http2_protocol_options.initial_stream_window_size.value = STREAM_WINDOW
    manager.http2_protocol_options.initial_connection_window_size.value = WHOLE_WINDOW
    manager.strip_trailing_host_dot = True
    manager.use_remote_address.value = True
    manager.forward_client_cert_details = HttpConnectionManager.SANITIZE
    tell_failures(manager)
    manager.access_log.extend(logs(view.access_log, Line(gateway, GATEWAY, view.trust_domain, True), settings))
    return manager


def egress_manager(
    egress: Egress, view: ProxyView, settings: Settings, filters: Sequence[HttpFilter]
) -> HttpConnectionManager:
    """Towards the local app, for what is outside the mesh: judged here as a service's own proxy would judge it."""
    manager = _manager(outbound_prefix(egress), [*filters, router()])
    _remove(manager, _OWN_HEADERS)
    _leave_idle(manager)
    manager.common_http_protocol_options.headers_with_underscores_action = HttpProtocolOptions.REJECT_REQUEST
    manager.http_protocol_options.accept_http_10 = True
    manager.http_protocol_options.default_host_for_http_10 = egress.upstream
    manager.generate_request_id.value = False
    manager.forward_client_cert_details = HttpConnectionManager.SANITIZE
    if egress.external.tls.mode == "originate":
        manager.scheme_header_transformation.scheme_to_overwrite = "https"
    explain_refusals(manager, egress.upstream, egress.source)
    explain_failures(manager, egress.source, egress.upstream, outside=True)
    line = Line(egress.source, f"{EXTERNAL}{egress.upstream}", view.trust_domain, True)
    manager.access_log.extend(logs(view.access_log, line, settings))
    return manager


def _remove(manager: HttpConnectionManager, forbidden: str) -> None:
    """Request headers with such names, before all else."""
    mutation = HeaderMutation()
    mutation.mutations.add().remove_on_match.key_matcher.safe_regex.regex = forbidden
    early = manager.early_header_mutation_extensions.add(name="envoy.http.early_header_mutation.header_mutation")
    pack(early.typed_config, mutation)


def _await_headers(manager: HttpConnectionManager) -> None:
    """Who has begun a request says it within 10 s.

    Not asked of proxies of the mesh and of local apps: an unfinished request holds no more than the connection that it came
    by, which may be idle anyway, and a timer for each request costs half a percent and more of it (measured, ADR 0032).
    """
    manager.request_headers_timeout.FromSeconds(10)


def _leave_idle(manager: HttpConnectionManager) -> None:
    """Streams in which nothing moves stay open, unless a document bounds it. Envoy's own default is 5 minutes."""
    manager.stream_idle_timeout.SetInParent()


def _manager(stat_prefix: str, filters: Sequence[HttpFilter]) -> HttpConnectionManager:
    """What all have in common. The last of the filters is a router."""
    manager = HttpConnectionManager(stat_prefix=stat_prefix, codec_type=HttpConnectionManager.AUTO)
    manager.http2_protocol_options.allow_connect = True  # carries WebSockets
    # Else one malformed request (`Host: a@b` is enough) ends the HTTP/2 connection, and with it what others have open there.
    manager.http2_protocol_options.override_stream_error_on_invalid_http_message.value = True
    manager.upgrade_configs.add(upgrade_type="websocket")
    manager.common_http_protocol_options.max_headers_count.value = 100
    manager.server_header_transformation = HttpConnectionManager.PASS_THROUGH
    manager.normalize_path.value = True
    manager.merge_slashes = True
    manager.path_with_escaped_slashes_action = HttpConnectionManager.REJECT_REQUEST
    manager.http_filters.extend(filters)
    return manager
