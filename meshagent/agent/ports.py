"""Whether a port can be listened on."""

from __future__ import annotations

import socket

from meshagent.errors import PortInUse


def require_free(address: str, port: int, what: str) -> None:
    """Raise PortInUse when somebody listens on address:port, naming `what` wants it."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
            probe.listen(1)
        except OSError as error:
            raise PortInUse(
                f"port {port} on {address} cannot be used for {what}: {error.strerror}",
                next_step=who_has(port),
            ) from None


def has_ipv6() -> bool:
    """Whether this host has an IPv6 loopback address to listen on."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def who_has(port: int) -> str:
    """The next step of somebody whose port is taken."""
    return f"see who has it: ss -ltnp 'sport = :{port}'; or choose another port"
