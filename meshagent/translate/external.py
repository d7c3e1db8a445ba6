"""Names outside the mesh: their clusters, and the roots by which they are verified."""

from __future__ import annotations

from posixpath import dirname

from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.core.v3.base_pb2 import TransportSocket
from envoy.extensions.transport_sockets.tls.v3.common_pb2 import SubjectAltNameMatcher, TlsParameters
from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import Secret
from envoy.extensions.transport_sockets.tls.v3.tls_pb2 import UpstreamTlsContext
from envoy.extensions.upstreams.http.v3.http_protocol_options_pb2 import HttpProtocolOptions

from meshagent.model.defaults import RetryBudget
from meshagent.model.external import External, is_address
from meshagent.model.traffic import ConnectionPool
from meshagent.translate.settings import Settings, from_ads, pack
from meshagent.translate.traffic import limit

_HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_CONNECT_SECONDS = 5  # beyond the own network
_IDLE_SECONDS = 60  # servers on the internet seldom keep an idle connection for less
_ALPN = {"http": "http/1.1", "http2": "h2"}


def external_names(external: External) -> dict[str, tuple[str, ...]]:
    """The clusters of an external, each with its hosts: one for all, but each name by itself where the app names it."""
    if external.tls.mode == "passthrough":
        return {passed_name(external, host): (host,) for host in external.hosts}
    return {external_name(external): external.hosts}


def external_name(external: External) -> str:
    """The cluster of an external whose hosts are all alike."""
    return f"external/{external.name}"


def passed_name(external: External, host: str) -> str:
    """The cluster of one host of an external whose app speaks TLS itself."""
    return f"external/{external.name}/{host}"


def roots_name(external: External) -> str:
    """The SDS name of the roots by which an external is verified."""
    return f"external-roots/{external.name}"


def external_cluster(name: str, hosts: tuple[str, ...], external: External) -> Cluster:
    """Where an external is reached. A name that cannot be resolved keeps nothing else waiting."""
    addresses = all(map(is_address, hosts))
    cluster = Cluster(name=name, type=Cluster.STATIC if addresses else Cluster.STRICT_DNS)
    cluster.connect_timeout.FromSeconds(_CONNECT_SECONDS)
    if not addresses:
        cluster.dns_lookup_family = Cluster.V4_PREFERRED
        cluster.respect_dns_ttl = True
        cluster.wait_for_warm_on_init.value = False  # all listeners of a starting Envoy would wait for the answer
    cluster.load_assignment.cluster_name = name
    locality = cluster.load_assignment.endpoints.add()
    for host in hosts:
        address = locality.lb_endpoints.add().endpoint.address.socket_address
        address.address, address.port_value = host, external.port
    cluster.upstream_connection_options.tcp_keepalive.keepalive_time.value = 60
    limit(cluster, ConnectionPool(), RetryBudget())
    if external.http:
        pack(cluster.typed_extension_protocol_options[_HTTP_OPTIONS], _spoken(external))
    if external.tls.mode == "originate":
        _verified(cluster.transport_socket, external)
    return cluster


def external_roots(external: External, settings: Settings) -> Secret:
    """The roots, from a file of this host, which Envoy reads again when another is put in its place by renaming."""
    path = external.tls.ca_file or settings.system_roots
    secret = Secret(name=roots_name(external))
    secret.validation_context.trusted_ca.filename = path
    secret.validation_context.watched_directory.path = dirname(path)
    return secret


def _spoken(external: External) -> HttpProtocolOptions:
    options = HttpProtocolOptions()
    options.common_http_protocol_options.idle_timeout.FromSeconds(_IDLE_SECONDS)
    if external.protocol == "http":
        options.explicit_http_config.http_protocol_options.SetInParent()
    else:
        http2 = options.explicit_http_config.http2_protocol_options
        http2.override_stream_error_on_invalid_http_message.value = True
        http2.connection_keepalive.interval.FromSeconds(30)
        http2.connection_keepalive.timeout.FromSeconds(10)
    return options


def _verified(socket: TransportSocket, external: External) -> None:
    """TLS 1.2 or 1.3 to a server whose certificate comes from the roots and shows one of the names."""
    context = UpstreamTlsContext(sni=external.server_name)
    context.max_session_keys.value = 0  # a resumed session is not verified again
    common = context.common_tls_context
    common.tls_params.tls_minimum_protocol_version = TlsParameters.TLSv1_2
    common.tls_params.tls_maximum_protocol_version = TlsParameters.TLSv1_3
    if alpn := _ALPN.get(external.protocol):
        common.alpn_protocols.append(alpn)
    combined = common.combined_validation_context
    combined.validation_context_sds_secret_config.name = roots_name(external)
    from_ads(combined.validation_context_sds_secret_config.sds_config)
    for name in external.proven_names:
        kind = SubjectAltNameMatcher.IP_ADDRESS if is_address(name) else SubjectAltNameMatcher.DNS
        combined.default_validation_context.match_typed_subject_alt_names.add(san_type=kind).matcher.exact = name
    socket.name = "envoy.transport_sockets.tls"
    pack(socket.typed_config, context)
