"""The DNS listener of this host: UDP and TCP on one loopback address. What is answered is decided in `host/zone.py`.

The library for the wire format is imported at the first query: a host without any does not pay for it.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import TYPE_CHECKING, Never

import structlog

from meshagent.host.allowance import Allowance
from meshagent.model.virtual import sharing_an_address

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from meshagent.host.zone import Reply, Zone

_log = structlog.get_logger(__name__)
RESULTS = ("answered", "nodata", "nxdomain", "refused", "malformed", "dropped")
QUERIES_A_SECOND = 500.0  # that have to be worked out, half a millisecond each: the agent's other loops go on
_KEPT_REPLIES = 256
_KEPT_BYTES = 512  # of a query whose reply is kept
_RETRY_SECONDS = 5.0  # a port that was taken may be free by then
_IDLE_SECONDS = 5.0  # RFC 7766 6.2.3: a server may be this short with idle connections
_MOST_CONNECTIONS = 64
LARGEST = 65535  # bytes of a message


class Responder:
    """Answers for `origin` on `address`; `services` gives the names at each query. `counts` are since the start."""

    def __init__(
        self,
        address: tuple[str, int],
        origin: str,
        services: Callable[[], frozenset[str]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.address = address
        self.origin = origin
        self.services = services
        self.counts: Counter[str] = Counter(dict.fromkeys(RESULTS, 0))
        self.listening = False
        self._trouble = ""
        self._names: frozenset[str] | None = None
        self._zone: Zone | None = None
        self._kept: dict[tuple[bytes, bool], Reply] = {}
        self._talking: set[asyncio.StreamWriter] = set()
        self._clock = clock
        self._allowance = Allowance(QUERIES_A_SECOND, QUERIES_A_SECOND, clock())

    @classmethod
    def of(
        cls, address: tuple[str, int] | None, origin: str, services: Callable[[], frozenset[str]]
    ) -> Responder | None:
        """One on this address; None: there is none."""
        return cls(address, origin, services) if address else None

    @property
    def where(self) -> str:
        """The address as it is written in settings."""
        host, port = self.address
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    @property
    def problem(self) -> str:
        """What is not as it should be; "": nothing."""
        if self._trouble:
            return self._trouble
        pairs = [f"{one} and {other}" for one, other in sharing_an_address(self.services())]
        return f"share a virtual address, which neither gets: {', '.join(pairs)}" if pairs else ""

    async def run(self) -> Never:
        """Listen for ever. A port that is taken is tried again: the agent has more to do than this."""
        while True:
            try:
                async with self._open():
                    self._trouble, self.listening = "", True
                    _log.info("dns_served", address=self.where, zone=self.origin)
                    await asyncio.Event().wait()
            except OSError as error:
                trouble = f"names are not answered on {self.where}: {error.strerror or error}"
                if trouble != self._trouble:
                    _log.error("dns_not_served", address=self.where, problem=error.strerror or str(error))
                self._trouble = trouble
            finally:
                self.listening = False
            await asyncio.sleep(_RETRY_SECONDS)

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[None]:
        host, port = self.address
        loop = asyncio.get_running_loop()
        async with AsyncExitStack() as stack:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            datagrams = stack.enter_context(socket.socket(family, socket.SOCK_DGRAM))
            datagrams.bind((host, port))
            datagrams.setblocking(False)
            loop.add_reader(datagrams, self._receive, datagrams)
            stack.callback(loop.remove_reader, datagrams)
            streams = stack.enter_context(socket.create_server((host, port), family=family))
            server = await asyncio.start_server(self._converse, sock=streams, limit=LARGEST, backlog=1)
            streams.listen(_MOST_CONNECTIONS)  # Python took the 1 as how often to accept, and to log it without files
            stack.callback(server.close)
            stack.callback(self._hang_up)
            yield

    def _hang_up(self) -> None:
        """End the conversations that are under way, by their connections: asyncio complains of tasks that are cancelled."""
        for writer in self._talking:
            writer.transport.abort()

    def reply(self, packet: bytes, *, tcp: bool) -> bytes | None:
        """The answer to a packet; None: none is sent.

        A question about a name of this host is worked out once, and answered whatever else is asked at the time.
        """
        services = self.services()
        if services != self._names:
            self._names, self._zone = services, None
            self._kept.clear()
        question = (packet[2:], tcp)  # all but the number that its sender gave it
        given = self._kept.get(question) or self._work_out(packet, services, tcp=tcp)
        if given is None:
            self.counts["dropped"] += 1
            return None
        if given.result == "answered" and len(packet) <= _KEPT_BYTES and question not in self._kept:
            if len(self._kept) >= _KEPT_REPLIES:
                del self._kept[next(iter(self._kept))]
            self._kept[question] = given
        self.counts[given.result] += 1
        return given.wire and packet[:2] + given.wire[2:]

    def _work_out(self, packet: bytes, services: frozenset[str], *, tcp: bool) -> Reply | None:
        """The reply; None: there were too many queries in this second."""
        from meshagent.host.zone import answer, zone_of

        if not self._allowance.take(self._clock()):
            return None
        if self._zone is None:
            self._zone = zone_of(self.origin, services)
        return answer(packet, self._zone, tcp=tcp)

    def _receive(self, datagrams: socket.socket) -> None:
        """Answer one datagram. What the kernel has no room for is lost, as datagrams are; their sender asks again."""
        with suppress(OSError):
            packet, sender = datagrams.recvfrom(LARGEST)
            given = self.reply(packet, tcp=False)
            if given is not None:
                datagrams.sendto(given, sender)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer what comes over one connection, in its order, until it is idle or says what cannot be answered."""
        if len(self._talking) >= _MOST_CONNECTIONS:
            writer.close()
            return
        self._talking.add(writer)
        try:
            while True:
                async with asyncio.timeout(_IDLE_SECONDS):
                    size = int.from_bytes(await reader.readexactly(2))
                    given = self.reply(await reader.readexactly(size), tcp=True)
                    if given is None:
                        return
                    writer.write(len(given).to_bytes(2) + given)
                    await writer.drain()
        except (TimeoutError, asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            self._talking.discard(writer)
            if writer.transport.get_write_buffer_size():
                writer.transport.abort()  # to a reader that takes nothing away, closing would not end
            writer.close()
