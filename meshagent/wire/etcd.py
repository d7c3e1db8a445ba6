"""A thin client of etcd's v3 API: calls with a deadline, another member when one does not answer, a new token in time.

Each member has a channel of its own: its own TLS name, and a frozen member costs one deadline and not a share of all
calls. gRPC's keepalive does not notice a frozen member (40 s without a word, measured), so everything has a deadline.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import structlog

from meshagent.errors import LeaseLost, StoreDenied, StoreUnavailable, UsageProblem
from meshagent.wire import etcd_pb2 as pb
from meshagent.wire.credentials import EtcdCredentials
from meshagent.wire.etcd_calls import AUTHENTICATE, KEEP_ALIVE, WATCH, AuthOff, Failure, Method, failure_of
from meshagent.wire.etcd_url import Address, parse_url

if TYPE_CHECKING:
    from meshagent.wire.etcd_calls import Answer, Ask

_log = structlog.get_logger(__name__)

# For one call, whatever it takes, and for one member of it, in seconds: there may be others to turn to, or not. Where each
# packet takes a second, and a lost one more, no connection comes about in 4 s: TCP, then HTTP/2 (measured).
DEADLINE = 10.0
ATTEMPT = 4.0
PATIENT_ATTEMPT = 9.0
_CONNECT, _PATIENT_CONNECT = 3000, 9000  # milliseconds
_SOON = 1.0  # an answer within that many seconds is no reason for patience
_OPTIONS = (
    # Else a new channel inherits the frozen connection, or the pause before the next try, of the one before it.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.max_receive_message_length", 512 << 20),
    ("grpc.max_send_message_length", -1),
    ("grpc.enable_http_proxy", 0),
)

WatchCall = grpc.aio.StreamStreamCall[pb.WatchRequest, pb.WatchResponse]


def open_etcd(url: str, access: EtcdCredentials) -> Etcd:
    """A client of the members at the URL; nothing is sent yet. The caller closes it. Needs a running event loop.

    Raises UsageProblem for a bad URL or half a pair of files, StoreDenied for TLS files that cannot be used.
    """
    address = parse_url(url, tls=access.tls)
    if address.tls:
        _check_files(access)
    if access.username and not access.password():
        raise StoreDenied("There is no password for store_username.", next_step="Set store_password_file.")
    return Etcd(address, access)


class Etcd:
    """Calls to etcd. Belongs to the event loop that it is made on."""

    def __init__(self, address: Address, access: EtcdCredentials) -> None:
        self.address = address
        self.closing: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.auth_off = False
        self._access = access
        self._current = 0
        self._patient = len(address.members) == 1
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._retired: set[asyncio.Task[None]] = set()
        self._token: str | None = None
        self._signing_in = asyncio.Lock()
        self._lost = ""

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self.closing.done()

    @property
    def member(self) -> str:
        """The member that is asked now."""
        return self.address.members[self._current]

    @property
    def attempt(self) -> float:
        """How long one member may take, in seconds: longer when there is no other, or none answered in time."""
        return PATIENT_ATTEMPT if self._patient else ATTEMPT

    async def call(self, method: Method[Ask, Answer], ask: Ask) -> Answer:
        """Ask. Raises StoreUnavailable, StoreDenied, LeaseLost, and Behind for a revision that is not there.

        After StoreUnavailable a call that is not harmless may have been done or not.
        """
        member = self.member
        try:
            async with asyncio.timeout(DEADLINE):
                return await self._somewhere(method, ask)
        except TimeoutError:
            self.leave(member)
            raise StoreUnavailable(
                f"etcd at {', '.join(self.address.members)} did not answer within {DEADLINE:g} s.",
                next_step="Check that etcd runs and can be reached from this host.",
            ) from None

    async def keep_alive(self, lease: int) -> int:
        """Start the lease's time again; how many seconds it has. Raises LeaseLost, StoreUnavailable, StoreDenied."""
        answer = await self.call(KEEP_ALIVE, pb.LeaseKeepAliveRequest(ID=lease))
        if answer.TTL <= 0:
            raise LeaseLost("The lease has ended.", next_step="Make a new lease and write its keys again.")
        return answer.TTL

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[WatchCall]:
        """A watch stream at the current member; its metadata asks etcd to end it when the member has lost its leader."""
        token = await self.sign_in()
        # The stubs know only calls that are given their requests beforehand.
        send: Any = self._channel(self.member).stream_stream(WATCH.path, _bytes, WATCH.answer)
        call: WatchCall = send(metadata=(*_metadata(token), ("hasleader", "true")))
        try:
            yield call
        finally:
            call.cancel()

    async def sign_in(self) -> str:
        """The token of a login, "" where there is no user or etcd asks for none. Raises StoreDenied, StoreUnavailable."""
        if not self._access.username:
            return ""
        async with self._signing_in:
            if self._token is None:
                self._token = await self._login()
            return self._token

    def sign_out(self) -> None:
        """Forget the token: the next call logs in."""
        self._token = None

    def leave(self, member: str) -> None:
        """Prefer the next member, unless another call has moved on, with a new connection to this one when it is back."""
        if self.member != member:
            return
        self._current = (self._current + 1) % len(self.address.members)
        if channel := self._channels.pop(member, None):
            # Calls that are under way on it may still end well.
            retiring = asyncio.create_task(channel.close(self.attempt), name=f"etcd-retire {member}")
            self._retired.add(retiring)
            retiring.add_done_callback(self._retired.discard)

    def tell(self, *, lost: str) -> None:
        """Log once, however many watches it concerns, that etcd is lost or found again."""
        if lost and not self._lost:
            _log.warning("etcd_lost", problem=lost)
        elif self._lost and not lost:
            _log.info("etcd_found")
        self._lost = lost

    async def close(self) -> None:
        """Let go of all connections. What is under way ends with StoreUnavailable."""
        if self.closed:
            return
        self.closing.set_result(None)
        channels, self._channels = list(self._channels.values()), {}
        for task in self._retired:
            task.cancel()
        await asyncio.gather(*(channel.close(None) for channel in channels), *self._retired, return_exceptions=True)

    def failure(self, error: grpc.aio.AioRpcError, member: str) -> Failure:
        """What the failure means, told to a client that may have no user at all."""
        said = failure_of(error.code(), error.details() or "", member)
        return said if self._access.username or not said.token else Failure(said.error)

    async def _somewhere(self, method: Method[Ask, Answer], ask: Ask) -> Answer:
        """One member after the other, once each; what was begun is sent again only if harmless."""
        left, renewed = len(self.address.members), False
        now = asyncio.get_running_loop().time
        while True:
            member, began = self.member, now()
            token = await self.sign_in() if method.signed else ""
            try:
                answer = await self._send(member, method, ask, token)
            except grpc.aio.AioRpcError as error:
                failure = self.failure(error, member)
            else:
                self._patient = len(self.address.members) == 1 or (self._patient and now() - began > _SOON)
                return answer
            if failure.token and not renewed:
                renewed = True
                self._forget(token)
                continue
            if failure.elsewhere:
                # A token of another time makes a member wait in silence.
                self._forget(token)
                self.leave(member)
                left -= 1
                if left and (method.harmless or not failure.begun):
                    continue
                self._patient = self._patient or not left
            raise failure.error from None

    async def _send(self, member: str, method: Method[Ask, Answer], ask: Ask, token: str) -> Answer:
        channel = self._channel(member)
        try:
            if method.streams:
                opened = channel.stream_stream(method.path, _bytes, method.answer)
                return await _only(opened, ask, token, self.attempt)
            send = channel.unary_unary(method.path, _bytes, method.answer)
            answer: Answer = await send(ask, timeout=self.attempt, metadata=_metadata(token))
            return answer
        except asyncio.CancelledError:
            # So gRPC tells those whose channel was closed.
            task = asyncio.current_task()
            if self.closed and not (task and task.cancelling()):
                raise _closed() from None
            raise

    async def _login(self) -> str:
        ask = pb.AuthenticateRequest(name=self._access.username, password=self._access.password())
        try:
            token = (await self._somewhere(AUTHENTICATE, ask)).token
        except AuthOff:
            self.auth_off = True
            return ""
        self.auth_off = False
        return token

    def _forget(self, token: str) -> None:
        """Log in again before the next call, unless that was done meanwhile."""
        if self._token == token:
            self._token = None

    def _channel(self, member: str) -> grpc.aio.Channel:
        if self.closed:
            raise _closed()
        if member not in self._channels:
            # gRPC's name for the least time that a connection may take to come about.
            connect = ("grpc.min_reconnect_backoff_ms", _PATIENT_CONNECT if self._patient else _CONNECT)
            options = (*_OPTIONS, connect)
            if self.address.tls:
                # Read each time, so that files that were replaced are used from the next connection on.
                credentials = _channel_credentials(self._access)
                self._channels[member] = grpc.aio.secure_channel(member, credentials, options=options)
            else:
                self._channels[member] = grpc.aio.insecure_channel(member, options=options)
        return self._channels[member]


async def _only(send: Any, ask: Ask, token: str, timeout: float) -> Answer:
    """The first answer on a stream."""
    call = send(timeout=timeout, metadata=_metadata(token))
    try:
        await call.write(ask)
        answer: Answer = await call.read()
        if not answer:
            raise StoreUnavailable("etcd ended a call without an answer.", next_step="Try again.")
        return answer
    finally:
        call.cancel()


def _bytes(message: Any) -> bytes:
    return bytes(message.SerializeToString())


def _metadata(token: str) -> tuple[tuple[str, str], ...]:
    return (("token", token),) if token else ()


def _closed() -> StoreUnavailable:
    return StoreUnavailable("The client of etcd is closed.", next_step="Open it again.")


def _check_files(access: EtcdCredentials) -> None:
    """Raise StoreDenied for files that cannot be used, UsageProblem for half a pair."""
    if bool(access.cert_file) != bool(access.key_file):
        raise UsageProblem(
            "store_cert_file and store_key_file go together.", next_step="Set both, or none for TLS with a password."
        )
    try:
        context = ssl.create_default_context(cafile=access.ca_file)
        if access.cert_file:
            context.load_cert_chain(access.cert_file, access.key_file)
    except (OSError, ssl.SSLError) as error:
        raise _unusable(access, error) from None


def _channel_credentials(access: EtcdCredentials) -> grpc.ChannelCredentials:
    roots = access.ca_file or Path(ssl.get_default_verify_paths().cafile or "")
    try:
        return grpc.ssl_channel_credentials(
            roots.read_bytes() if roots.is_file() else None,
            access.key_file.read_bytes() if access.key_file else None,
            access.cert_file.read_bytes() if access.cert_file else None,
        )
    except OSError as error:
        raise _unusable(access, error) from None


def _unusable(access: EtcdCredentials, error: Exception) -> StoreDenied:
    names = ", ".join(str(path) for path in (access.ca_file, access.cert_file, access.key_file) if path)
    return StoreDenied(f"The TLS files of the store cannot be used ({names}): {error}", next_step="Check them.")
