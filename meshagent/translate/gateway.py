"""Gateways: listeners that are open to outside, and the routes by which requests go on as the gateway's own calls.

A service's routes are its callers' here too: they are tried below the path that the gateway leads to it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace

from envoy.config.core.v3.base_pb2 import HeaderValueOption
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_components_pb2 import HeaderMatcher, Route, VirtualHost
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.filters.network.connection_limit.v3.connection_limit_pb2 import ConnectionLimit

from meshagent.model.gateway import Gateway, GatewayListener, GatewayRoute
from meshagent.model.names import ANY
from meshagent.model.view import Outbound, ProxyView
from meshagent.translate.choosing import quoted
from meshagent.translate.connection import gateway_manager
from meshagent.translate.quic import speak_http3, take_datagrams, tell_of_http3
from meshagent.translate.retries import UNREACHED
from meshagent.translate.routes import add_routes
from meshagent.translate.secrets import key_pair_name
from meshagent.translate.settings import Settings, from_ads, pack
from meshagent.translate.tls import serve_outside, serve_outside_by_quic

_BUFFER = 32 << 10  # bytes a connection, as Envoy's guide for the edge has it
_HANDSHAKE_SECONDS = 10
NO_CHALLENGES: Mapping[str, str] = {}


def gateway_name(gateway: Gateway) -> str:
    """Its route configuration."""
    return f"gateway/{gateway.name}"


def gateway_listener_name(gateway: Gateway, listener: GatewayListener, *, udp: bool = False) -> str:
    """One of its listeners; that for HTTP/3 with `udp`."""
    return f"gateway/{gateway.name}:{listener.port}{'/udp' if udp else ''}"


def calls_of_gateway(gateway: Gateway, view: ProxyView) -> tuple[Outbound, ...]:
    """What it calls, without what comes and goes where that changes no route."""
    own = (each for each in view.outbounds if each.source == gateway.name and not each.listened)
    return tuple(each if each.plain_endpoints else replace(each, endpoints=()) for each in own)


def shown(listener: GatewayListener, there: Collection[str]) -> tuple[str, ...]:
    """The certificates that it can show, of those that are there."""
    return tuple(each.place for each in listener.tls.certificates if each.place in there) if listener.tls else ()


def gateway_listeners(
    gateway: Gateway, there: Collection[str], view: ProxyView, settings: Settings
) -> Iterator[Listener]:
    """Its listeners. One for TLS without any certificate that is there is left out: it never speaks plain text instead."""
    for each in gateway.listeners:
        places = shown(each, there)
        if each.tls is None or places:
            yield _listener(gateway, each, places, view, settings)
            if each.http3:
                yield _listener(gateway, each, places, view, settings, udp=True)


def gateway_routes(
    gateway: Gateway, calls: Sequence[Outbound], challenges: Mapping[str, str] = NO_CHALLENGES
) -> RouteConfiguration:
    """A virtual host for each name, with the routes of it in order. Whoever asks for another one is answered 404.

    `challenges`: what a CA that is asked for a certificate is answered, by the token that it names (RFC 8555, 8.3). That
    goes before everything, also redirects to https.
    """
    routes = RouteConfiguration(name=gateway_name(gateway))
    routes.ignore_port_in_host_matching = True
    routes.response_headers_to_remove.append(UNREACHED)  # it is said among proxies
    added = routes.request_headers_to_add.add(append_action=HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD)
    added.header.key = "forwarded"  # RFC 7239; x-forwarded-for of a caller is not believed in the mesh
    added.header.value = 'for="%DOWNSTREAM_REMOTE_ADDRESS%";proto=%REQ(X-FORWARDED-PROTO)%'
    by_name = {each.upstream: each for each in calls}
    hosts = dict.fromkeys(name for route in gateway.routes for name in route.hosts)
    for host in {**hosts, ANY: None} if challenges else hosts:
        virtual = routes.virtual_hosts.add(name=host, domains=[host])
        _answer(virtual, challenges)
        for route in (each for each in gateway.routes if host in each.hosts):
            _lead(virtual, route, by_name)
    return routes


def _listener(
    gateway: Gateway,
    asked: GatewayListener,
    places: tuple[str, ...],
    view: ProxyView,
    settings: Settings,
    *,
    udp: bool = False,
) -> Listener:
    listener = Listener(name=gateway_listener_name(gateway, asked, udp=udp))
    listener.address.socket_address.address = asked.address
    listener.address.socket_address.port_value = asked.port
    listener.address.socket_address.ipv4_compat = asked.address == "::"
    listener.enable_reuse_port.value = False
    if udp:
        take_datagrams(listener, settings, _HANDSHAKE_SECONDS)
    listener.per_connection_buffer_limit_bytes.value = _BUFFER
    chain = listener.filter_chains.add(name=gateway.name)
    if udp:
        serve_outside_by_quic(chain.transport_socket, tuple(map(key_pair_name, places)))
    elif places:
        serve_outside(chain.transport_socket, tuple(map(key_pair_name, places)))
        chain.transport_socket_connect_timeout.FromSeconds(_HANDSHAKE_SECONDS)
    limit = ConnectionLimit(stat_prefix=f"gateway.{gateway.name}.{asked.port}")
    limit.max_connections.value = asked.max_connections
    pack(chain.filters.add(name="envoy.filters.network.connection_limit").typed_config, limit)
    manager = gateway_manager(gateway.name, view, settings)
    if udp:
        speak_http3(manager)
    elif asked.http3:
        tell_of_http3(manager, asked.port)
    manager.rds.route_config_name = gateway_name(gateway)
    from_ads(manager.rds.config_source)
    pack(chain.filters.add(name="envoy.filters.network.http_connection_manager").typed_config, manager)
    return listener


def _answer(virtual: VirtualHost, challenges: Mapping[str, str]) -> None:
    for token, answer in challenges.items():
        route = virtual.routes.add()
        route.match.path = f"/.well-known/acme-challenge/{token}"
        route.direct_response.status = 200
        route.direct_response.body.inline_string = answer


def _lead(virtual: VirtualHost, asked: GatewayRoute, calls: Mapping[str, Outbound]) -> None:
    """The service's own routes, below the path. What cannot be called as HTTP is answered 503."""
    call, bare = calls.get(asked.service), asked.path_prefix.rstrip("/")
    if call is None or not call.by_request:
        route = virtual.routes.add()
        _below(route, bare)
        route.direct_response.status = 503
        route.direct_response.body.inline_string = f"{asked.service} cannot be called by HTTP\n"
        return
    found = VirtualHost()
    add_routes(found, call)
    for route in found.routes[:-1]:
        if bare:
            route.match.headers.append(_path_below(bare))
    _below(found.routes[-1], bare)
    virtual.routes.extend(found.routes)


def _below(route: Route, bare: str) -> None:
    if bare:
        route.match.path_separated_prefix = bare
    else:
        route.match.prefix = "/"


def _path_below(bare: str) -> HeaderMatcher:
    """Beside what a rule asks of the path itself. Ends at a segment, as every prefix does."""
    condition = HeaderMatcher(name=":path")
    condition.string_match.safe_regex.regex = f"{quoted(bare)}([/?].*)?"
    return condition
