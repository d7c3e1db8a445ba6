"""Calls of an ACME server (RFC 8555): signed, one deadline over each, a bound on every answer, no redirects.

The library `acme` was not taken, see ADR 0030.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

import aiohttp
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from meshagent import __version__
from meshagent.errors import AuthorityUnavailable, MeshError, OrderRefused

_CALL_SECONDS = 20.0
_MAX_BYTES = 512 * 1024
_QUOTED = 300
_NONCES = 4  # tries: a server may forget the numbers that it gave out
_ERROR, _SERVER_ERROR = 400, 500
_URL = re.compile(r"https://[!-~]{1,2000}")
_PROBLEM = "urn:ietf:params:acme:error:"


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer that is no error. `place`: where what was made is to be found; `pause`: what it asks to wait."""

    raw: bytes
    place: str
    pause: timedelta

    @property
    def body(self) -> Mapping[str, Any]:
        """The JSON object that it is; nothing where it is none."""
        try:
            found = json.loads(self.raw)
        except (ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}


@dataclass(slots=True)
class _Heard:
    """A raw answer."""

    status: int
    headers: Mapping[str, str]
    raw: bytes = field(repr=False)


class AcmeCa:
    """One server, for the account of one key. `roots`: the file with those that its address must prove itself by.

    `wish`: how long it asked to be left alone, when it last said no.
    """

    def __init__(self, directory: str, key: ec.EllipticCurvePrivateKey, roots: str) -> None:
        self.directory = directory
        self._key = key
        self._roots = roots
        self._account = ""
        self._nonces: list[str] = []
        self._places: Mapping[str, Any] = {}
        self._session: aiohttp.ClientSession | None = None
        self.wish = timedelta()

    @property
    def thumbprint(self) -> str:
        """Of the account's key (RFC 7638)."""
        return b64(hashlib.sha256(json.dumps(self._jwk(), sort_keys=True, separators=(",", ":")).encode()).digest())

    async def log_in(self, email: str) -> None:
        """Read the directory, and be the account of the key, made if there is none; its terms are agreed to.

        Raises OrderRefused, AuthorityUnavailable, as every call does.
        """
        heard = await self._send("GET", self.directory)
        self._places = self._judged(heard).body
        contact = {"contact": [f"mailto:{email}"]} if email else {}
        made = await self.post(self.place("newAccount"), {"termsOfServiceAgreed": True, **contact})
        self._account = self.checked(made.place)

    def place(self, name: str) -> str:
        """An address in the directory."""
        return self.checked(self._places.get(name))

    def checked(self, url: object) -> str:
        """The address that the server told, if it is one."""
        if isinstance(url, str) and _URL.fullmatch(url):
            return url
        raise self.silent("gave an answer that cannot be understood: no address where one has to be")

    async def post(self, url: str, payload: Mapping[str, object] | None) -> Reply:
        """A signed request; None: only to read (RFC 8555, 6.3)."""
        content = b"" if payload is None else json.dumps(payload).encode()
        for _ in range(_NONCES):
            nonce = self._nonces.pop() if self._nonces else await self._fresh_nonce()
            heard = await self._send("POST", url, self._signed(url, nonce, content))
            if _kind(heard.raw) != "badNonce":
                return self._judged(heard)
        raise self.silent("takes none of the numbers that it gives out (badNonce)")

    async def close(self) -> None:
        """Close its connections."""
        if self._session:
            await self._session.close()
            self._session = None

    def refused(self, words: str) -> MeshError:
        """The error of a server that says no."""
        step = "docs/gateways.md says what the CA has to reach"
        return OrderRefused(f"{self.directory} does not certify it: {words}", next_step=step)

    def silent(self, words: str) -> MeshError:
        """The error of a server that says nothing of use."""
        return AuthorityUnavailable(f"{self.directory} {words}", next_step="check its address, DNS and ca_file")

    def _judged(self, heard: _Heard) -> Reply:
        asked = retry_after(heard.headers.get("Retry-After", ""), datetime.now(UTC))
        if heard.status < 300:
            self.wish = timedelta()
            return Reply(heard.raw, heard.headers.get("Location", ""), asked)
        self.wish = asked
        if heard.status >= _SERVER_ERROR or heard.status < _ERROR or not _kind(heard.raw):
            raise self.silent(f"answers {heard.status}{': ' if heard.raw else ''}{_words(heard.raw)}")
        raise self.refused(_words(heard.raw))

    async def _fresh_nonce(self) -> str:
        await self._send("HEAD", self.place("newNonce"))
        if not self._nonces:
            raise self.silent("gives out no number to sign (Replay-Nonce)")
        return self._nonces.pop()

    async def _send(self, method: str, url: str, data: bytes | None = None) -> _Heard:
        headers = {"Content-Type": "application/jose+json"} if data is not None else {}
        try:
            async with self._open().request(method, url, data=data, headers=headers, allow_redirects=False) as response:
                if nonce := response.headers.get("Replay-Nonce"):
                    self._nonces = [nonce]
                return _Heard(response.status, response.headers, await self._read(response))
        except TimeoutError:
            raise self.silent(f"gave no answer within {_CALL_SECONDS:g} s") from None
        except aiohttp.ClientConnectorCertificateError as error:
            raise self.silent(f"does not prove to be it: {quoted(error.certificate_error)}") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise self.silent(f"does not answer: {quoted(error)}") from None

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        raw = bytearray()
        async for chunk in response.content.iter_any():
            raw += chunk
            if len(raw) > _MAX_BYTES:
                response.close()
                raise self.silent(f"answers with more than {_MAX_BYTES} bytes")
        return bytes(raw)

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=self._tls(), limit=2),
                timeout=aiohttp.ClientTimeout(total=_CALL_SECONDS),
                headers={"User-Agent": f"meshagent/{__version__}", "Accept-Encoding": "identity"},
                auto_decompress=False,
                trust_env=True,
            )
        return self._session

    def _tls(self) -> ssl.SSLContext:
        try:
            context = ssl.create_default_context(cafile=self._roots)
        except OSError as error:
            raise self.silent(f"is not asked: the roots in {self._roots} cannot be read: {quoted(error)}") from None
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        return context

    def _signed(self, url: str, nonce: str, content: bytes) -> bytes:
        """A JWS in flattened JSON (RFC 7515), by ES256."""
        who = {"kid": self._account} if self._account else {"jwk": self._jwk()}
        protected = b64(json.dumps({"alg": "ES256", "nonce": nonce, "url": url, **who}).encode())
        payload = b64(content)
        r, s = decode_dss_signature(self._key.sign(f"{protected}.{payload}".encode(), ec.ECDSA(hashes.SHA256())))
        signature = b64(r.to_bytes(32, "big") + s.to_bytes(32, "big"))
        return json.dumps({"protected": protected, "payload": payload, "signature": signature}).encode()

    def _jwk(self) -> dict[str, str]:
        numbers = self._key.public_key().public_numbers()
        return {
            "crv": "P-256",
            "kty": "EC",
            "x": b64(numbers.x.to_bytes(32, "big")),
            "y": b64(numbers.y.to_bytes(32, "big")),
        }


def b64(raw: bytes) -> str:
    """Base64url without padding."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def said(problem: object) -> str:
    """An error document (RFC 7807) in one line: its kind, its text, and the same of what it consists of."""
    if not isinstance(problem, Mapping):
        return ""
    told = [
        str(problem.get("type", "")).removeprefix(_PROBLEM),
        str(problem.get("detail") or problem.get("title") or ""),
    ]
    parts = problem.get("subproblems")
    told += [said(each) for each in parts[:5]] if isinstance(parts, list) else []
    return quoted(": ".join(filter(None, told)))


def quoted(words: object) -> str:
    """Somebody else's words on one line, short."""
    line = " ".join("".join(each if each.isprintable() else " " for each in str(words)).split())
    return line if len(line) <= _QUOTED else f"{line[:_QUOTED]}..."


def retry_after(text: str, now: datetime) -> timedelta:
    """What a Retry-After header asks for: seconds or a date (RFC 9110, 10.2.3). Nothing where it says neither."""
    if text.isdecimal() and len(text) < 10:
        return timedelta(seconds=int(text))
    try:
        when = parsedate_to_datetime(text)
    except ValueError:
        return timedelta()
    return max(timedelta(), (when if when.tzinfo else when.replace(tzinfo=UTC)) - now)


def _problem(raw: bytes) -> Mapping[str, Any]:
    found = Reply(raw, "", timedelta()).body
    return found if str(found.get("type", "")).startswith(_PROBLEM) else {}


def _kind(raw: bytes) -> str:
    """Of an ACME error; nothing where it is none."""
    return str(_problem(raw).get("type", "")).removeprefix(_PROBLEM)


def _words(raw: bytes) -> str:
    return said(_problem(raw)) or quoted(raw[: 4 * _QUOTED].decode(errors="replace"))
