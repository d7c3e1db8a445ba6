"""The mesh that is attacked by requests, and how: what a peer with a valid certificate, or the local app, may send."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Coroutine
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

from tests.system.apps import Answer, Caller, HttpApp, TcpApp, raw
from tests.system.forged import DOMAIN, Forger, Peer
from tests.system.live import free_port, live_mesh

NO_ADMIN = (
    {"action": "deny", "http": {"path_prefix": "/admin"}},
    {"action": "allow", "http": {"path_prefix": "/"}},
)
ONLY_REPORTS = ({"action": "allow", "http": {"methods": ["GET"], "path_prefix": "/reports"}},)


@asynccontextmanager
async def attacked_mesh():
    """payments (http) and ledger (tcp), called by web and orders; every test says itself what is allowed."""
    async with live_mesh() as mesh:
        agent = await mesh.agent()
        ports = {name: free_port() for name in ("payments", "ledger", "web", "orders")}
        local = {(s, u): free_port() for s in ("web", "orders") for u in ("payments", "ledger")}
        async with HttpApp(ports["payments"], "payments") as payments, TcpApp(ports["ledger"], b"HELLO\n") as ledger:
            await agent.up(name="payments", port=ports["payments"], protocol="http")
            await agent.up(name="ledger", port=ports["ledger"], protocol="tcp")
            for source in ("web", "orders"):
                upstreams = [{"service": up, "local_port": local[source, up]} for up in ("payments", "ledger")]
                await agent.up(name=source, port=ports[source], protocol="http", upstreams=upstreams)
            forger = Forger(mesh.directory, mesh.directory / "ca")
            web = Peer(agent.inbound_port, forger.service("web"), f"web.payments.{DOMAIN}")
            yield SimpleNamespace(mesh=mesh, agent=agent, local=local, payments=payments, ledger=ledger, web=web)


async def allow_web(shop, *permissions, destination="payments"):
    await shop.mesh.applied(await shop.mesh.intend(destination, web=list(permissions) or "allow"))


def request(path: bytes, *lines: bytes, method: bytes = b"GET", host: bytes = b"app") -> bytes:
    return b"\r\n".join([method + b" " + path + b" HTTP/1.1", b"host: " + host, *lines, b"", b""])


async def both_ways(shop, data: bytes, wait: float = 0.0) -> tuple[list[int], list[str]]:
    """The statuses that a peer and the local app get for these bytes, and the requests that reached the app.

    Without `wait` (seconds) the first answer is all; 0 is a connection that was ended without one.
    """
    before = len(shop.payments.seen)
    port = shop.local["web", "payments"]
    if wait:
        received = await asyncio.gather(shop.web.everything(data, wait=wait), raw(port, data, wait))
        answered = [status for each in received for status in statuses(each)]
    else:
        answered = await asyncio.gather(first(shop.web.send(data)), first(Caller(port).send(data)))
    return answered, shop.payments.seen[before:]


async def first(answer: Coroutine[Any, Any, Answer | str]) -> int:
    """The status of an answer that may not come."""
    try:
        found = await answer
    except (ConnectionError, asyncio.IncompleteReadError):
        return 0
    return 0 if isinstance(found, str) else found.status


def statuses(received: bytes) -> list[int]:
    """The statuses of all answers in it. The app's answers repeat the request, so only lines that begin one count."""
    return [
        int(part[:3]) for part in re.split(rb"HTTP/1\.[01] ", received)[1:] if part[:3].isdigit() and part[3:4] == b" "
    ]


STOPPED = [
    "/admin",
    "/admin/",
    "/admin/x",
    "/admin?x=1",
    "/admin;x=1/../../admin",
    "//admin",
    "///admin",
    "/.//admin",
    "/./admin",
    "/x/../admin",
    "/%61dmin",
    "/%61%64min/x",
    "/x/%2e%2e/admin",
    "/x/%2E%2e/admin",
    "/x/.%2e/admin",
    "/\\admin",
    "/x\\..\\admin",
    "/x/..;/../admin",
    "/%c0%af/../admin",
    "/%2fadmin",
    "/x/..%2fadmin",
    "/x%2f..%2fadmin",
    "/x/%5c..%5cadmin",
    "/%5cadmin",
    "/%00/admin",
    "/admin%00",
    "/ok#/admin",
    "admin",
    "*",
    "\\admin",
    "/../admin",
    "/x/../../admin",
    "/admin//x",
    "/admin/./x",
]
UNJUDGED = ["/ADMIN", "/Admin/x", "/;/admin", "/%252e/admin", "/x/%252e%252e/admin", "/%2561dmin"]  # as the docs say
BROKEN = (b"/adm\xefn", b"/x /admin", b"/\xc0\xaf/../admin", b"/\tadmin", b"/admin\x00", b"/admin\x0b")
