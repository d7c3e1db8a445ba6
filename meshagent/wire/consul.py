"""A thin client of Consul's HTTP API: calls with a deadline of their own, and blocking queries that never end.

Several agents may be named: a call goes to the one that answered last, and moves on when that one does not.
Measured on Consul 1.8.7: an index stays valid over a restart of the same data and through the 500s of a lost leader, so
it is kept; an index beyond the server's (older data came back) hangs for the whole wait and answers a smaller one.
"""

from __future__ import annotations

import asyncio
import json
import random
import socket
import ssl
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import aiohttp
import structlog
from yarl import URL

from meshagent.errors import MeshError, StoreDenied, StoreUnavailable, UsageProblem
from meshagent.wire.consul_url import Address, parse_url
from meshagent.wire.credentials import ConsulCredentials

_log = structlog.get_logger(__name__)

DEADLINE = 10.0
WAIT = 30.0
# There may be another agent to turn to, or not. Where each packet takes a second and some are lost, 3 s are too few.
_CONNECT, _PATIENT_CONNECT = 3.0, 9.0
_LONGEST_PAUSE = 5.0
# A server that answers a blocking query at once without news is asked no more often than that.
_SHORTEST_ROUND = 0.05
_QUOTED_BODY = 200
# Consul compresses the smallest answer for whoever takes it, which costs both sides more than it saves here.
_HEADERS = {"Accept-Encoding": "identity"}
_BAD_REQUEST = 400
_FORBIDDEN = 403
_TOO_MANY = 429
_SERVER_ERROR = 500
# What Consul says with status 500 of the call itself: 1.8 does so, later releases answer 404 or 400.
_CALLERS = (b"Invalid Session TTL", b"does not have associated TTL", b"Unknown check", b"Unknown service")
# A peer that is gone without a word is noticed after 15 + 3 * 5 seconds, one that takes no data after 30 s.
_KEEPALIVE = (
    (socket.TCP_KEEPIDLE, 15),
    (socket.TCP_KEEPINTVL, 5),
    (socket.TCP_KEEPCNT, 3),
    (socket.TCP_USER_TIMEOUT, 30_000),
)


@dataclass(frozen=True, slots=True)
class Answer:
    """What Consul said: a status below 500 that is none of 400, 403 and 429."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def index(self) -> int:
        """X-Consul-Index, at least 1; 0 when the answer has none."""
        text = self.headers.get("X-Consul-Index", "")
        return max(1, int(text)) if text.isdigit() else 0

    @property
    def filtered(self) -> bool:
        """Whether Consul says that the token may not see all of the result (from 1.12 on; earlier ones are silent)."""
        return self.headers.get("X-Consul-Results-Filtered-By-ACLs", "") == "true"

    def json(self) -> Any:
        """The body. Raises StoreUnavailable when it is not JSON (a proxy's page, an answer that was cut)."""
        try:
            return json.loads(self.body)
        except ValueError:
            raise StoreUnavailable(
                f"Consul's answer is not JSON: {_quoted(self.body)}",
                next_step="See what stands between here and Consul.",
            ) from None


def deadline_of(wait: float) -> float:
    """When a blocking query counts as lost, in seconds: Consul adds up to a sixteenth to `wait`, the network some more.

    A query through a partition hangs for ever otherwise (measured: nothing 15 s after its wait).
    """
    return wait + wait / 16 + 10


def pause_of(attempt: int, chance: float) -> float:
    """Seconds to wait after the failure number `attempt` (from 0); `chance` is 0 to 1 and spreads clients out."""
    bound = min(_LONGEST_PAUSE, 0.1 * float(1 << min(attempt, 10)))
    return 0.05 + (bound - 0.05) * chance


def failure_of(status: int, body: bytes, place: str) -> MeshError | None:
    """The error that an answer means at once, whatever was asked; none for what the caller has to judge."""
    said = _quoted(body)
    if status == _FORBIDDEN:
        known = "ACL not found" not in said
        return StoreDenied(
            f"Consul refuses: {said}" if known else "Consul does not know the token.",
            next_step="Give the token's policy the right that is missing." if known else "Check store_token_file.",
        )
    if any(words in body for words in _CALLERS):
        return None
    if status == _BAD_REQUEST:
        return StoreDenied(
            f"Consul does not take this: {said or 'a bad request'}",
            next_step="Check dc, ns and partition in the store's URL.",
        )
    if status == _TOO_MANY or status >= _SERVER_ERROR:
        return StoreUnavailable(
            f"Consul at {place} answers {status}: {said}",
            next_step="Look at `consul operator raft list-peers` and its log.",
        )
    return None


def key_path(key: str) -> str:
    """The path of a key or prefix in the key-value store."""
    return "/v1/kv/" + quote(key, safe="/")


def open_consul(url: str, access: ConsulCredentials) -> Consul:
    """A client of the agents at the URL; nothing is sent yet. The caller closes it.

    Raises UsageProblem for a bad URL, StoreDenied for TLS files that cannot be used.
    """
    address = parse_url(url, tls=access.tls)
    return Consul(address, access, _tls_context(access) if address.tls else None)


class Consul:
    """Calls to Consul. Belongs to the event loop that it is first used on."""

    def __init__(self, address: Address, access: ConsulCredentials, tls: ssl.SSLContext | None) -> None:
        self.address = address
        self._access = access
        self._tls = tls
        self._current = 0
        self._session: aiohttp.ClientSession | None = None
        self._closed = False
        self._lost = ""

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    async def get(self, path: str, params: Mapping[str, str] | None = None, *, deadline: float = DEADLINE) -> Answer:
        """Ask. `path` is quoted already. Raises StoreUnavailable and StoreDenied; other statuses are the caller's."""
        return await self._call("GET", path, params, None, deadline, harmless=True)

    async def put(
        self,
        path: str,
        params: Mapping[str, str] | None = None,
        body: object = None,
        *,
        deadline: float = DEADLINE,
        harmless: bool = False,
    ) -> Answer:
        """Change. A body that is not bytes is sent as JSON. After StoreUnavailable it may have been done or not.

        `harmless`: it may be done twice, so another agent may be asked after one that failed midway.
        """
        return await self._call("PUT", path, params, _encoded(body), deadline, harmless=harmless)

    async def delete(self, path: str, params: Mapping[str, str] | None = None, *, deadline: float = DEADLINE) -> Answer:
        """Remove. After StoreUnavailable it may have been done or not."""
        return await self._call("DELETE", path, params, None, deadline, harmless=False)

    async def follow(
        self, path: str, params: Mapping[str, str] | None = None, *, index: int = 0, wait: float = WAIT
    ) -> AsyncIterator[Answer]:
        """The answer now and each time that its index moves, for ever, through any outage (with index: from then on).

        An index that falls is told like one that rises: older data came back, or Consul forgot old deletions. Answers
        may be left out, never the last. Raises StoreDenied; ends when the client is closed.
        """
        loop = asyncio.get_running_loop()
        attempt = 0
        while True:
            begun = loop.time()
            # After an outage the first question does not wait: servers that came back with older data would hold it.
            blocks = index and not attempt
            asked = {**(params or {}), **({"index": str(index), "wait": f"{wait:g}s"} if blocks else {})}
            try:
                answer = await self.get(path, asked, deadline=deadline_of(wait) if blocks else DEADLINE)
            except StoreUnavailable as error:
                if self._closed:
                    return
                self._tell(lost=str(error))
                await asyncio.sleep(pause_of(attempt, random.random()))  # noqa: S311 - jitter
                attempt += 1
                continue
            attempt = 0
            self._tell(lost="")
            if answer.index and answer.index != index:
                index = answer.index
                yield answer
            elif loop.time() - begun < _SHORTEST_ROUND:
                await asyncio.sleep(_SHORTEST_ROUND)

    async def close(self) -> None:
        """Let go of all connections. What is under way ends with StoreUnavailable."""
        self._closed = True
        if self._session:
            await self._session.close()

    async def _call(
        self,
        method: str,
        path: str,
        params: Mapping[str, str] | None,
        body: bytes | None,
        deadline: float,
        *,
        harmless: bool,
    ) -> Answer:
        """One agent after the other, once each, within the deadline; what was begun is sent again only if harmless."""
        urls = self.address.urls
        place = self._current
        try:
            async with asyncio.timeout(deadline):
                for left in reversed(range(len(urls))):
                    place = self._current
                    try:
                        return await self._send(method, urls[place], path, params, body)
                    except _NotReached as missed:
                        self._move_from(place)
                        if not left or (missed.begun and not harmless):
                            raise missed.error from None
        except TimeoutError:
            self._move_from(place)
            raise StoreUnavailable(
                f"Consul at {urls[place]} did not answer within {deadline:g} s.", next_step=_NEXT_STEP
            ) from None
        raise AssertionError("an address names an agent")

    def _tell(self, *, lost: str) -> None:
        """Log once, however many queries it concerns, that Consul is lost or found again."""
        if lost and not self._lost:
            _log.warning("consul_lost", problem=lost)
        elif self._lost and not lost:
            _log.info("consul_found")
        self._lost = lost

    def _move_from(self, place: int) -> None:
        """Prefer the next agent, unless another call has moved on already."""
        if self._current == place:
            self._current = (place + 1) % len(self.address.urls)

    async def _send(
        self, method: str, base: str, path: str, params: Mapping[str, str] | None, body: bytes | None
    ) -> Answer:
        headers = dict(_HEADERS)
        if token := self._access.token():
            headers["X-Consul-Token"] = token
        url = URL(base + path, encoded=True).with_query([*self.address.scope, *(params or {}).items()])
        try:
            async with self._opened().request(
                method, url, data=body, headers=headers, ssl=self._tls or True
            ) as response:
                content = await response.read()
        except aiohttp.ClientConnectorCertificateError as error:
            raise StoreDenied(
                f"Consul's certificate at {base} is not accepted: {error.certificate_error}",
                next_step="Check store_ca_file, and that the URL's host is one of the certificate's names.",
            ) from None
        except aiohttp.ClientSSLError as error:
            self._renew_tls()
            raise _NotReached(_unreachable(base, error), begun=False) from None
        except (aiohttp.ClientError, OSError) as error:
            begun = not isinstance(error, aiohttp.ClientConnectorError)
            raise _NotReached(_unreachable(base, error), begun=begun) from None
        if failure := failure_of(response.status, content, base):
            if isinstance(failure, StoreUnavailable):
                raise _NotReached(failure, begun=True)
            raise failure
        return Answer(response.status, response.headers, content)

    def _opened(self) -> aiohttp.ClientSession:
        """The session, made on first use. No limit on connections: each blocking query holds one."""
        if self._closed:
            raise _NotReached(
                StoreUnavailable("The client of Consul is closed.", next_step="Open it again."), begun=False
            )
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=60, socket_factory=_socket)
            connect = _CONNECT if len(self.address.urls) > 1 else _PATIENT_CONNECT
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=connect)
            self._session = aiohttp.ClientSession(connector=connector, timeout=timeout, trust_env=False)
        return self._session

    def _renew_tls(self) -> None:
        """Read the TLS files again: one may have been replaced since."""
        if self._tls:
            self._tls = _tls_context(self._access)


_NEXT_STEP = "Check that Consul runs and can be reached from this host."


class _NotReached(Exception):
    """One agent did not do it. `begun`: it may have received the call."""

    def __init__(self, error: StoreUnavailable, *, begun: bool) -> None:
        super().__init__(str(error))
        self.error = error
        self.begun = begun


def _unreachable(base: str, error: Exception) -> StoreUnavailable:
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return StoreUnavailable(f"Consul at {base} does not answer: {reason}", next_step=_NEXT_STEP)


def _encoded(body: object) -> bytes | None:
    if body is None or isinstance(body, bytes):
        return body
    # Characters as they are: a value of the largest size fits only if keys are not blown up by escapes.
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()


def _quoted(body: bytes) -> str:
    return ascii(body[:_QUOTED_BODY].decode(errors="replace").strip())[1:-1]


def _socket(info: aiohttp.AddrInfoType) -> socket.socket:
    """A socket that notices a peer that is gone."""
    family, kind, protocol, _, _ = info
    made = socket.socket(family, kind, protocol)
    made.setblocking(False)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEPALIVE:
        made.setsockopt(socket.IPPROTO_TCP, option, value)
    return made


def _tls_context(access: ConsulCredentials) -> ssl.SSLContext:
    """TLS as the files say. Raises StoreDenied for files that cannot be used, UsageProblem for half a pair."""
    if bool(access.cert_file) != bool(access.key_file):
        raise UsageProblem(
            "store_cert_file and store_key_file go together.", next_step="Set both, or none for TLS with a token."
        )
    try:
        context = ssl.create_default_context(cafile=access.ca_file)
        if access.cert_file:
            context.load_cert_chain(access.cert_file, access.key_file)
    except (OSError, ssl.SSLError) as error:
        names = ", ".join(str(path) for path in (access.ca_file, access.cert_file, access.key_file) if path)
        raise StoreDenied(
            f"The TLS files of the store cannot be used ({names}): {error}", next_step="Check them."
        ) from None
    return context
