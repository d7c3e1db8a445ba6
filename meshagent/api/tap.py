"""GET /v1/tap: live requests as JSON lines, for as long as the caller reads them."""

from __future__ import annotations

import json
from collections.abc import Mapping

from aiohttp import web

from meshagent.agent.operations import Operations
from meshagent.envoy.requests import Wanted
from meshagent.envoy.tap import Asked, Tap, Watcher
from meshagent.errors import NotFound, UsageProblem

_LOOK_SECONDS = 0.5  # how soon it is noticed that nobody reads any more
_KNOWN = frozenset({"service", "source", "destination", "side", "method", "path", "status", "reason", "failed"})
_HEADERS = {"Content-Type": "application/x-ndjson"}


async def watch(request: web.Request, operations: Operations, tap: Tap) -> web.StreamResponse:
    """Answer once Envoy sends its requests: a line for each, as GET /v1/requests has them, and `{"missed": N}` for N more.

    Query: `service`, and the fields of `Asked` and `Wanted`. Ends with the caller, with the agent, or with the service
    that was asked for. Raises UsageProblem, NotFound and EnvoyFailed.
    """
    async with tap.watch(asked(request.query, services_here(operations))) as watcher:
        response = web.StreamResponse(headers=_HEADERS)
        await response.prepare(request)
        try:
            while not watcher.ended and request.transport is not None and not request.transport.is_closing():
                await _tell(response, watcher)
                watcher.asked = asked(request.query, services_here(operations))  # services come and go
        except (ConnectionError, NotFound):  # the caller has gone, or the service
            pass
        return response


def asked(query: Mapping[str, str], here: frozenset[str]) -> Asked:
    """What is asked for, of the services whose proxy runs here. Raises UsageProblem, and NotFound for a service elsewhere."""
    if unknown := sorted(query.keys() - _KNOWN):
        raise UsageProblem(f"a tap knows no {unknown[0]}", next_step=f"use {', '.join(sorted(_KNOWN))}")
    service = query.get("service", "")
    if service and service not in here:
        raise NotFound(
            f"no proxy of {service} runs on this host",
            next_step="meshagent services --all says where it runs; or leave the service out, to watch all of this host",
        )
    wanted = Wanted(
        source=query.get("source", ""),
        destination=query.get("destination", ""),
        side=query.get("side", ""),
        reason=query.get("reason", ""),
        status=query.get("status", ""),
        failed=query.get("failed", "") not in ("", "0", "false"),
    )
    return Asked(frozenset({service}) if service else here, wanted, query.get("method", ""), query.get("path", ""))


def services_here(operations: Operations) -> frozenset[str]:
    """The services and gateways whose proxy is this host's."""
    return frozenset(name for name, _ in operations.roster.registered) | operations.roster.interest().gateways


async def _tell(response: web.StreamResponse, watcher: Watcher) -> None:
    """What came in the next half second."""
    for seen in await watcher.take(_LOOK_SECONDS):
        await response.write(json.dumps(seen.data()).encode() + b"\n")
    missed, watcher.missed = watcher.missed, 0
    if missed:
        await response.write(b'{"missed": %d}\n' % missed)
