"""The sockets of the API and of the metrics page. What serves them is imported at the first call: it costs 20 MB."""

from __future__ import annotations

import asyncio
import grp
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from meshagent.agent.operations import Operations
from meshagent.agent.ports import who_has
from meshagent.envoy.process import EnvoyProcess

if TYPE_CHECKING:
    from aiohttp import web

_log = structlog.get_logger(__name__)
_BACKLOG = 128


@asynccontextmanager
async def serving(
    operations: Operations,
    envoy: EnvoyProcess,
    facts: dict[str, str],
    api: Path,
    metrics: tuple[str, int] | None,
    edges: int,
) -> AsyncIterator[None]:
    """Serve while the block runs: the API on a Unix socket for its owner and group, the metrics on a TCP port.

    `edges`: how many the metrics tell apart.
    """
    listening = [_unix(api), *([opened] if metrics and (opened := _tcp(*metrics)) else [])]
    serve = asyncio.create_task(_serve(operations, envoy, facts, listening, edges))
    try:
        yield
    finally:
        serve.cancel()
        await asyncio.gather(serve, return_exceptions=True)
        for each in listening:
            each.close()
        api.unlink(missing_ok=True)


async def _serve(
    operations: Operations, envoy: EnvoyProcess, facts: dict[str, str], listening: list[socket.socket], edges: int
) -> None:
    await _first_call(listening)
    from aiohttp import web

    from meshagent.api.app import Api

    handlers = Api(operations, envoy, facts, edges)
    runners: list[web.AppRunner] = []
    try:
        for app, each in zip((handlers.app(), handlers.metrics_app()), listening, strict=False):
            runners.append(web.AppRunner(app, access_log=None))
            await runners[-1].setup()
            # Python tries to accept as often as the backlog says; without files each time is an error to be logged, and a
            # try more a second later: thousands of lines (measured). So it is told one, and the kernel the true number.
            await web.SockSite(runners[-1], each, backlog=1).start()
            each.listen(_BACKLOG)
        await asyncio.Event().wait()
    finally:
        for runner in runners:
            await runner.cleanup()


async def _first_call(listening: list[socket.socket]) -> None:
    """Until somebody connects; the connection stays in the backlog for whoever accepts it then."""
    loop = asyncio.get_running_loop()
    called = asyncio.Event()
    for each in listening:
        loop.add_reader(each, called.set)
    try:
        await called.wait()
    finally:
        for each in listening:
            loop.remove_reader(each)


def _unix(path: Path) -> socket.socket:
    path.unlink(missing_ok=True)
    opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    opened.bind(str(path))
    path.chmod(0o660)
    try:
        os.chown(path, -1, grp.getgrnam("meshagent").gr_gid)
    except (KeyError, PermissionError):
        _log.debug("api_group_absent", path=str(path))
    opened.listen(_BACKLOG)
    opened.setblocking(False)
    return opened


def _tcp(host: str, port: int) -> socket.socket | None:
    """A metrics port that is taken is an event, not the end of the agent."""
    try:
        opened = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        _log.error("metrics_not_served", address=f"{host}:{port}", problem=error.strerror, next_step=who_has(port))
        return None
    opened.setblocking(False)
    return opened
