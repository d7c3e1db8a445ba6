"""The pages over HTTP, on loopback alone: who may ask, and what the browser is told not to do."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

from meshagent.errors import MeshError, NotFound, StoreDenied, StoreUnavailable, UsageProblem
from meshagent.ui.entry import Door, is_near
from meshagent.ui.pages import Pages

STATIC = Path(__file__).parent / "static"
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
_STATUS: dict[type[MeshError], int] = {NotFound: 404, UsageProblem: 400, StoreUnavailable: 503, StoreDenied: 403}
_BODY_LIMIT = 1 << 20  # bytes: documents that are pasted
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class File:
    """A file of the pages, and the tag by which a browser knows that it has it."""

    body: bytes
    kind: str
    tag: str


def files() -> dict[str, File]:
    """Every file of the pages, by its path on the server."""
    found = {f"/{path.name}": _file(path) for path in sorted(STATIC.iterdir()) if path.suffix in _TYPES}
    return found | {"/": found["/index.html"]}


def application(door: Door, pages: Pages, entered: Callable[[], None]) -> web.Application:
    """The server; `entered` is called when a link was used."""
    app = web.Application(middlewares=[_guarded], client_max_size=_BODY_LIMIT)
    for path, file in files().items():
        app.router.add_get(path, _given(file))
    app.router.add_post("/api/enter", _entrance(door, entered))
    for name, answer in pages.answers.items():
        app.router.add_post(f"/api/{name}", _answered(door, answer))
    return app


@web.middleware
async def _guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Nobody is answered under another name than this machine's own, and no question of somebody else's page is."""
    foreign = request.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin")
    if not is_near(request.host) or (foreign and request.method != "GET"):
        answer: web.StreamResponse = _problem(UsageProblem("these pages are for this machine alone"), 403)
    else:
        try:
            answer = await handler(request)
        except MeshError as error:
            answer = _problem(error, _STATUS.get(type(error), 500))
        except web.HTTPException as error:
            answer = _problem(MeshError(error.reason), error.status)
    answer.headers.update(HEADERS)
    return answer


def _given(file: File) -> Handler:
    async def give(request: web.Request) -> web.Response:
        headers = {"ETag": file.tag, "Cache-Control": "no-cache"}
        if request.headers.get("If-None-Match") == file.tag:
            return web.Response(status=304, headers=headers)
        return web.Response(body=file.body, content_type=file.kind, charset="utf-8", headers=headers)

    return give


def _entrance(door: Door, entered: Callable[[], None]) -> Handler:
    async def enter(request: web.Request) -> web.Response:
        session = door.enter((await _asked(request)).get("token", ""))
        if session is None:
            return _problem(
                UsageProblem("this link was used before", next_step="take the newest one of the terminal"), 401
            )
        entered()
        return _data({"session": session})

    return enter


def _answered(door: Door, answer: Callable[[dict[str, str]], Awaitable[dict[str, object]]]) -> Handler:
    async def tell(request: web.Request) -> web.Response:
        if not door.knows(request.headers.get("Authorization", "")):
            problem = UsageProblem("who asks is not known here", next_step="open the link that `meshagent ui` prints")
            return _problem(problem, 401)
        return _data(await answer(await _asked(request)))

    return tell


async def _asked(request: web.Request) -> dict[str, str]:
    """The JSON object of a request, its values as text. Raises UsageProblem."""
    try:
        data = json.loads(await request.read() or b"{}")
    except ValueError:
        data = None
    if not isinstance(data, dict):
        raise UsageProblem("what was sent is not a JSON object")
    return {str(name): str(value) for name, value in data.items()}


def _problem(error: MeshError, status: int) -> web.Response:
    return _data({"code": error.code, "message": error.message, "next_step": error.next_step}, status)


def _data(data: dict[str, object], status: int = 200) -> web.Response:
    body = json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode()
    headers = {"Cache-Control": "no-store"}
    return web.Response(body=body, status=status, content_type="application/json", headers=headers)


def _file(path: Path) -> File:
    body = path.read_bytes()
    return File(body, _TYPES[path.suffix], f'"{hashlib.sha256(body).hexdigest()[:32]}"')
