"""Outbound listeners to names outside the mesh: where a local app finds one, and where it is judged whether it may.

There is no proxy at the other end, so the rules are enforced here, by ECDS as on an inbound: the next request obeys. A
stricter rule changes the chain too, which ends what is open.
"""

from __future__ import annotations

from envoy.config.core.v3.extension_pb2 import TypedExtensionConfig
from envoy.config.listener.v3.listener_components_pb2 import FilterChain
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.filters.listener.tls_inspector.v3.tls_inspector_pb2 import TlsInspector
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import HttpFilter

from meshagent.model.view import Egress, ProxyView
from meshagent.translate.accesslog import EXTERNAL, Line, logs, written
from meshagent.translate.connection import egress_manager
from meshagent.translate.external import external_name, passed_name
from meshagent.translate.local import local_listener
from meshagent.translate.rbac import caller_config, rules_by_ecds
from meshagent.translate.replies import REFUSED, TICKET_HEADER
from meshagent.translate.retries import UNREACHED, safe_retries
from meshagent.translate.settings import Settings, pack
from meshagent.translate.tcp import NOWHERE, tcp_forward

_PASSED = "passthrough"


def egress_rbac_name(egress: Egress) -> str:
    """The ECDS name of the rules for one service's calls of an external."""
    return f"rbac-out/{egress.source}/{egress.upstream}"


def egress_rbac(egress: Egress) -> TypedExtensionConfig:
    """The rules. Who calls is known by the listener, so only what is called is looked at."""
    config = TypedExtensionConfig(name=egress_rbac_name(egress))
    pack(config.typed_config, caller_config(egress.external.protocol, egress.guard, egress.source))
    return config


def egress_listener(egress: Egress, view: ProxyView, settings: Settings) -> Listener:
    """A loopback port or Unix socket that leads out of the mesh, if the rules allow it."""
    listener = local_listener(egress)
    if egress.external.tls.mode == _PASSED:
        _pass_by_name(listener, egress, view, settings)
    else:
        egress_filters(listener.filter_chains.add(name=f"{egress.source}/{egress.upstream}"), egress, view, settings)
    return listener


def egress_filters(chain: FilterChain, egress: Egress, view: ProxyView, settings: Settings) -> None:
    """Lead what the chain takes to the external, as it speaks (not with passthrough, where the app's name decides)."""
    _mark_cut(chain, egress)
    if egress.external.http:
        place = HttpFilter(name=egress_rbac_name(egress))
        rules_by_ecds(place.config_discovery, egress.external.protocol)
        manager = egress_manager(egress, view, settings, (place,))
        _route_outside(manager.route_config, egress)
        pack(chain.filters.add(name="envoy.filters.network.http_connection_manager").typed_config, manager)
    else:
        _bytes(chain, egress, external_name(egress.external), view, settings)


def _pass_by_name(listener: Listener, egress: Egress, view: ProxyView, settings: Settings) -> None:
    """A chain for each host. A connection that names none of them finds no chain, and is closed; the log tells the name."""
    for log in written(view.access_log, _line(egress, view), settings):
        log.filter.Clear()
        log.filter.response_flag_filter.flags.append("NR")  # whatever finds a chain has that one's log
        listener.access_log.append(log)
    pack(listener.listener_filters.add(name="envoy.filters.listener.tls_inspector").typed_config, TlsInspector())
    for host in egress.external.hosts:
        chain = listener.filter_chains.add(name=f"{egress.source}/{egress.upstream}/{host}")
        chain.filter_chain_match.transport_protocol = "tls"
        chain.filter_chain_match.server_names.append(host)
        _mark_cut(chain, egress)
        _bytes(chain, egress, passed_name(egress.external, host), view, settings)


def _mark_cut(chain: FilterChain, egress: Egress) -> None:
    if egress.cut:
        chain.metadata.filter_metadata["meshagent"].fields["cut"].number_value = egress.cut


def _bytes(chain: FilterChain, egress: Egress, cluster: str, view: ProxyView, settings: Settings) -> None:
    """RBAC looks at the app's first byte, and a server that speaks first is heard before: so no way at all where closed."""
    place = chain.filters.add(name=egress_rbac_name(egress))
    rules_by_ecds(place.config_discovery, egress.external.protocol)
    proxy = tcp_forward(f"out.{egress.source}.{egress.upstream}", NOWHERE if egress.closed else cluster)
    proxy.access_log.extend(logs(view.access_log, _line(egress, view), settings))
    pack(chain.filters.add(name="envoy.filters.network.tcp_proxy").typed_config, proxy)


def _line(egress: Egress, view: ProxyView) -> Line:
    return Line(egress.source, f"{EXTERNAL}{egress.upstream}", view.trust_domain, False)


def _route_outside(routes: RouteConfiguration, egress: Egress) -> None:
    routes.name = f"{egress.source}/{egress.upstream}"
    routes.response_headers_to_remove.extend((UNREACHED, REFUSED, TICKET_HEADER))  # nobody outside speaks for the mesh
    routes.request_headers_to_remove.append("x-forwarded-proto")  # how the app speaks to its own proxy
    host = routes.virtual_hosts.add(name=egress.upstream, domains=["*"])
    route = host.routes.add()
    route.match.prefix = "/"
    route.route.cluster = external_name(egress.external)
    route.route.host_rewrite_literal = egress.external.authority
    route.route.timeout.SetInParent()  # 0: a caller's own timeout decides
    safe_retries(route.route.retry_policy, 1, elsewhere=False)
