"""Outbound listeners: where a local app finds an upstream that it declared."""

from __future__ import annotations

from envoy.config.listener.v3.listener_components_pb2 import FilterChain
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.extensions.filters.network.set_filter_state.v3.set_filter_state_pb2 import Config as FilterState
from envoy.extensions.filters.network.tcp_proxy.v3.tcp_proxy_pb2 import TcpProxy

from meshagent.model.view import Outbound, ProxyView
from meshagent.translate.clusters import upstream_name
from meshagent.translate.connection import outbound_manager
from meshagent.translate.local import local_listener
from meshagent.translate.settings import Settings, from_ads, pack
from meshagent.translate.tls import BYTES


def outbound_listener(outbound: Outbound, view: ProxyView, settings: Settings) -> Listener:
    """A loopback port or Unix socket that leads to the upstream; its ways come by RDS or ECDS, so it stays still."""
    listener = local_listener(outbound)
    upstream_filters(listener.filter_chains.add(), outbound, view, settings)
    return listener


def upstream_filters(chain: FilterChain, outbound: Outbound, view: ProxyView, settings: Settings) -> None:
    """Lead what the chain takes to the upstream, as it speaks."""
    if outbound.by_request:
        manager = outbound_manager(outbound, view, settings)
        manager.rds.route_config_name = upstream_name(outbound)
        from_ads(manager.rds.config_source)
        pack(chain.filters.add(name="envoy.filters.network.http_connection_manager").typed_config, manager)
    else:
        if outbound.data_path:
            _offer_bytes(chain)
        discovery = chain.filters.add(name=upstream_name(outbound)).config_discovery
        from_ads(discovery.config_source)
        discovery.type_urls.append(f"type.googleapis.com/{TcpProxy.DESCRIPTOR.full_name}")


def _offer_bytes(chain: FilterChain) -> None:
    """The cluster stays as it is for requests: this alone makes its connections offer another protocol (measured)."""
    state = FilterState()
    offer = state.on_new_connection.add(object_key="envoy.network.application_protocols")
    offer.format_string.text_format_source.inline_string = BYTES
    pack(chain.filters.add(name="envoy.filters.network.set_filter_state").typed_config, state)
