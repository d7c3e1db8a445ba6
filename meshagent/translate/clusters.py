"""Clusters and endpoints: the apps that run here, and the upstreams that they declared."""

from __future__ import annotations

from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.core.v3.health_check_pb2 import HealthStatus
from envoy.config.endpoint.v3.endpoint_components_pb2 import LbEndpoint, LocalityLbEndpoints
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.extensions.transport_sockets.raw_buffer.v3.raw_buffer_pb2 import RawBuffer
from envoy.extensions.upstreams.http.v3.http_protocol_options_pb2 import HttpProtocolOptions

from meshagent.model.defaults import RetryBudget
from meshagent.model.identity import Domains
from meshagent.model.names import HTTP_PROTOCOLS, Protocol
from meshagent.model.traffic import ConnectionPool
from meshagent.model.view import Endpoint, Inbound, Outbound
from meshagent.translate.settings import from_ads, pack
from meshagent.translate.subsets import belong, divide
from meshagent.translate.tls import connect_to, connect_to_native, server_name
from meshagent.translate.traffic import limit, pooled, shape

_HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_PLAIN, _NATIVE = "plain", "native"
_CONNECT_SECONDS = 2
_ONE_IS_ENOUGH = 100_000  # percent: of up to a thousand instances
_APP_IDLE_SECONDS = (
    4  # below the 5 s after which common app servers close a kept connection: no race for the last request
)


def app_cluster_name(inbound: Inbound) -> str:
    """The cluster of an app that runs here."""
    return f"app/{inbound.service}/{inbound.instance}"


def upstream_name(outbound: Outbound) -> str:
    """The cluster, load assignment and route configuration of one upstream of one service."""
    return f"out/{outbound.source}/{outbound.upstream}{_part(outbound)}"


def app_cluster(inbound: Inbound) -> Cluster:
    """Plain connections to the app, in the protocol that it speaks."""
    cluster = Cluster(name=app_cluster_name(inbound), type=Cluster.STATIC)
    cluster.connect_timeout.FromSeconds(_CONNECT_SECONDS)
    cluster.load_assignment.cluster_name = cluster.name
    address = cluster.load_assignment.endpoints.add().lb_endpoints.add().endpoint.address.socket_address
    address.address, address.port_value = inbound.app_address, inbound.app_port
    limit(cluster, ConnectionPool(), RetryBudget())
    _spoken_plainly(cluster, inbound.protocol)
    return cluster


def upstream_cluster(outbound: Outbound, trust_domain: str, domains: Domains) -> Cluster:
    """mTLS to the sidecars of an upstream; HTTP travels as HTTP/2 whatever the apps speak."""
    cluster = _eds_cluster(upstream_name(outbound), outbound)
    alpn: tuple[str, ...] = ()
    if outbound.protocol in HTTP_PROTOCOLS:
        alpn = ("h2",)
        options = HttpProtocolOptions()
        http2 = options.explicit_http_config.http2_protocol_options
        http2.allow_connect = True
        http2.override_stream_error_on_invalid_http_message.value = True  # one bad answer costs no other request
        http2.connection_keepalive.interval.FromSeconds(30)
        http2.connection_keepalive.timeout.FromSeconds(10)
        pooled(options, outbound.traffic.connection_pool)
        pack(cluster.typed_extension_protocol_options[_HTTP_OPTIONS], options)
    sni = server_name(outbound.source, outbound.upstream, trust_domain)
    connect_to(cluster.transport_socket, outbound.source, outbound.upstream, sni, domains, alpn)
    if not alpn:
        _other_sockets(cluster, outbound, domains)
    return cluster


def plain_name(outbound: Outbound) -> str:
    """The cluster of an HTTP upstream's instances that take plain text alone."""
    return f"plain/{outbound.source}/{outbound.upstream}{_part(outbound)}"


def plain_cluster(outbound: Outbound, domains: Domains) -> Cluster:
    """HTTP as the apps speak it, by plain text or by Consul's proxies, which carry bytes and know no HTTP.

    A cluster of its own: one cluster has one version of HTTP for all.
    """
    cluster = _eds_cluster(plain_name(outbound), outbound)
    _spoken_plainly(cluster, outbound.protocol)
    if any(endpoint.native for endpoint in outbound.plain_endpoints):
        connect_to_native(cluster.transport_socket, outbound.source, outbound.upstream, domains)
        _other_sockets(cluster, outbound, domains)
    return cluster


def load_assignment(outbound: Outbound) -> ClusterLoadAssignment:
    """The endpoints. None is said explicitly: a removed resource would leave the old ones in use (measured)."""
    assignment = ClusterLoadAssignment(cluster_name=upstream_name(outbound))
    plain = () if outbound.protocol in HTTP_PROTOCOLS else outbound.plain_endpoints
    if outbound.tiers:
        _by_tier(assignment, outbound, outbound.endpoints, plain)
    elif outbound.endpoints or plain:
        locality = assignment.endpoints.add()
        for endpoint in outbound.endpoints:
            _add_endpoint(locality, endpoint)
        for endpoint in plain:
            _by_socket(_add_endpoint(locality, endpoint), endpoint)
    return assignment


def plain_assignment(outbound: Outbound) -> ClusterLoadAssignment:
    """The endpoints of the plain cluster."""
    assignment = ClusterLoadAssignment(cluster_name=plain_name(outbound))
    mixed = any(endpoint.native for endpoint in outbound.plain_endpoints)
    if outbound.tiers:
        _by_tier(
            assignment, outbound, () if mixed else outbound.plain_endpoints, outbound.plain_endpoints if mixed else ()
        )
        return assignment
    locality = assignment.endpoints.add()
    for endpoint in outbound.plain_endpoints:
        added = _add_endpoint(locality, endpoint)
        if mixed:
            _by_socket(added, endpoint)
    return assignment


def _by_tier(
    assignment: ClusterLoadAssignment,
    outbound: Outbound,
    plainly: tuple[Endpoint, ...],
    by_socket: tuple[Endpoint, ...],
) -> None:
    """Each tier as a priority, also one that is empty: no instance that comes or goes moves another.

    Envoy sends a priority as much as its share of healthy instances times this factor, up to all: so one is enough.
    """
    assignment.policy.overprovisioning_factor.value = _ONE_IS_ENOUGH
    for number in range(len(outbound.tiers)):
        held = [each for each in (*plainly, *by_socket) if each.tier == number]
        for region, zone in sorted({(each.region, each.zone) for each in held}) or [("", "")]:
            locality = assignment.endpoints.add(priority=number)
            locality.locality.region, locality.locality.zone = region, zone
            for endpoint in (each for each in held if (each.region, each.zone) == (region, zone)):
                added = _add_endpoint(locality, endpoint)
                if endpoint in by_socket:
                    _by_socket(added, endpoint)


def _other_sockets(cluster: Cluster, outbound: Outbound, domains: Domains) -> None:
    """Plain text for endpoints that no mesh has, and mTLS by Consul's CA for those behind its own proxies."""
    kinds = {_NATIVE if endpoint.native else _PLAIN for endpoint in outbound.plain_endpoints}
    for kind in sorted(kinds):
        added = cluster.transport_socket_matches.add(name=kind)
        added.match[kind] = True
        if kind == _NATIVE:
            connect_to_native(added.transport_socket, outbound.source, outbound.upstream, domains)
            continue
        added.transport_socket.name = "envoy.transport_sockets.raw_buffer"
        pack(added.transport_socket.typed_config, RawBuffer())


def _by_socket(added: LbEndpoint, endpoint: Endpoint) -> None:
    kind = _NATIVE if endpoint.native else _PLAIN
    added.metadata.filter_metadata["envoy.transport_socket_match"][kind] = True


def _add_endpoint(locality: LocalityLbEndpoints, endpoint: Endpoint) -> LbEndpoint:
    added = locality.lb_endpoints.add()
    address = added.endpoint.address.socket_address
    address.address, address.port_value = endpoint.address, endpoint.port
    if not endpoint.healthy:
        added.health_status = HealthStatus.UNHEALTHY
    if endpoint.subsets:
        belong(added.metadata, endpoint.subsets)
    return added


def _part(outbound: Outbound) -> str:
    return f"#{outbound.subset}" if outbound.subset else ""


def _eds_cluster(name: str, outbound: Outbound) -> Cluster:
    cluster = Cluster(name=name, type=Cluster.EDS)
    from_ads(cluster.eds_cluster_config.eds_config)
    cluster.common_lb_config.healthy_panic_threshold.value = 0  # a failing instance is not called, even when all fail
    cluster.ignore_health_on_host_removal = True
    cluster.upstream_connection_options.tcp_keepalive.keepalive_time.value = 60
    shape(cluster, outbound.traffic)
    if outbound.divided:
        divide(cluster)
    return cluster


def _spoken_plainly(cluster: Cluster, protocol: Protocol) -> None:
    """HTTP as an app itself speaks it; nothing for TCP."""
    if protocol not in HTTP_PROTOCOLS:
        return
    options = HttpProtocolOptions()
    options.common_http_protocol_options.idle_timeout.FromSeconds(_APP_IDLE_SECONDS)
    if protocol == "http":
        options.explicit_http_config.http_protocol_options.SetInParent()
    else:
        http2 = options.explicit_http_config.http2_protocol_options
        http2.allow_connect = True
        http2.override_stream_error_on_invalid_http_message.value = True
    pack(cluster.typed_extension_protocol_options[_HTTP_OPTIONS], options)
