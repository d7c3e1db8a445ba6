"""What a service tells systemd, as sd_notify(3) says: a datagram of NAME=value lines to the socket in NOTIFY_SOCKET."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass

import structlog

_log = structlog.get_logger(__name__)
_MICROSECONDS = 1_000_000


@dataclass(frozen=True, slots=True)
class Notifier:
    """Tells systemd; nobody where `address` is "". `@name` is an abstract socket. Nothing here raises or blocks."""

    address: str = ""

    @classmethod
    def of(cls, env: Mapping[str, str]) -> Notifier:
        """As the environment that systemd gave says."""
        return cls(env.get("NOTIFY_SOCKET", ""))

    def ready(self, status: str) -> None:
        """It serves; also the end of a reload."""
        self._tell("READY=1", f"STATUS={status}")

    def reloading(self, monotonic: float) -> None:
        """It reads its settings again, since `monotonic` seconds of CLOCK_MONOTONIC."""
        self._tell("RELOADING=1", f"MONOTONIC_USEC={int(monotonic * _MICROSECONDS)}")

    def stopping(self, seconds: float) -> None:
        """It ends, and may take so long."""
        self._tell("STOPPING=1", f"EXTEND_TIMEOUT_USEC={int(seconds * _MICROSECONDS)}")

    def main_process(self, pid: int) -> None:
        """The service is another process from now on."""
        self._tell(f"MAINPID={pid}")

    def alive(self) -> None:
        """Feed the watchdog."""
        self._tell("WATCHDOG=1")

    def _tell(self, *lines: str) -> None:
        if not self.address:
            return
        address = "\0" + self.address[1:] if self.address.startswith("@") else self.address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as told:
                told.connect(address)
                told.send("\n".join(lines).encode())
        except OSError as error:
            _log.warning("systemd_not_told", problem=error.strerror, lines=len(lines))
