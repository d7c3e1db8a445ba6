"""Calls of a signing authority: HTTPS whose other end is known by its root and its name, or nothing is sent.

The name is looked at within the TLS handshake: whatever stands behind the address, a service of this mesh included, gets
no byte of a request (attack test 44: Kuma's CVE-2026-52724 was a client that did not look).
"""

from __future__ import annotations

import hashlib
import json
import re
import ssl
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import aiohttp
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from meshagent.ca.keys import signed_by
from meshagent.ca.x509 import UNREADABLE
from meshagent.errors import AuthorityUnavailable, CertificateRefused, EnrolmentRefused, MeshError

DEADLINE = 10.0  # seconds, for one authority
MAX_BODY = 256 * 1024
_TOO_MANY = 429
_CLIENT_ERROR, _SERVER_ERROR = 400, 500
_MAX_WORDS = 500
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_NEXT_STEP = "check that `meshagent authority` runs there and that its port can be reached from this host"


class Calls:
    """Calls to any of several authorities: the one that answered last is asked first. Belongs to one event loop."""

    def __init__(self, addresses: tuple[str, ...], context: Callable[[], ssl.SSLContext]) -> None:
        self.addresses = addresses
        self._context = context
        self._current = 0

    async def get(self, path: str) -> dict[str, Any]:
        """What the authority says. Raises AuthorityUnavailable."""
        return await self._call("GET", path, None, {}, CertificateRefused)

    async def post(
        self,
        path: str,
        body: Mapping[str, object],
        *,
        bearer: str = "",
        refusal: type[CertificateRefused | EnrolmentRefused] = CertificateRefused,
        repeatable: bool = True,
    ) -> dict[str, Any]:
        """The answer. Raises `refusal` when it is no, AuthorityUnavailable when there is none.

        What is not `repeatable` goes to no second authority once it may have reached a first.
        """
        headers = {"Authorization": f"Bearer {bearer}"} if bearer else {}
        return await self._call("POST", path, json.dumps(body).encode(), headers, refusal, repeatable=repeatable)

    async def _call(
        self,
        method: str,
        path: str,
        body: bytes | None,
        headers: Mapping[str, str],
        refusal: type[MeshError],
        *,
        repeatable: bool = True,
    ) -> dict[str, Any]:
        failed: list[str] = []
        for _ in self.addresses:
            place = self._current
            address = self.addresses[place]
            try:
                status, answer = await self._send(f"https://{address}{path}", method, body, headers)
            except _Missed as missed:
                failed.append(f"{address}: {missed}")
                self._current = (place + 1) % len(self.addresses)
                if missed.begun and not repeatable:
                    break
                continue
            words = _words(answer, status)
            if status == _TOO_MANY or status >= _SERVER_ERROR:
                failed.append(f"{address}: {words[0]}")
                self._current = (place + 1) % len(self.addresses)
                continue
            if status >= _CLIENT_ERROR:
                raise refusal(words[0], next_step=words[1])
            return answer
        raise AuthorityUnavailable(f"no authority answers ({'; '.join(failed)})", next_step=_NEXT_STEP)

    async def _send(
        self, url: str, method: str, body: bytes | None, headers: Mapping[str, str]
    ) -> tuple[int, dict[str, Any]]:
        sent = {"Content-Type": "application/json", **headers} if body is not None else dict(headers)
        try:
            connector = aiohttp.TCPConnector(ssl=self._context(), limit=1, force_close=True)
            timeout = aiohttp.ClientTimeout(total=DEADLINE)
            async with (
                aiohttp.ClientSession(connector=connector, timeout=timeout, trust_env=False) as session,
                session.request(method, url, data=body, headers=sent, allow_redirects=False) as response,
            ):
                return response.status, _parsed(await _bounded(response))
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise _Missed(_reason(error), begun=not isinstance(error, aiohttp.ClientConnectorError)) from None


class _Missed(Exception):
    """One authority gave no answer. `begun`: it may have received the question."""

    def __init__(self, reason: str, *, begun: bool) -> None:
        super().__init__(reason)
        self.begun = begun


def known_by(roots_pem: str, trust_domain: str, own: tuple[Path, Path] | None = None) -> ssl.SSLContext:
    """TLS 1.3 with an authority of the trust domain, which these roots vouch for. `own`: our certificate and key.

    Raises CertificateRefused when the roots or our own files cannot be used.
    """

    class Checked(ssl.SSLObject):
        """Ends the handshake unless the peer is an authority."""

        def do_handshake(self) -> None:
            super().do_handshake()
            check_authority(self.getpeercert() or {}, trust_domain)

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False  # its name is the URI, looked at by `check_authority`
    context.verify_mode = ssl.CERT_REQUIRED
    context.sslobject_class = Checked
    try:
        context.load_verify_locations(cadata=roots_pem)
        if own:
            context.load_cert_chain(*own)
    except (OSError, ValueError) as error:
        raise CertificateRefused(
            f"the pinned roots or this host's certificate cannot be used: {error}",
            next_step="join again with a new join line: meshagent join --replace",
        ) from None
    return context


def known_by_nothing() -> ssl.SSLContext:
    """TLS with whoever answers: for public facts alone, which are compared with a pinned fingerprint afterwards."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def check_authority(peer: Mapping[str, Any], trust_domain: str) -> None:
    """Raises SSLCertVerificationError unless the certificate (as `getpeercert` has it) names an authority of the domain."""
    names = [value for kind, value in peer.get("subjectAltName", ()) if kind == "URI"]
    before = f"spiffe://{trust_domain}/authority/"
    if len(names) != 1 or not names[0].startswith(before) or not _NAME.fullmatch(names[0].removeprefix(before)):
        shown = ", ".join(ascii(name)[1:-1][:200] for name in names) or "nobody"
        raise ssl.SSLCertVerificationError(1, f"the other end is {shown}, and no authority of {trust_domain}")


def fingerprint_of(root_pem: str) -> str:
    """`sha256:` and the hex digest of the certificate (DER). Raises ValueError for what is not one certificate."""
    try:
        (found,) = x509.load_pem_x509_certificates(root_pem.encode())
        return "sha256:" + hashlib.sha256(found.public_bytes(serialization.Encoding.DER)).hexdigest()
    except UNREADABLE as error:
        raise ValueError(f"is not one certificate: {error}") from None


def issuer_among(intermediate_pem: str, roots: tuple[str, ...]) -> str:
    """The root (PEM) that signed an intermediate: while roots change, newcomers must pin the one that is shown to them.

    Raises CertificateRefused when none did.
    """
    for root in roots:
        with suppress(*UNREADABLE):
            intermediate = x509.load_pem_x509_certificates(intermediate_pem.encode())[0]
            if signed_by(intermediate, x509.load_pem_x509_certificate(root.encode())):
                return root
    raise CertificateRefused(
        "the authority's intermediate is of no root that the mesh believes", next_step="meshagent ca status"
    )


async def _bounded(response: aiohttp.ClientResponse) -> bytes:
    """The body, which must not be larger than an authority's ever is."""
    body = await response.content.read(MAX_BODY + 1)
    while body and len(body) <= MAX_BODY and (more := await response.content.read(MAX_BODY + 1)):
        body += more
    if len(body) > MAX_BODY:
        _missed(f"its answer is longer than {MAX_BODY} bytes")
    return body


def _parsed(body: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        _missed("its answer is not JSON")
    if not isinstance(answer, dict):
        _missed("its answer is not a JSON object")
    return answer


def _words(answer: Mapping[str, Any], status: int) -> tuple[str, str]:
    """Message and next step of an error, fit for a terminal."""
    texts = (answer.get("message") or f"status {status}", answer.get("next_step") or "")
    message, step = (ascii(str(text))[1:-1][:_MAX_WORDS] for text in texts)
    return message, step


def _missed(reason: str) -> NoReturn:
    raise _Missed(reason, begun=True)


def _reason(error: BaseException) -> str:
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return f"its certificate is not accepted: {_tls_words(error.certificate_error)}"
    if isinstance(error, TimeoutError):
        return f"no answer within {DEADLINE:g} s"
    if isinstance(error, aiohttp.ClientConnectorError):
        return _tls_words(error.os_error)
    return str(error) or type(error).__name__


def _tls_words(error: BaseException) -> str:
    said = (getattr(error, name, "") for name in ("verify_message", "reason", "strerror"))
    text = next((each for each in said if each), "") or str(error) or type(error).__name__
    return str(text)[:_MAX_WORDS]
