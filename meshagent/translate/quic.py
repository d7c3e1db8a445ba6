"""HTTP/3 at a gateway: a UDP listener of the same number beside the one for TCP, and the header that tells clients of it."""

from __future__ import annotations

from envoy.config.common.mutation_rules.v3.mutation_rules_pb2 import HeaderMutation as Mutation
from envoy.config.core.v3.address_pb2 import SocketAddress
from envoy.config.core.v3.base_pb2 import HeaderValueOption
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.extensions.filters.http.header_mutation.v3.header_mutation_pb2 import HeaderMutation
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
    HttpFilter,
)

from meshagent.translate.connection import STREAM_WINDOW, STREAMS, WHOLE_WINDOW
from meshagent.translate.settings import Settings, pack

_REMEMBERED_SECONDS = 3600  # by clients, that there is HTTP/3: so long one that was switched off is tried in vain
_IDLE_SECONDS = 300


def take_datagrams(listener: Listener, settings: Settings, handshake_seconds: int) -> None:
    """Make it one for QUIC. Envoy's own limits against amplification hold: three bytes for each that a stranger sent.

    Without a reuse of the port a second Envoy of this user is refused it (ADR 0008). Several workers need it: Envoy takes no
    UDP listener without. Then datagrams are led to workers by their connection.
    """
    listener.address.socket_address.protocol = SocketAddress.UDP
    listener.enable_reuse_port.value = settings.workers > 1
    options = listener.udp_listener_config.quic_options
    options.crypto_handshake_timeout.FromSeconds(handshake_seconds)
    options.idle_timeout.FromSeconds(_IDLE_SECONDS)


def speak_http3(manager: HttpConnectionManager) -> None:
    """With the bounds that HTTP/2 has there. WebSockets stay with TCP: no CONNECT is taken."""
    manager.codec_type = HttpConnectionManager.HTTP3
    options = manager.http3_protocol_options
    options.override_stream_error_on_invalid_http_message.value = True
    options.quic_protocol_options.max_concurrent_streams.value = STREAMS
    options.quic_protocol_options.initial_stream_window_size.value = STREAM_WINDOW
    options.quic_protocol_options.initial_connection_window_size.value = WHOLE_WINDOW
    del manager.upgrade_configs[:]


def tell_of_http3(manager: HttpConnectionManager, port: int) -> None:
    """`alt-svc` in each answer, in place of what an app may say of itself."""
    mutation = Mutation()
    mutation.append.append_action = HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD
    mutation.append.header.key = "alt-svc"
    mutation.append.header.value = f'h3=":{port}"; ma={_REMEMBERED_SECONDS}'
    told = HeaderMutation()
    told.mutations.response_mutations.append(mutation)
    first = HttpFilter(name="envoy.filters.http.header_mutation")
    pack(first.typed_config, told)
    manager.http_filters.insert(0, first)
