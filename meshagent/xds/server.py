"""The delta aggregated discovery service on a Unix socket: the shell around DeltaStream, and the only place with gRPC.

Nothing polls and nothing waits for a timer: a change in the cache wakes each stream's writer in the same turn of the
loop, and what changes while a write is under way is folded into the next one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest

from meshagent.errors import DataDirUnusable
from meshagent.xds import socket_path
from meshagent.xds.cache import Cache, Key
from meshagent.xds.outcome import Applied, Outcome, Rejected
from meshagent.xds.status import StreamStatus
from meshagent.xds.stream import DeltaStream
from meshagent.xds.types import short_name

if TYPE_CHECKING:
    import grpc.aio

log = structlog.get_logger(__name__)

_SERVICE = "envoy.service.discovery.v3.AggregatedDiscoveryService"
_METHOD = "DeltaAggregatedResources"
_OPTIONS = (
    ("grpc.max_receive_message_length", 64 << 20),  # a reconnecting client names every version that it holds
    ("grpc.max_send_message_length", -1),
)


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(eq=False, slots=True)
class _Session:
    """One connected client. `wake` is set whenever a look at `stream.take` may be worth it."""

    stream: DeltaStream
    connected_at: datetime
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    closed: bool = False

    def close(self) -> None:
        self.closed = True
        self.wake.set()


class XdsServer:
    """Serves one cache to every client that connects; usually that is the one Envoy of the host."""

    def __init__(self, cache: Cache, clock: Callable[[], datetime] = _now) -> None:
        self._cache = cache
        self._clock = clock
        self._sessions: set[_Session] = set()
        self._server: grpc.aio.Server | None = None
        self._path = Path()
        self._inode = 0
        self._unwatch: Callable[[], None] = lambda: None
        self._applied = 0
        self._moved = asyncio.Event()  # set, and replaced, whenever a stream's state moved
        self._listeners: set[asyncio.Queue[Outcome | None]] = set()

    async def start(self, path: Path) -> None:
        """Listens on `path`: mode 0600, in a directory of mode 0700 that is made as needed. A stale socket is replaced.

        Raises UsageProblem, UnsafeFile and DataDirInUse as `socket_path.claim` does, and DataDirUnusable when no socket
        can be made there.
        """
        import grpc  # heavy, and whoever starts Envoy wants to do so before gRPC has its threads

        bound = socket_path.claim(path)
        server = grpc.aio.server(options=_OPTIONS)
        handler = grpc.stream_stream_rpc_method_handler(self._serve, DeltaDiscoveryRequest.FromString, None)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, {_METHOD: handler}),))
        try:
            server.add_insecure_port(f"unix:{bound}")
        except RuntimeError as error:
            raise DataDirUnusable(
                f"no socket can be made in {path.parent}: {error}", next_step=f"check the file system of {path.parent}"
            ) from error
        await server.start()
        self._server, self._path, self._inode = server, path, socket_path.publish(bound, path)
        self._unwatch = self._cache.watch(self._changed)
        log.info("xds_started", path=str(path))

    async def stop(self, grace: float) -> None:
        """Ends the streams, waits at most `grace` seconds for what they still write, and removes the socket."""
        if self._server is None:
            return
        self._unwatch()
        for session in self._sessions:
            session.close()
        await self._server.stop(grace)
        while self._sessions:  # gRPC returns when it has cancelled them, not when they have ended
            await self._moved.wait()
        socket_path.withdraw(self._path, self._inode)
        self._server = None
        for listener in self._listeners:
            listener.put_nowait(None)
        log.info("xds_stopped", path=str(self._path))

    def outcomes(self) -> AsyncIterator[Outcome]:
        """What becomes of the pushes from this call on; ends when the server stops. Each caller gets every outcome.

        `Applied` is told once per generation at most, when every connected client is that far.
        """
        listener: asyncio.Queue[Outcome | None] = asyncio.Queue()
        self._listeners.add(listener)
        return self._listen(listener)

    async def wait_applied(self, generation: int, timeout: float) -> bool:
        """Waits at most `timeout` seconds until a client is connected and all that are have applied `generation`.

        Rejected resources count as dealt with: see `outcomes` or `streams` for them.
        """
        try:
            async with asyncio.timeout(timeout):
                while self.applied < generation:
                    await self._moved.wait()
        except TimeoutError:
            return False
        return True

    @property
    def applied(self) -> int:
        """The generation that every connected client has applied; 0 when there is no client."""
        return min((session.stream.applied for session in self._sessions if session.stream.started), default=0)

    @property
    def streams(self) -> tuple[StreamStatus, ...]:
        """The connected clients, in no particular order."""
        return tuple(
            StreamStatus(session.stream.client, session.connected_at, session.stream.applied, session.stream.status())
            for session in self._sessions
        )

    def retry_rejected(self, type_url: str | None = None) -> int:
        """Sends what was rejected once more, to every client; returns how many resources that is."""
        count = sum(session.stream.retry_rejected(type_url) for session in self._sessions)
        self._wake()
        return count

    def _changed(self, keys: Collection[Key]) -> None:
        for session in self._sessions:
            session.stream.changed(keys)
        self._wake()

    def _wake(self) -> None:
        for session in self._sessions:
            session.wake.set()

    async def _serve(
        self,
        requests: AsyncIterator[DeltaDiscoveryRequest],
        context: grpc.aio.ServicerContext[DeltaDiscoveryRequest, bytes],
    ) -> None:
        with self._session() as session:
            async with asyncio.TaskGroup() as tasks:
                reader = tasks.create_task(self._read(session, requests))
                await self._write(session, context)
                reader.cancel()

    @contextmanager
    def _session(self) -> Iterator[_Session]:
        session = _Session(DeltaStream(self._cache), self._clock())
        self._sessions.add(session)
        try:
            yield session
        finally:
            self._sessions.discard(session)
            self._publish(session)  # the others may have been waiting for this one
            log.info("proxy_disconnected", node=session.stream.client.node)

    async def _read(self, session: _Session, requests: AsyncIterator[DeltaDiscoveryRequest]) -> None:
        async for request in requests:
            if not session.stream.started:
                session.stream.receive(request)
                client = session.stream.client
                log.info("proxy_connected", node=client.node, user_agent=client.user_agent, version=client.version)
            else:
                session.stream.receive(request)
            self._publish(session)
            session.wake.set()
        session.close()

    async def _write(self, session: _Session, context: grpc.aio.ServicerContext[DeltaDiscoveryRequest, bytes]) -> None:
        from grpc import aio  # loaded by `start`

        while not session.closed:
            await session.wake.wait()
            session.wake.clear()
            responses = session.stream.take()
            self._publish(session)
            try:
                for response in responses:
                    await context.write(response)
            except aio.BaseError:  # the client is gone; gRPC is about to cancel this task
                session.close()

    def _publish(self, session: _Session) -> None:
        """Passes on what became known on the stream."""
        for outcome in session.stream.outcomes():
            if isinstance(outcome, Rejected):
                log.warning(
                    "resources_rejected",
                    type=short_name(outcome.type_url),
                    names=outcome.names,
                    message=outcome.message,
                    generation=outcome.generation,
                )
                self._tell(outcome)
        if (applied := self.applied) > self._applied:
            self._applied = applied
            self._tell(Applied(applied))
        self._moved.set()
        self._moved = asyncio.Event()

    async def _listen(self, listener: asyncio.Queue[Outcome | None]) -> AsyncIterator[Outcome]:
        try:
            while outcome := await listener.get():
                yield outcome
        finally:
            self._listeners.discard(listener)

    def _tell(self, outcome: Outcome) -> None:
        for listener in self._listeners:
            listener.put_nowait(outcome)
