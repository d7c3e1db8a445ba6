"""Capture listeners: where connections of a captured service arrive that the kernel has redirected.

The address that was called is restored, and decides: a filter chain for each declared upstream, matched by its virtual
addresses. There is no other chain, so whatever else arrives is closed: an unknown virtual address, a connection to the
capture port itself (which would else go round and round: 1025 times, measured).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from envoy.config.listener.v3.listener_components_pb2 import FilterChainMatch
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.extensions.filters.listener.original_dst.v3.original_dst_pb2 import OriginalDst

from meshagent.model.view import Captured, Egress, Outbound, ProxyView
from meshagent.model.virtual import virtual_addresses
from meshagent.translate.egress import egress_filters
from meshagent.translate.outbound import upstream_filters
from meshagent.translate.settings import Settings, pack

_LOOPBACK, _LOOPBACK_IPV6 = "127.0.0.1", "::1"


def capture_listener_name(captured: Captured) -> str:
    """The listener of one captured service."""
    return f"capture/{captured.source}"


def calls_of(captured: Captured, view: ProxyView) -> tuple[Outbound, ...]:
    """What the service declares to call, each once, however many of its instances say so."""
    found = {outbound.upstream: outbound for outbound in view.outbounds if outbound.source == captured.source}
    return tuple(found[name] for name in sorted(found))


def calls_outside(captured: Captured, view: ProxyView) -> tuple[Egress, ...]:
    """What of it is outside the mesh. Not where the app speaks TLS itself: its name decides there, which is not waited for."""
    own = (each for each in view.egresses if each.source == captured.source)
    found = {each.upstream: each for each in own if each.external.tls.mode != "passthrough"}
    return tuple(found[name] for name in sorted(found))


def capture_listener(
    captured: Captured, calls: Sequence[Outbound | Egress], view: ProxyView, settings: Settings
) -> Listener:
    """The listener of one captured service, on the loopback addresses alone: nobody comes to it from outside."""
    listener = Listener(name=capture_listener_name(captured))
    listener.enable_reuse_port.value = False
    listener.address.socket_address.address = _LOOPBACK
    listener.address.socket_address.port_value = captured.port
    if settings.ipv6:
        second = listener.additional_addresses.add().address.socket_address
        second.address, second.port_value = _LOOPBACK_IPV6, captured.port
    pack(listener.listener_filters.add(name="envoy.filters.listener.original_dst").typed_config, OriginalDst())
    owners = Counter(address for call in calls for address in virtual_addresses(call.upstream))
    for call in calls:
        own = [each for each in virtual_addresses(call.upstream) if owners[each] == 1]
        if not own:  # of two that share one, neither is meant for certain; and a chain that matches nothing matches all
            continue
        chain = listener.filter_chains.add(name=f"{captured.source}/{call.upstream}")
        for address in own:
            _match(chain.filter_chain_match, str(address), address.max_prefixlen)
        if isinstance(call, Egress):
            egress_filters(chain, call, view, settings)
        else:
            upstream_filters(chain, call, view, settings)
    return listener


def _match(match: FilterChainMatch, address: str, length: int) -> None:
    found = match.prefix_ranges.add(address_prefix=address)
    found.prefix_len.value = length
