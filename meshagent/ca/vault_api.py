"""Calls to Vault or OpenBao: one deadline over each, a bound on every answer, no redirects, no secret in any word.

The client library hvac was not taken, see ADR 0017.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp

from meshagent.errors import AuthorityUnavailable, CertificateRefused, UsageProblem

MAX_BODY_BYTES = 512 * 1024
OK, FORBIDDEN = 200, 403
_NO_CONTENT = 204
_REDIRECT = range(300, 400)
_TRY_AGAIN = (412, 429, 472, 473)  # an index that a replica has not seen yet, too many requests, standbys
_SERVER_ERROR = 500
_QUOTED = 200


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer below 500: its status and JSON body."""

    status: int
    body: Mapping[str, Any] = field(repr=False)

    @property
    def ok(self) -> bool:
        """Whether it did what was asked."""
        return self.status in (OK, _NO_CONTENT)

    def part(self, name: str) -> Mapping[str, Any]:
        """The object `name` of the body ("data", "auth"), empty when there is none."""
        found = self.body.get(name)
        return found if isinstance(found, Mapping) else {}

    def said(self, *secrets: str) -> str:
        """What Vault says went wrong, on one line, short, without these secrets."""
        return quoted("; ".join(map(str, self.body.get("errors") or ())) or f"status {self.status}", *secrets)


def quoted(text: str, *secrets: str) -> str:
    """Somebody else's words on one line, short, with each secret taken out before they are cut."""
    for secret in filter(None, secrets):
        text = text.replace(secret, "(secret)")
    line = "".join(letter if letter.isprintable() else " " for letter in text)
    return line[:_QUOTED]


class Vault:
    """One server. Belongs to the event loop that it is first used on."""

    def __init__(self, address: str, namespace: str, ca_file: Path | None, timeout: timedelta) -> None:
        self.address = address.rstrip("/")
        self._headers = {"X-Vault-Request": "true", "Accept-Encoding": "identity"}
        if namespace:
            self._headers["X-Vault-Namespace"] = namespace
        self._tls = _tls_context(ca_file) if address.startswith("https:") else None
        self._timeout = timeout
        self._session: aiohttp.ClientSession | None = None

    async def call(self, method: str, path: str, body: Mapping[str, object] | None = None, token: str = "") -> Reply:
        """One call. Raises AuthorityUnavailable when waiting may help, CertificateRefused for an answer without sense."""
        headers = {"X-Vault-Token": token} if token else {}
        try:
            async with self._open().request(
                method, f"{self.address}/v1/{path}", json=body, headers=headers, allow_redirects=False
            ) as response:
                status, raw = response.status, await self._read(response)
        except TimeoutError:
            raise self._away(f"gave no answer within {self._timeout.total_seconds():g} s") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise self._away(f"cannot be reached: {quoted(str(error), token)}") from None
        return self._judged(status, raw, token)

    async def close(self) -> None:
        """Close its connections."""
        if self._session:
            await self._session.close()
            self._session = None

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=self._tls or True, limit=4),
                timeout=aiohttp.ClientTimeout(total=self._timeout.total_seconds()),
                headers=self._headers,
                auto_decompress=False,
            )
        return self._session

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        raw = bytearray()
        async for chunk in response.content.iter_any():
            raw += chunk
            if len(raw) > MAX_BODY_BYTES:
                response.close()
                raise CertificateRefused(
                    f"Vault at {self.address} answers with more than {MAX_BODY_BYTES} bytes",
                    next_step="see what stands between here and Vault",
                )
        return bytes(raw)

    def _judged(self, status: int, raw: bytes, token: str) -> Reply:
        try:
            body = json.loads(raw) if raw.strip() else {}
        except (ValueError, RecursionError):
            body = None
        reply = Reply(status, body if isinstance(body, dict) else {})
        if status >= _SERVER_ERROR or status in _TRY_AGAIN:
            raise self._away(f"answers {status}: {reply.said(token)}")
        if status in _REDIRECT:
            raise self._away(f"answers {status}, a redirect, and those are not followed with a token")
        if not isinstance(body, dict):
            raise self._away(f"answers {status} with what is not JSON")
        return reply

    def _away(self, what: str) -> AuthorityUnavailable:
        return AuthorityUnavailable(
            f"Vault at {self.address} {what}", next_step="check ca.address and look at `vault status`"
        )


def _tls_context(ca_file: Path | None) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except (OSError, ssl.SSLError) as error:
        raise UsageProblem(
            f"ca.ca_file: {ca_file} cannot be read: {error}", next_step="put the roots (PEM) of Vault's own TLS into it"
        ) from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context
