"""The authority's sockets: TLS whose certificate and roots change while it runs, and callers who take their time."""

from __future__ import annotations

import asyncio
import resource
import socket
import ssl
from collections.abc import Iterable
from typing import Any, Never

import structlog
from aiohttp import web

from meshagent.config.authority import split_place
from meshagent.errors import PortInUse

_log = structlog.get_logger(__name__)
HANDSHAKE_SECONDS = 10.0
LONGEST_CONNECTION = 30.0  # seconds from the first byte to the end, whatever is sent how slowly
MOST_CONNECTIONS = 2000
_STOP_SECONDS, _SHUTDOWN_SECONDS = 5.0, 2.0
_BACKLOG = 512
_DESCRIPTORS = 16_384


def raise_descriptor_limit() -> None:
    """Let this process have as many connections as the system allows it: by default a flood of 1024 would fill it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _DESCRIPTORS)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def opened(place: str) -> socket.socket:
    """A listening socket at host:port. Raises PortInUse."""
    host, port = split_place(place)
    try:
        made = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise PortInUse(f"the authority cannot listen on {place}: {error.strerror}", next_step="set listen") from None
    made.setblocking(False)
    return made


class Listening:
    """Serves an application on one socket."""

    def __init__(self, app: web.Application, listening: socket.socket) -> None:
        self._runner = web.AppRunner(app, access_log=None, keepalive_timeout=5, shutdown_timeout=_STOP_SECONDS)
        self._socket = listening
        self._server: asyncio.Server | None = None
        self._seen: dict[Any, float] = {}

    async def serve(self, context: ssl.SSLContext | None) -> None:
        """From now on with this TLS; connections that are open go on with theirs."""
        if self._runner.server is None:
            await self._runner.setup()
        before = self._server
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            self._protocol,
            sock=self._socket.dup(),
            ssl=context,
            backlog=1,  # how often Python tries to accept, and logs it when there are no files left
            ssl_handshake_timeout=HANDSHAKE_SECONDS if context else None,
            ssl_shutdown_timeout=_SHUTDOWN_SECONDS if context else None,
        )
        self._socket.listen(_BACKLOG)
        if before:
            before.close()

    def _protocol(self) -> asyncio.Protocol:
        server = self._runner.server
        if server is None:
            raise RuntimeError("a connection came before the application was set up")
        return server()

    async def end_slow(self) -> Never:
        """End connections that take too long, and the oldest ones when there are too many (slow loris)."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(1)
            server = self._runner.server
            current = set(server.connections) if server else set()
            now = loop.time()
            self._seen = {each: self._seen.get(each, now) for each in current}
            late = overdue(self._seen.items(), now)
            for each in late:
                each.force_close()
                if each.transport:
                    each.transport.abort()
            if late:
                _log.warning("connections_ended", count=len(late), reason="too slow, or too many")

    async def close(self) -> None:
        """Take no more, and let what is under way end."""
        if self._server:
            self._server.close()
        await self._runner.cleanup()
        self._socket.close()


def overdue(seen: Iterable[tuple[Any, float]], now: float) -> list[Any]:
    """Which connections have to go, of those that began at these times. Pure."""
    by_age = sorted(seen, key=lambda each: each[1])
    too_many = len(by_age) - MOST_CONNECTIONS
    return [each for place, (each, began) in enumerate(by_age) if place < too_many or now - began > LONGEST_CONNECTION]
