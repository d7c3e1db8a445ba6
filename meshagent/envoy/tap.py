"""Live requests, for as long as somebody watches: Envoy is told to send them by runtime keys, and sends them to a socket here.

Nobody watches: no key, no socket, no connection. What an agent that was killed left switched on, the next one switches off.
One pass over what is wanted and what Envoy has makes the one like the other, so that it does not matter how they came apart.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any, Never

import structlog

from meshagent.envoy.admin import AdminClient
from meshagent.envoy.requests import Seen, Wanted
from meshagent.errors import EnvoyFailed, MeshError, UsageProblem
from meshagent.model.tapping import tap_key, tapped
from meshagent.xds import socket_path

if TYPE_CHECKING:
    import grpc.aio

_log = structlog.get_logger(__name__)
_MOST_WATCHERS = 16
_KEPT = 1000  # requests that wait for one slow watcher
_A_WINDOW, _WINDOW_SECONDS = (
    100,
    0.1,
)  # so many requests in so long are taken from Envoy, which drops the rest and counts it
_EVERY_SECONDS = 1.0
_ON_SECONDS = 5.0
_ROUNDED = timedelta(milliseconds=5)  # times and durations are told in ms
_DROPPED = "access_logs.grpc_access_log.logs_dropped"
_SERVICE, _METHOD = "envoy.service.accesslog.v3.AccessLogService", "StreamAccessLogs"
# Else gRPC reads megabytes ahead of a reader that takes its time (measured), and what is shown is old.
_OPTIONS = (("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 65536), ("grpc.so_reuseport", 0))


@dataclass(frozen=True, slots=True)
class Asked:
    """What one watcher wants to see: of these services' proxies, as `wanted` says, by method and by a pattern of paths."""

    services: frozenset[str]
    wanted: Wanted = field(default_factory=Wanted)
    method: str = ""
    path: str = ""

    def holds(self, seen: Seen) -> bool:
        """Whether it is asked for."""
        return (
            seen.service in self.services
            and (not self.method or seen.method == self.method.upper())
            and (not self.path or fnmatchcase(seen.path, self.path))
            and self.wanted.holds(seen)
        )


class Watcher:
    """What one who watches has not taken yet: the last 1000 requests. `missed` counts those that went by untaken.

    `since`: when it began to watch.
    """

    def __init__(self, asked: Asked, since: datetime) -> None:
        self.asked = asked
        self.since = since
        self.missed = 0
        self.ended = False
        self._waiting: deque[Seen] = deque()
        self._moved = asyncio.Event()

    def offer(self, seen: Seen) -> None:
        """Keep it when it is asked for; the oldest goes when too many wait."""
        if not self.asked.holds(seen):
            return
        if len(self._waiting) >= _KEPT:
            self._waiting.popleft()
            self.missed += 1
        self._waiting.append(seen)
        self._moved.set()

    def end(self) -> None:
        """Nothing more comes."""
        self.ended = True
        self._moved.set()

    async def take(self, seconds: float) -> list[Seen]:
        """What came since the last call; waits at most so long for the first of it."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._moved.wait()
        self._moved.clear()
        taken = list(self._waiting)
        self._waiting.clear()
        return taken


class Tap:
    """The watchers of one Envoy. `run` must run for anything to happen; `socket`: where Envoy sends, in a private directory."""

    def __init__(
        self,
        admin: AdminClient,
        socket: Path,
        clock: Callable[[], float] | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._admin = admin
        self._socket = socket
        self._clock = clock or (lambda: asyncio.get_running_loop().time())
        self._now = now
        self._watchers: list[Watcher] = []
        self._changed = asyncio.Event()
        self._asked = self._done = 0  # how often somebody came, and up to which of them Envoy has been told
        self._moved = asyncio.Event()  # set, and replaced, when it was
        self._server: grpc.aio.Server | None = None
        self._inode = 0
        self._dropped: int | None = None
        self._window, self._taken = 0.0, 0

    @asynccontextmanager
    async def watch(self, asked: Asked) -> AsyncIterator[Watcher]:
        """Requests that end from now on. Raises EnvoyFailed when Envoy does not take it up within 5 s, UsageProblem."""
        if len(self._watchers) >= _MOST_WATCHERS:
            raise UsageProblem(f"{_MOST_WATCHERS} taps are open on this host", next_step="end one of them")
        watcher = Watcher(asked, self._now())
        self._watchers.append(watcher)
        try:
            await self._on()
            yield watcher
        finally:
            self._watchers.remove(watcher)
            self._changed.set()

    def end(self) -> None:
        """End what all watchers see: the agent stops."""
        for watcher in self._watchers:
            watcher.end()

    async def run(self) -> Never:
        """Keep Envoy and the socket as the watchers want them, for ever; leave nothing behind at the end."""
        try:
            while True:
                watched = await self._pass()
                with suppress(TimeoutError):
                    async with asyncio.timeout(_EVERY_SECONDS if watched else None):
                        await self._changed.wait()
                self._changed.clear()
        finally:
            self.end()
            with suppress(MeshError):  # an Envoy that has ended has no keys
                await self._align(frozenset())
            await self._close()

    async def _on(self) -> None:
        """Until a pass that began after now has ended well."""
        self._asked += 1
        mine = self._asked
        self._changed.set()
        try:
            async with asyncio.timeout(_ON_SECONDS):
                while self._done < mine:
                    await self._moved.wait()
        except TimeoutError:
            raise EnvoyFailed(
                "Envoy was not told to send its requests", next_step="meshagent proxy status; look at the agent's log"
            ) from None

    async def _pass(self) -> bool:
        """One look. Returns whether another one is due soon."""
        asked = self._asked
        try:
            await self._align(frozenset(service for watcher in self._watchers for service in watcher.asked.services))
        except MeshError as error:
            _log.debug("tap_not_set", problem=str(error))
            return True
        self._done = asked
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()
        return bool(self._watchers)

    async def _align(self, wanted: frozenset[str]) -> None:
        if wanted and self._server is None:
            await self._open()
        held = keys_held(await self._admin.get("/runtime"))
        if change := changes(held, wanted):
            await self._admin.post(f"/runtime_modify?{change}")
            _log.info("tap_set", services=sorted(wanted))
        if wanted:
            await self._count_dropped()
        else:
            await self._close()

    async def _count_dropped(self) -> None:
        """What Envoy could not hand over because it was too much."""
        now = (await self._admin.stats(f"^{_DROPPED}$")).get(_DROPPED, 0)
        before, self._dropped = self._dropped, now
        if before is None:
            return
        for watcher in self._watchers:
            watcher.missed += now - before if now >= before else now

    async def _open(self) -> None:
        import grpc
        from envoy.service.accesslog.v3.als_pb2 import StreamAccessLogsMessage, StreamAccessLogsResponse

        bound = socket_path.claim(self._socket)
        server = grpc.aio.server(options=_OPTIONS)
        handler = grpc.stream_unary_rpc_method_handler(
            self._serve, StreamAccessLogsMessage.FromString, StreamAccessLogsResponse.SerializeToString
        )
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, {_METHOD: handler}),))
        server.add_insecure_port(f"unix:{bound}")
        await server.start()
        self._server, self._inode, self._dropped = server, socket_path.publish(bound, self._socket), None

    async def _close(self) -> None:
        server, self._server = self._server, None
        if server is None:
            self._socket.unlink(missing_ok=True)  # of an agent that was killed
            return
        await server.stop(0)
        socket_path.withdraw(self._socket, self._inode)

    async def _serve(self, messages: AsyncIterator[Any], _: Any) -> Any:
        from envoy.service.accesslog.v3.als_pb2 import StreamAccessLogsResponse

        from meshagent.envoy.entries import seen_in

        name = ""
        async for message in messages:
            name = message.identifier.log_name or name
            with _doubted(name):
                for seen in seen_in(message, name):
                    self._hand(seen, first=message.HasField("identifier"))
            if pause := self._pause():
                await asyncio.sleep(pause)
        return StreamAccessLogsResponse()

    def _hand(self, seen: Seen, *, first: bool) -> None:
        """Offer it to all. The first one of a stream may have waited in Envoy since somebody watched before (measured)."""
        for watcher in self._watchers:
            if not first or seen.ended >= watcher.since - _ROUNDED:
                watcher.offer(seen)

    def _pause(self) -> float:
        """Seconds until the next request is taken: 100 in each 0.1 s, from all of Envoy's streams together."""
        now = self._clock()
        if now - self._window >= _WINDOW_SECONDS:
            self._window, self._taken = now, 0
        self._taken += 1
        return self._window + _WINDOW_SECONDS - now if self._taken >= _A_WINDOW else 0.0


def keys_held(answer: bytes) -> frozenset[str]:
    """The services whose key is set, from Envoy's answer to /runtime. Raises EnvoyFailed for anything else."""
    try:
        entries = json.loads(answer)["entries"]
        return frozenset(service for key in entries if (service := tapped(key)) is not None)
    except (ValueError, KeyError, TypeError):
        raise EnvoyFailed("Envoy's answer to /runtime cannot be read", next_step="meshagent proxy status") from None


def changes(held: frozenset[str], wanted: frozenset[str]) -> str:
    """The query of /runtime_modify that makes what is held what is wanted; an empty value takes a key away."""
    on = [f"{tap_key(service)}=100" for service in sorted(wanted - held)]
    off = [f"{tap_key(service)}=" for service in sorted(held - wanted)]
    return "&".join([*on, *off])


@contextmanager
def _doubted(name: str) -> Iterator[None]:
    """An entry that cannot be read is told, and the next one may be better."""
    try:
        yield
    except ValueError as error:
        _log.warning("tap_entry_unreadable", name=name, problem=str(error))
