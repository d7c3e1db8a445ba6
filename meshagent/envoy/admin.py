"""A client of Envoy's admin interface on its Unix socket. Standard library only: an HTTP library costs 12 MB."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
from pathlib import Path
from typing import Any
from urllib.parse import quote

from meshagent.errors import EnvoyFailed

_TIMEOUT_SECONDS = 5.0


class AdminClient:
    """Every call raises EnvoyFailed when Envoy does not answer, or answers with an error."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def get(self, path: str) -> bytes:
        """The body of a GET."""
        return await asyncio.to_thread(self._call, "GET", path)

    async def post(self, path: str) -> bytes:
        """The body of a POST: what changes something takes no other method."""
        return await asyncio.to_thread(self._call, "POST", path)

    async def ready(self) -> bool:
        """Whether it is LIVE; False also when it does not answer."""
        try:
            return (await self.get("/ready")).strip() == b"LIVE"
        except EnvoyFailed:
            return False

    async def stats(self, pattern: str = "") -> dict[str, int]:
        """Counters and gauges whose names match the regular expression."""
        text = await self.get(f"/stats?filter={quote(pattern)}" if pattern else "/stats")
        rows = (line.partition(": ") for line in text.decode().splitlines())
        return {name: int(value) for name, _, value in rows if value.isdigit()}

    async def server_info(self) -> dict[str, Any]:
        """Version, state, uptime and options."""
        info: dict[str, Any] = json.loads(await self.get("/server_info"))
        return info

    async def config_dump(self) -> bytes:
        """The whole configuration as JSON. Envoy redacts private keys."""
        return await self.get("/config_dump?include_eds")

    async def certs(self) -> dict[str, Any]:
        """The certificates that are served."""
        found: dict[str, Any] = json.loads(await self.get("/certs"))
        return found

    def _call(self, method: str, path: str) -> bytes:
        connection = _UnixConnection(self._path)
        try:
            connection.request(method, path)
            response = connection.getresponse()
            body = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise EnvoyFailed(
                f"Envoy's admin socket does not answer: {error}", next_step="meshagent proxy status"
            ) from None
        finally:
            connection.close()
        if response.status >= 400 and path != "/ready":
            raise EnvoyFailed(f"Envoy answers {response.status} to {method} {path}", next_step="meshagent proxy status")
        return body


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("envoy", timeout=_TIMEOUT_SECONDS)
        self._socket_path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._socket_path))
