"""When the agent's own parts last moved, for systemd's watchdog."""

from __future__ import annotations

import asyncio

from meshagent.envoy.process import EnvoyProcess
from meshagent.errors import EnvoyFailed
from meshagent.host.watchdog import Signs
from meshagent.store.lazy import LazyStore
from meshagent.xds.server import XdsServer

_ANSWER_SECONDS = 2.0


class Liveness:
    """Looks when asked. All times are the event loop's."""

    def __init__(self, store: LazyStore, envoy: EnvoyProcess, xds: XdsServer) -> None:
        self._store = store
        self._envoy = envoy
        self._xds = xds
        self._envoy_at = self._stream_at = 0.0

    async def look(self) -> Signs:
        """Seconds since each part moved; a part that was never looked at before has moved now."""
        answered = await self._answers()
        now = asyncio.get_running_loop().time()
        if answered or not self._envoy.pid or not self._envoy_at:
            self._envoy_at = now
        if not answered or self._xds.streams or not self._stream_at:
            self._stream_at = now
        return Signs(now - self._store.checked_at, now - self._envoy_at, now - self._stream_at)

    async def _answers(self) -> bool:
        """Whether there is an Envoy that answers."""
        if not self._envoy.pid:
            return False
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                await self._envoy.admin.server_info()
        except (TimeoutError, EnvoyFailed):
            return False
        return True
