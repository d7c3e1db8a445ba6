"""A client of HTTP/3."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import asynccontextmanager

from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ConnectionTerminated, QuicEvent, StreamReset


class Http3(QuicConnectionProtocol):
    """One connection; requests one after the other or side by side."""

    def __init__(self, *arguments: object, **named: object) -> None:
        super().__init__(*arguments, **named)
        self._spoken = H3Connection(self._quic)
        self._answers: dict[int, tuple[dict[str, str], bytearray]] = {}
        self._ended: dict[int, asyncio.Future[tuple[dict[str, str], bytes]]] = {}
        self.closed = asyncio.Event()

    def quic_event_received(self, event: QuicEvent) -> None:
        if isinstance(event, ConnectionTerminated):
            self.closed.set()
        if isinstance(event, StreamReset) and event.stream_id in self._ended:
            self._ended.pop(event.stream_id).set_exception(ConnectionResetError(event.error_code))
        for found in self._spoken.handle_event(event):
            headers, body = self._answers.setdefault(found.stream_id, ({}, bytearray()))
            if isinstance(found, HeadersReceived):
                headers.update({name.decode(): value.decode() for name, value in found.headers})
            elif isinstance(found, DataReceived):
                body.extend(found.data)
            if found.stream_ended and found.stream_id in self._ended:
                self._ended.pop(found.stream_id).set_result((headers, bytes(body)))

    async def get(self, host: str, path: str = "/", **headers: str) -> tuple[dict[str, str], bytes]:
        """One request. Gives the answer's headers, with `:status`, and its body."""
        stream = self._quic.get_next_available_stream_id()
        told = {":method": "GET", ":scheme": "https", ":authority": host, ":path": path, **headers}
        self._spoken.send_headers(stream, [(name.encode(), value.encode()) for name, value in told.items()], True)
        answer = self._ended[stream] = asyncio.get_running_loop().create_future()
        self.transmit()
        async with asyncio.timeout(5):
            return await answer

    def certificate(self) -> object:
        """What the server showed."""
        return self._quic.tls._peer_certificate


@asynccontextmanager
async def http3(port: int, name: str):
    """A connection that asks for the name (SNI) and believes any certificate. Whether it is taken shows in its use."""
    told = QuicConfiguration(is_client=True, alpn_protocols=H3_ALPN, server_name=name, verify_mode=ssl.CERT_NONE)
    connecting = connect("127.0.0.1", port, configuration=told, create_protocol=Http3, wait_connected=False)
    async with asyncio.timeout(10), connecting as client:
        yield client
