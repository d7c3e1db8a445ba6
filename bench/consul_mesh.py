"""Consul's own mesh, to compare with: its built-in proxies, and the time from an intention to the first new connection.

Only new connections are judged by it: one that is open stays open under a deny. So each probe makes a connection.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from contextlib import asynccontextmanager
from pathlib import Path

from tests.servers.consul import Servers
from tests.servers.programs import program
from tests.system.live import eventually, free_port

_INTENTION = {"SourceName": "caller", "DestinationName": "called", "SourceType": "consul"}


async def own_mesh(servers: Servers, changes: int, pause: float) -> list[float]:
    """Seconds from an intention's PUT to the first new connection that obeys, for each change."""
    times: list[float] = []
    async with _proxies(servers) as port:
        await eventually(lambda: asyncio.run(_passes(port)), 30, "Consul's proxies do not serve")
        made = await asyncio.to_thread(servers.call, "POST", "/v1/connect/intentions", _INTENTION | {"Action": "allow"})
        for number in range(changes):
            action = "deny" if number % 2 == 0 else "allow"
            began = time.perf_counter()
            path = f"/v1/connect/intentions/{made['ID']}"
            await asyncio.to_thread(servers.call, "PUT", path, _INTENTION | {"Action": action})
            while await _passes(port) != (action == "allow"):
                await asyncio.sleep(0)
            times.append(time.perf_counter() - began)
            await asyncio.sleep(pause)
    return times


@asynccontextmanager
async def _proxies(servers: Servers):
    """An echo service and a caller, each behind `consul connect proxy`; gives the caller's local port."""
    app, called, caller, local = free_port(), free_port(), free_port(), free_port()
    upstream = {"DestinationName": "called", "LocalBindPort": local}
    services = (
        {"Name": "called", "Port": app, "Connect": {"SidecarService": {"Port": called}}},
        {
            "Name": "caller",
            "Port": free_port(),
            "Connect": {"SidecarService": {"Port": caller, "Proxy": {"Upstreams": [upstream]}}},
        },
    )
    for service in services:
        await asyncio.to_thread(servers.call, "PUT", "/v1/agent/service/register", service)
    environment = os.environ | {"CONSUL_HTTP_ADDR": servers.nodes[0].place, "CONSUL_HTTP_TOKEN": servers.token}
    with Path(os.devnull).open("wb") as nowhere:
        processes = [
            subprocess.Popen(
                [program("consul"), "connect", "proxy", "-sidecar-for", name],
                env=environment,
                stdout=nowhere,
                stderr=nowhere,
            )
            for name in ("called", "caller")
        ]
    try:
        async with await asyncio.start_server(_echo, "127.0.0.1", app):
            yield local
    finally:
        for process in processes:
            process.terminate()
            process.wait()


async def _echo(reader, writer) -> None:
    while data := await reader.read(100):
        writer.write(data)
    writer.close()


async def _passes(port: int) -> bool:
    """Whether a new connection carries a byte there and back."""
    writer = None
    try:
        async with asyncio.timeout(3):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"x")
            return await reader.read(1) == b"x"
    except (OSError, TimeoutError):
        return False
    finally:
        if writer:
            writer.close()
