"""Lets what is under way at an Envoy come to its end."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from datetime import timedelta

from meshagent.envoy.admin import AdminClient

_OFTEN_SECONDS = 0.05
_WANTED = r"^(http|listener)\..+\.downstream_(rq|cx)_active$"
_BY_WORKER = re.compile(r"\.worker_\d+\.downstream_cx_active$")


def under_way(stats: Mapping[str, int]) -> int:
    """HTTP requests and TCP connections under way, from Envoy's statistics.

    An idle HTTP connection is not work. Envoy has no gauge of TCP connections (`tcp.*.downstream_cx_active` does not
    exist, measured): they are the listeners' connections without those that speak HTTP.
    """
    requests = connections = spoken = 0
    for name, value in stats.items():
        if name.startswith(("http.admin.", "listener.admin.")) or _BY_WORKER.search(name):
            continue
        if name.startswith("listener."):
            connections += value
        elif name.endswith("_rq_active"):
            requests += value
        elif name.startswith("http."):
            spoken += value
    return requests + max(0, connections - spoken)


async def drain(admin: AdminClient, limit: timedelta) -> bool:
    """Have callers go elsewhere and wait for what they began, at most `limit`. Returns whether all of it has ended.

    Measured: from the first call on every response says `connection: close` (or GOAWAY), and new connections are still
    served for --drain-time-s, so that callers can move away, then refused. Requests under way end as they would have.
    Raises EnvoyFailed when Envoy does not answer.
    """
    try:
        async with asyncio.timeout(limit.total_seconds()):
            await admin.post("/healthcheck/fail")
            await admin.post("/drain_listeners?graceful")
            await _idle(admin)
            await admin.post("/drain_listeners")  # at once, should the time for moving away not be over
            await _idle(admin)  # what came in between
    except TimeoutError:
        return False
    return True


async def _idle(admin: AdminClient) -> None:
    loop = asyncio.get_running_loop()
    while True:
        asked = loop.time()
        if not under_way(await admin.stats(_WANTED)):
            return
        # Ten thousand clusters make this question dear: Envoy gets as much time between two as it takes for one.
        await asyncio.sleep(max(_OFTEN_SECONDS, loop.time() - asked))
