"""The HTTP API on the agent's Unix socket, and the metrics page. Nothing here decides anything."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aiohttp import web
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from meshagent.agent.operations import Operations
from meshagent.api.limits import upstream_limits
from meshagent.api.metrics import metrics_text
from meshagent.api.path import CallPath
from meshagent.api.requests import logged_requests
from meshagent.api.status import agent_status, proxy_status, service_rows
from meshagent.api.tap import watch
from meshagent.api.traffic import read_traffic
from meshagent.envoy.process import EnvoyProcess
from meshagent.errors import EnvoyFailed, InvalidDocument, MeshError, NotFound, PortInUse, Problem, UsageProblem
from meshagent.model.service import ServiceDefinition

_BODY_LIMIT = 1 << 20  # bytes
_DEFAULT_WAIT = 10.0  # seconds
_PAGE_SECONDS = (
    2.0  # for Envoy: one that hangs must not hide what the agent knows, and Prometheus waits 10 s by default
)
_STATUS: dict[type[MeshError], int] = {InvalidDocument: 422, UsageProblem: 400, NotFound: 404, PortInUse: 409}
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Api:
    """The handlers. `edges`: how many the metrics page tells apart."""

    def __init__(self, operations: Operations, envoy: EnvoyProcess, facts: dict[str, str], edges: int) -> None:
        self._operations = operations
        self._envoy = envoy
        self._facts = facts
        self._edges = edges

    def app(self) -> web.Application:
        """The application for the Unix socket."""
        app = web.Application(middlewares=[_errors], client_max_size=_BODY_LIMIT)
        app.router.add_get("/v1/status", self._status)
        app.router.add_get("/v1/services", self._services)
        app.router.add_put("/v1/services", self._up)
        app.router.add_delete("/v1/services/{name}", self._down)
        app.router.add_put("/v1/services/{name}/ttl", self._ttl)
        app.router.add_post("/v1/leave", self._leave)
        app.router.add_get("/v1/traffic", self._traffic)
        app.router.add_get("/v1/proxy/status", self._proxy_status)
        app.router.add_get("/v1/proxy/config", self._proxy_config)
        app.router.add_get("/v1/proxy/stats", self._proxy_stats)
        app.router.add_get("/v1/requests", self._requests)
        app.router.add_get("/v1/path", self._path)
        app.router.add_get("/v1/tap", self._tap)
        app.on_shutdown.append(self._end_taps)
        return app

    def metrics_app(self) -> web.Application:
        """The application for the metrics port: one page, nothing else."""
        app = web.Application()
        app.router.add_get("/metrics", self._metrics)
        return app

    async def _status(self, _: web.Request) -> web.Response:
        return web.json_response(await self._whole())

    async def _services(self, _: web.Request) -> web.Response:
        return web.json_response({"services": service_rows(self._operations)})

    async def _up(self, request: web.Request) -> web.Response:
        wait = float(request.query.get("wait", _DEFAULT_WAIT))
        try:
            definition = ServiceDefinition.model_validate_json(await request.read())
        except ValidationError as error:
            raise InvalidDocument(tuple(_problem(each) for each in error.errors())) from None
        registered = await self._operations.up(definition, "api", wait)
        row = next(row for row in service_rows(self._operations) if row["id"] == registered.definition.instance_id)
        return web.json_response(row)

    async def _down(self, request: web.Request) -> web.Response:
        found, seconds = await self._operations.down(request.match_info["name"], request.query.get("id"))
        definition = found.definition
        return web.json_response(
            {"name": definition.name, "id": definition.instance_id, "drained_ms": round(seconds * 1000)}
        )

    async def _leave(self, _: web.Request) -> web.Response:
        await self._operations.leave()
        return web.json_response({"left": True})

    async def _ttl(self, request: web.Request) -> web.Response:
        body = await request.json()
        found = self._operations.roster.find(request.match_info["name"], request.query.get("id"))
        self._operations.health.feed(found.place, body.get("status") == "passing", str(body.get("output", "")))
        return web.json_response({"name": found.definition.name, "id": found.definition.instance_id})

    async def _traffic(self, _: web.Request) -> web.Response:
        return web.json_response(await read_traffic(self._operations, self._envoy))

    async def _tap(self, request: web.Request) -> web.StreamResponse:
        return await watch(request, self._operations, self._envoy.tap)

    async def _end_taps(self, _: web.Application) -> None:
        self._envoy.tap.end()  # else the agent would wait for whoever watches

    async def _proxy_status(self, _: web.Request) -> web.Response:
        return web.json_response(await proxy_status(self._operations, self._envoy))

    async def _proxy_config(self, _: web.Request) -> web.Response:
        return web.Response(body=await self._envoy.admin.config_dump(), content_type="application/json")

    async def _proxy_stats(self, request: web.Request) -> web.Response:
        return web.json_response({"stats": await self._envoy.admin.stats(request.query.get("filter", ""))})

    async def _requests(self, request: web.Request) -> web.Response:
        directory = Path(self._facts["data_dir"])
        return web.json_response(await logged_requests(directory, request.query, datetime.now(UTC)))

    async def _path(self, request: web.Request) -> web.Response:
        directory = Path(self._facts["data_dir"])
        found = CallPath(self._operations, self._envoy, directory, datetime.now(UTC))
        asked = (request.query.get("source", ""), request.query.get("destination", ""))
        return web.json_response(await found.read(*asked))

    async def _metrics(self, _: web.Request) -> web.Response:
        counted, limits = None, list[dict[str, Any]]()
        with suppress(EnvoyFailed, TimeoutError):
            async with asyncio.timeout(_PAGE_SECONDS):
                counted = await read_traffic(self._operations, self._envoy)
                limits = await upstream_limits(self._operations, self._envoy)
        status = agent_status(self._operations, self._envoy, self._facts) | {"limits": limits}
        page = await asyncio.to_thread(metrics_text, status, counted, self._edges)
        return web.Response(body=page, content_type="text/plain")

    async def _whole(self) -> dict[str, Any]:
        """The agent's status, and what Envoy knows of limits."""
        limits = await upstream_limits(self._operations, self._envoy)
        return agent_status(self._operations, self._envoy, self._facts) | {"limits": limits}


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except MeshError as error:
        status = _STATUS.get(type(error), 500)
        return web.json_response(
            {"code": error.code, "message": error.message, "next_step": error.next_step}, status=status
        )
    except ValueError as error:
        return web.json_response({"code": UsageProblem.code, "message": str(error), "next_step": ""}, status=400)
    except web.HTTPException as error:
        return web.json_response({"code": "E000", "message": error.reason, "next_step": ""}, status=error.status)


def _problem(error: ErrorDetails) -> Problem:
    return Problem("the definition sent", 0, ".".join(str(part) for part in error["loc"]), error["msg"])
