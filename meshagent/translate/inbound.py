"""Inbound listeners: one mTLS port for all services of the host, told apart by SNI, a filter chain per allowed source."""

from __future__ import annotations

from datetime import timedelta

from envoy.config.listener.v3.listener_components_pb2 import FilterChain
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.filters.listener.tls_inspector.v3.tls_inspector_pb2 import TlsInspector
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import HttpFilter
from envoy.extensions.filters.network.tcp_proxy.v3.tcp_proxy_pb2 import UpstreamConnectMode

from meshagent.model.names import HTTP_PROTOCOLS
from meshagent.model.view import Chain, Inbound, ProxyView
from meshagent.translate.accesslog import INBOUND, Line, handshakes, logs
from meshagent.translate.admission import add_limit, admission_filters
from meshagent.translate.clusters import app_cluster_name
from meshagent.translate.connection import inbound_manager
from meshagent.translate.counting import inbound_prefix
from meshagent.translate.natives import Natives, natives
from meshagent.translate.rbac import bytes_rbac_name, plain_rbac_name, rbac_name, rules_by_ecds
from meshagent.translate.replies import explain_crowding, explain_limits
from meshagent.translate.retries import safe_retries
from meshagent.translate.settings import Settings, from_ads, pack
from meshagent.translate.tcp import NOWHERE, tcp_forward
from meshagent.translate.tls import BYTES, accept_from, accept_native, server_name
from meshagent.translate.tracing import trace

_EARLY_BYTES = 65536  # kept while the app is being connected to


def inbound_listener_name(port: int) -> str:
    """The listener of an mTLS port."""
    return f"in/{port}"


def plain_listener_name(inbound: Inbound) -> str:
    """The listener of a permissive service's plain-text port."""
    return f"plain/{inbound.service}/{inbound.instance}"


def inbound_listener(members: tuple[Inbound, ...], view: ProxyView, settings: Settings) -> Listener:
    """The mTLS listener of one port. Only its chains ever change, so Envoy updates it in place and drains just those."""
    listener = _listener(inbound_listener_name(members[0].mtls_port), view.address, members[0].mtls_port)
    pack(listener.listener_filters.add(name="envoy.filters.listener.tls_inspector").typed_config, TlsInspector())
    listener.access_log.extend(handshakes(view, settings))
    for inbound in members:
        for chain in inbound.chains:
            _mtls_chain(listener.filter_chains.add(), inbound, chain.source, chain.cut, view, settings)
        for chain in inbound.byte_chains:
            _bytes_chain(listener.filter_chains.add(), inbound, chain, view, settings)
        for source in inbound.shut_out:
            _mtls_chain(listener.filter_chains.add(), inbound, source, 0, view, settings)
        _mtls_chain(listener.filter_chains.add(), inbound, None, inbound.default_cut, view, settings)
    if callers := natives(members, view.domains):
        _native_chain(listener.filter_chains.add(), members[0], callers, view, settings)
    return listener


def plain_listener(inbound: Inbound, view: ProxyView, settings: Settings) -> Listener:
    """The plain-text listener of a permissive service. Who comes here is a stranger to every intention."""
    listener = _listener(plain_listener_name(inbound), view.address, inbound.plain_port)
    chain = listener.filter_chains.add(name=f"{inbound.service}/plain")
    rules = plain_rbac_name(inbound.service)
    _filters(chain, inbound, rules, view, settings, inbound_prefix(inbound), closed=False)
    return listener


def inbound_routes_name(inbound: Inbound) -> str:
    """The route configuration of an instance whose requests are counted over all its chains."""
    return f"in/{inbound.service}/{inbound.instance}"


def inbound_routes(inbound: Inbound) -> RouteConfiguration:
    """The way to the app, with the measure of requests."""
    routes = RouteConfiguration()
    _route_to_app(routes, inbound)
    routes.name = inbound_routes_name(inbound)
    add_limit(routes.virtual_hosts[0], inbound)
    return routes


def _listener(name: str, address: str, port: int) -> Listener:
    listener = Listener(name=name)
    listener.address.socket_address.address = address
    listener.address.socket_address.port_value = port
    # With SO_REUSEPORT a second Envoy of the same user would silently share the port; without it, it is told.
    listener.enable_reuse_port.value = False
    return listener


def _mtls_chain(
    chain: FilterChain, inbound: Inbound, source: str | None, cut: int, view: ProxyView, settings: Settings
) -> None:
    chain.name = f"{inbound.service}/{source or '*'}"
    chain.filter_chain_match.server_names.append(server_name(source or "*", inbound.service, view.trust_domain))
    if cut:
        chain.metadata.filter_metadata["meshagent"].fields["cut"].number_value = cut
    alpn = ("h2", "http/1.1") if inbound.protocol in HTTP_PROTOCOLS else ()
    accept_from(chain.transport_socket, inbound.service, view.domains, source, alpn)
    # A server that speaks first would be heard before the RBAC filter sees a byte of the caller: so a chain in which
    # nobody is allowed leads nowhere.
    closed = source in inbound.shut_out if source else not inbound.default_open
    counted = inbound_prefix(inbound, source or "")
    _filters(chain, inbound, rbac_name(inbound.service), view, settings, counted, closed=closed)


def _bytes_chain(chain: FilterChain, inbound: Inbound, allowed: Chain, view: ProxyView, settings: Settings) -> None:
    """Beside the source's chain for requests, for callers' proxies that offer to pass bytes on. No other has this name."""
    chain.name = f"{inbound.service}/{allowed.source}/l4"
    chain.filter_chain_match.server_names.append(server_name(allowed.source, inbound.service, view.trust_domain))
    chain.filter_chain_match.application_protocols.append(BYTES)
    if allowed.cut:
        chain.metadata.filter_metadata["meshagent"].fields["cut"].number_value = allowed.cut
    accept_from(chain.transport_socket, inbound.service, view.domains, allowed.source, (BYTES,))
    longest = settings.longest_connection  # as for requests: it does not outlive the certificate that it was made with
    rules, counted = bytes_rbac_name(inbound.service), inbound_prefix(inbound, allowed.source)
    _bytes_filters(chain, inbound, rules, view, settings, counted, longest=longest)


def _native_chain(chain: FilterChain, inbound: Inbound, callers: Natives, view: ProxyView, settings: Settings) -> None:
    """Without a server name: what no other chain matches comes here."""
    chain.name = f"{inbound.service}/native"
    chain.metadata.filter_metadata["meshagent"].fields["rules"].string_value = callers.rules
    accept_native(chain.transport_socket, inbound.service, view.domains, callers.sources)
    rules = rbac_name(inbound.service)
    _filters(chain, inbound, rules, view, settings, inbound_prefix(inbound), closed=False)


def _filters(
    chain: FilterChain, inbound: Inbound, rbac: str, view: ProxyView, settings: Settings, counted: str, *, closed: bool
) -> None:
    log = inbound.access_log or view.access_log
    if inbound.protocol in HTTP_PROTOCOLS:
        http_guard = HttpFilter(name=rbac)
        rules_by_ecds(http_guard.config_discovery, inbound.protocol)
        filters = [http_guard, *admission_filters(inbound)]
        line = Line(inbound.service, INBOUND, view.trust_domain, True, bool(inbound.sampling))
        strangers = not chain.HasField("transport_socket")
        manager = inbound_manager(counted, line, log, settings, filters, strangers=strangers)
        if inbound.sampling:
            tags = {"service": inbound.service, "instance": inbound.instance, "host": view.host}
            trace(manager, view.tracing, inbound.sampling, inbound.service, tags)
        if inbound.admission.adaptive_concurrency:
            explain_crowding(manager, inbound.service)
        if inbound.admission.rate_limit:
            explain_limits(manager, inbound.service)
            manager.rds.route_config_name = inbound_routes_name(inbound)
            from_ads(manager.rds.config_source)
        else:
            _route_to_app(manager.route_config, inbound)
        pack(chain.filters.add(name="envoy.filters.network.http_connection_manager").typed_config, manager)
        return
    _bytes_filters(chain, inbound, rbac, view, settings, counted, closed=closed)


def _bytes_filters(
    chain: FilterChain,
    inbound: Inbound,
    rbac: str,
    view: ProxyView,
    settings: Settings,
    counted: str,
    *,
    closed: bool = False,
    longest: timedelta | None = None,
) -> None:
    guard = chain.filters.add(name=rbac)
    rules_by_ecds(guard.config_discovery, "tcp")
    proxy = tcp_forward(counted, NOWHERE if closed else app_cluster_name(inbound))
    proxy.upstream_connect_mode = UpstreamConnectMode.ON_DOWNSTREAM_TLS_HANDSHAKE  # a stranger costs the app nothing
    proxy.max_early_data_bytes.value = _EARLY_BYTES
    log = inbound.access_log or view.access_log
    if longest is not None:
        proxy.max_downstream_connection_duration.FromTimedelta(longest)
    proxy.access_log.extend(logs(log, Line(inbound.service, INBOUND, view.trust_domain, False), settings))
    pack(chain.filters.add(name="envoy.filters.network.tcp_proxy").typed_config, proxy)


def _route_to_app(routes: RouteConfiguration, inbound: Inbound) -> None:
    routes.name = inbound.service
    host = routes.virtual_hosts.add(name=inbound.service, domains=["*"])
    route = host.routes.add()
    route.match.prefix = "/"
    route.route.cluster = app_cluster_name(inbound)
    route.route.timeout.SetInParent()  # 0: streams live as long as they like
    safe_retries(route.route.retry_policy, 1, elsewhere=False)
