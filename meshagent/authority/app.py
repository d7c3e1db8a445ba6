"""The authority's HTTP: paths to answers, errors to JSON. Bodies are short and come soon, or are not read."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

import structlog
from aiohttp import web

from meshagent.authority.answers import Answers, TooOften
from meshagent.authority.metrics import Metrics
from meshagent.authority.requests import MAX_BODY, EnrolRequest, RenewRequest, SignRequest, parse_request
from meshagent.errors import (
    AuthorityUnavailable,
    CertificateRefused,
    EnrolmentRefused,
    MeshError,
    StoreDenied,
    StoreUnavailable,
    UsageProblem,
)

_log = structlog.get_logger(__name__)
DEADLINE = 10.0  # seconds, for one request from its headers to its answer
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_STATUS: tuple[tuple[type[MeshError], int], ...] = (
    (UsageProblem, 400),
    (EnrolmentRefused, 403),
    (CertificateRefused, 403),
    (StoreUnavailable, 503),
    (StoreDenied, 503),
    (AuthorityUnavailable, 503),
)


def make_app(answers: Answers, problems: Callable[[], tuple[str, ...]]) -> web.Application:
    """What is served over TLS. `problems`: what is wrong with the authority now."""

    async def roots(_: web.Request) -> web.Response:
        return web.json_response(answers.roots())

    async def health(_: web.Request) -> web.Response:
        found = problems()
        return web.json_response({"ok": not found, "problems": list(found)}, status=503 if found else 200)

    async def enrol(request: web.Request) -> web.Response:
        asked = parse_request(EnrolRequest, await request.read())
        return web.json_response(await answers.enrol(asked, _address(request)))

    async def renew(request: web.Request) -> web.Response:
        asked = parse_request(RenewRequest, await request.read())
        peer = await answers.peer(_certificate(request), _address(request))
        return web.json_response(await answers.renew(asked, peer, _address(request)))

    async def sign(request: web.Request) -> web.Response:
        asked = parse_request(SignRequest, await request.read())
        kind, _, token = request.headers.get("Authorization", "").partition(" ")
        if kind.lower() == "bearer":
            return web.json_response(await answers.sign_workload(asked, token.strip(), _address(request)))
        peer = await answers.peer(_certificate(request), _address(request))
        return web.json_response(await answers.sign(asked, peer, _address(request)))

    app = web.Application(client_max_size=MAX_BODY, middlewares=[_errors, _counted(answers)])
    app.router.add_get("/v1/roots", roots)
    app.router.add_get("/v1/health", health)
    app.router.add_post("/v1/enrol", enrol)
    app.router.add_post("/v1/renew", renew)
    app.router.add_post("/v1/sign", sign)
    return app


def metrics_app(metrics: Metrics, refresh: Callable[[], None]) -> web.Application:
    """Prometheus' page, on loopback."""

    async def page(_: web.Request) -> web.Response:
        refresh()
        return web.Response(body=metrics.page(), content_type="text/plain")

    app = web.Application()
    app.router.add_get("/metrics", page)
    return app


def _counted(answers: Answers) -> Any:
    @web.middleware
    async def count(request: web.Request, handler: Handler) -> web.StreamResponse:
        answers.admit_request(_address(request))
        return await handler(request)

    return count


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every answer is JSON, and closes its connection: the next one shows its certificate again."""
    try:
        async with asyncio.timeout(DEADLINE):
            response = await handler(request)
    except MeshError as error:
        status = next((code for kind, code in _STATUS if isinstance(error, kind)), 500)
        response = _no(status, error.code, error.message, error.next_step)
    except TooOften:
        response = _no(429, AuthorityUnavailable.code, "asked too often", "wait a minute; see rate_limits")
    except TimeoutError:
        response = _no(408, UsageProblem.code, f"the request took longer than {DEADLINE:g} s", "send it again")
    except web.HTTPException as error:
        response = _no(error.status, UsageProblem.code, error.reason, "docs/authority.md lists what can be asked")
    except Exception:  # noqa: BLE001 - one request that fails in a way nobody thought of must not say more than that
        _log.exception("request_failed", path=request.path)
        response = _no(500, MeshError.code, "the authority failed", "see its log")
    response.force_close()
    return response


def _no(status: int, code: str, message: str, next_step: str) -> web.Response:
    body = {"code": code, "message": message, "next_step": next_step}
    return web.Response(status=status, text=json.dumps(body), content_type="application/json")


def _address(request: web.Request) -> str:
    return request.remote or ""


def _certificate(request: web.Request) -> bytes | None:
    transport = request.transport
    tls = transport.get_extra_info("ssl_object") if transport else None
    return tls.getpeercert(binary_form=True) if isinstance(tls, ssl.SSLObject) else None
