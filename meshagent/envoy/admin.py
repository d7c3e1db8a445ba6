"""A client of Envoy's admin interface on its Unix socket. Standard library only: an HTTP library costs 12 MB."""

from __future__ import annotations

import asyncio
import io
import json
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

from meshagent.envoy.counts import Counts, parse_counts, parse_errors
from meshagent.errors import EnvoyFailed

_TIMEOUT_SECONDS = 5.0
_DUMP_SECONDS = 30.0  # 10,000 clusters are many megabytes
_NEXT = "meshagent proxy status; what Envoy says itself is in envoy.log in the data directory"
_ERROR_TEXT = 300  # characters of Envoy's own words in an error


class AdminClient:
    """Every call raises EnvoyFailed when Envoy does not answer in `timeout` seconds, or answers with an error."""

    def __init__(self, path: Path, timeout: float = _TIMEOUT_SECONDS) -> None:
        self._path = path
        self._timeout = timeout

    async def get(self, path: str) -> bytes:
        """The body of a GET."""
        return await self._body("GET", path)

    async def post(self, path: str) -> bytes:
        """The body of a POST: what changes something takes no other method."""
        return await self._body("POST", path)

    async def ready(self) -> bool:
        """Whether it is LIVE; False also when it does not answer."""
        try:
            status, body = await self._call("GET", "/ready", self._timeout)
        except EnvoyFailed:
            return False
        return status == 200 and body.strip() == b"LIVE"

    async def stats(self, pattern: str = "") -> dict[str, int]:
        """Counters and gauges whose names match the regular expression, anywhere in the name."""
        text = await self.get(f"/stats?filter={quote(pattern, safe='')}" if pattern else "/stats")
        rows = (line.partition(": ") for line in text.decode().splitlines())
        return {name: int(value) for name, _, value in rows if value.isdigit()}

    async def counts(self, pattern: str) -> Counts:
        """The same, with the distributions whose names match."""
        asked = f"/stats?histogram_buckets=cumulative&filter={quote(pattern, safe='')}"
        told = (await self.get(asked)).decode()
        return await asyncio.to_thread(parse_counts, told)  # a thousand upstreams are 1.4 MB and 60 ms

    async def errors(self, pattern: str) -> dict[str, int]:
        """How many requests failed by cluster, of those whose names match. A gRPC call that ends in an error has failed.

        An Envoy that knows no filter there tells of all.
        """
        return parse_errors((await self.get(f"/clusters?filter={quote(pattern, safe='')}")).decode())

    async def server_info(self) -> dict[str, Any]:
        """Version, state, uptime and options."""
        return await self._json("/server_info")

    async def config_dump(self) -> bytes:
        """The whole configuration as JSON. Envoy redacts private keys."""
        return await self._body("GET", "/config_dump?include_eds", max(self._timeout, _DUMP_SECONDS))

    async def certs(self) -> dict[str, Any]:
        """The certificates that are served."""
        return await self._json("/certs")

    async def _json(self, path: str) -> dict[str, Any]:
        try:
            found = json.loads(await self.get(path))
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise EnvoyFailed(f"Envoy answers something else than an object to {path}", next_step=_NEXT)
        return found

    async def _body(self, method: str, path: str, timeout: float | None = None) -> bytes:
        status, body = await self._call(method, path, timeout or self._timeout)
        if status >= 400:
            said = body[:_ERROR_TEXT].decode(errors="replace").strip()
            raise EnvoyFailed(f"Envoy answers {status} to {method} {path}: {said}", next_step=_NEXT)
        return body

    async def _call(self, method: str, path: str, seconds: float) -> tuple[int, bytes]:
        request = f"{method} {path} HTTP/1.1\r\nHost: envoy\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
        try:
            async with asyncio.timeout(seconds):
                return parse_response(method, await self._exchange(request.encode("ascii")))
        except TimeoutError:
            problem = f"no answer within {seconds:g} s"
        except OSError as error:
            problem = error.strerror or str(error)
        raise EnvoyFailed(f"Envoy's admin socket {self._path}: {problem}", next_step=_NEXT)

    async def _exchange(self, request: bytes) -> bytes:
        """Envoy closes after its answer without delay (0.6 ms for a whole exchange, measured)."""
        reader, writer = await asyncio.open_unix_connection(str(self._path))
        try:
            writer.write(request)
            return await reader.read()
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()


def parse_response(method: str, data: bytes) -> tuple[int, bytes]:
    """Status and body of a whole HTTP/1.1 response. Raises EnvoyFailed when it is none, or was cut off."""
    import http.client  # 25 ms and 2 MB that a start without a question should not pay

    response = http.client.HTTPResponse(cast("socket.socket", _Received(data)), method=method)
    try:
        response.begin()
        return response.status, response.read()
    except http.client.HTTPException as error:
        raise EnvoyFailed(f"Envoy's answer cannot be read: {error!r}", next_step=_NEXT) from None
    finally:
        response.close()


class _Received:
    """As much of a socket as the parser wants."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, _mode: str) -> io.BytesIO:
        return io.BytesIO(self._data)
