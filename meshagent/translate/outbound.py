"""Outbound listeners: where a local app finds an upstream that it declared."""

from __future__ import annotations

from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_components_pb2 import RouteAction
from envoy.config.route.v3.route_pb2 import RouteConfiguration

from meshagent.model.names import HTTP_PROTOCOLS
from meshagent.model.view import Outbound, ProxyView
from meshagent.translate.accesslog import access_log
from meshagent.translate.clusters import plain_name, upstream_name
from meshagent.translate.connection import outbound_manager, safe_retries
from meshagent.translate.settings import Settings, from_ads, pack
from meshagent.translate.tcp import tcp_forward
from meshagent.translate.traffic import hash_policies


def outbound_listener_name(outbound: Outbound) -> str:
    """The listener of one upstream of one service."""
    return f"out/{outbound.source}/{outbound.upstream}:{outbound.local_port or outbound.local_socket}"


def outbound_listener(outbound: Outbound, view: ProxyView, settings: Settings) -> Listener:
    """A loopback port or Unix socket that leads to the upstream; its routes come by RDS, so it stays still."""
    listener = Listener(name=outbound_listener_name(outbound))
    listener.enable_reuse_port.value = False
    if outbound.local_socket:
        listener.address.pipe.path = outbound.local_socket
        listener.address.pipe.mode = outbound.socket_mode
    else:
        listener.address.socket_address.address = outbound.local_address
        listener.address.socket_address.port_value = outbound.local_port
    chain = listener.filter_chains.add()
    if outbound.protocol in HTTP_PROTOCOLS:
        manager = outbound_manager(outbound.source, outbound.upstream, view.access_log, settings)
        manager.rds.route_config_name = upstream_name(outbound)
        from_ads(manager.rds.config_source)
        pack(chain.filters.add(name="envoy.filters.network.http_connection_manager").typed_config, manager)
    else:
        proxy = tcp_forward(f"out.{outbound.source}.{outbound.upstream}", upstream_name(outbound))
        if view.access_log.only != "none":
            side = f"outbound to {outbound.upstream}"
            access_log(
                proxy.access_log.add(), view.access_log, settings, http=False, service=outbound.source, side=side
            )
        pack(chain.filters.add(name="envoy.filters.network.tcp_proxy").typed_config, proxy)
    return listener


def outbound_routes(outbound: Outbound) -> RouteConfiguration | None:
    """The routes of an HTTP upstream; None for TCP."""
    if outbound.protocol not in HTTP_PROTOCOLS:
        return None
    routes = RouteConfiguration(name=upstream_name(outbound))
    route = routes.virtual_hosts.add(name=outbound.upstream, domains=["*"]).routes.add()
    route.match.prefix = "/"
    _lead(route.route, outbound)
    route.route.timeout.SetInParent()  # 0: a caller's own timeout decides; streams live as long as they like
    safe_retries(route.route.retry_policy, 2, elsewhere=True)
    hash_policies(route.route, outbound.traffic.load_balancer)
    return routes


def _lead(action: RouteAction, outbound: Outbound) -> None:
    """To the mesh's instances, and where there are others, to each cluster as often as it has instances in service."""
    healthy = sum(endpoint.healthy for endpoint in outbound.plain_endpoints)
    if not healthy:
        action.cluster = upstream_name(outbound)
        return
    weights = {upstream_name(outbound): sum(endpoint.healthy for endpoint in outbound.endpoints)}
    for name, weight in (weights | {plain_name(outbound): healthy}).items():
        action.weighted_clusters.clusters.add(name=name).weight.value = weight
