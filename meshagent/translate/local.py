"""Where a local app finds what it calls: a loopback port or a Unix socket."""

from __future__ import annotations

from envoy.config.listener.v3.listener_pb2 import Listener

from meshagent.model.view import Egress, Outbound


def local_listener_name(call: Outbound | Egress) -> str:
    """Of one upstream of one service, in the mesh or outside: so that one can take the other's place."""
    return f"out/{call.source}/{call.upstream}:{call.local_port or call.local_socket}"


def local_listener(call: Outbound | Egress) -> Listener:
    """The listener, with no filter chain yet."""
    listener = Listener(name=local_listener_name(call))
    listener.enable_reuse_port.value = False
    if call.local_socket:
        listener.address.pipe.path = call.local_socket
        listener.address.pipe.mode = call.socket_mode
    else:
        listener.address.socket_address.address = call.local_address
        listener.address.socket_address.port_value = call.local_port
    return listener
