"""A host for tests of Envoy's supervision: an application, an xDS server, and agents one after the other."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.extensions.access_loggers.file.v3 import file_pb2 as _file
from envoy.extensions.filters.http.router.v3 import router_pb2 as _router
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as _hcm
from envoy.extensions.filters.network.tcp_proxy.v3 import tcp_proxy_pb2 as _tcp
from google.protobuf.json_format import ParseDict
from google.protobuf.message import Message

from meshagent.envoy.bootstrap import BootstrapSettings
from meshagent.envoy.process import EnvoyEvent, EnvoyProcess
from meshagent.xds.cache import Cache
from meshagent.xds.server import XdsServer
from meshagent.xds.types import CDS, LDS
from tests.system.live import forget_memory

_T = "type.googleapis.com/"
_MODULES = (_file, _router, _hcm, _tcp)  # ParseDict knows only what was imported


def wire(message: Message, content: dict[str, Any]) -> bytes:
    return ParseDict(content, message).SerializeToString(deterministic=True)


def free_port() -> int:
    while True:
        port = random.randint(20_000, 30_000)
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return port


@dataclass
class Host:
    """A machine with an application, an xDS server and any number of agents one after the other."""

    directory: Path
    app: int = field(default_factory=free_port)
    web: int = field(default_factory=free_port)
    db: int = field(default_factory=free_port)
    more: int = field(default_factory=free_port)
    events: list[EnvoyEvent] = field(default_factory=list)
    cache: Cache = field(default_factory=Cache)
    release: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def settings(self) -> BootstrapSettings:
        return BootstrapSettings("vm-1", self.directory / "run" / "xds.sock", self.directory / "run" / "admin.sock")

    @property
    def data(self) -> Path:
        return self.directory / "data"

    def agent(self, settings: BootstrapSettings | None = None, path: str = "auto") -> EnvoyProcess:
        return EnvoyProcess(self.data, settings or self.settings, path=path, concurrency=1, on_event=self.events.append)

    def kinds(self) -> list[str]:
        return [event.kind for event in self.events]

    def processes(self) -> list[int]:
        """Every process, zombies too, whose command line or parent says that it is of this test."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with suppress(OSError):
                    line = (entry / "cmdline").read_bytes()
                    of_us = (entry / "stat").read_text().rpartition(")")[2].split()[:2] == ["Z", str(os.getpid())]
                    if of_us or os.fsencode(self.directory) in line:
                        found.append(int(entry.name))
        return found

    def serve(self) -> None:
        endpoint = {"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": self.app}}}}
        app = {
            "name": "app",
            "connect_timeout": "1s",
            "load_assignment": {"cluster_name": "app", "endpoints": [{"lb_endpoints": [endpoint]}]},
        }
        self.cache.update(
            {
                (CDS, "app"): wire(Cluster(), app),
                (LDS, "web"): wire(Listener(), self.listener("web", self.web, self.http())),
                (LDS, "db"): wire(Listener(), self.listener("db", self.db, self.tcp())),
            }
        )

    def listener(self, name: str, port: int, configuration: dict[str, Any]) -> dict[str, Any]:
        return {
            "name": name,
            "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
            "filter_chains": [{"filters": [{"name": name, "typed_config": configuration}]}],
        }

    def http(self) -> dict[str, Any]:
        router = {"@type": f"{_T}envoy.extensions.filters.http.router.v3.Router"}
        log = {
            "@type": f"{_T}envoy.extensions.access_loggers.file.v3.FileAccessLog",
            "path": str(self.data / "access.log"),
            "log_format": {"json_format": {"path": "%REQ(:PATH)%", "status": "%RESPONSE_CODE%"}},
        }
        return {
            "@type": f"{_T}envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "in.web",
            "access_log": [{"name": "file", "typed_config": log}],
            "http_filters": [{"name": "router", "typed_config": router}],
            "route_config": {
                "virtual_hosts": [
                    {
                        "name": "all",
                        "domains": ["*"],
                        "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "app", "timeout": "0s"}}],
                    }
                ]
            },
        }

    def tcp(self) -> dict[str, Any]:
        kind = f"{_T}envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"
        return {"@type": kind, "stat_prefix": "in.db", "cluster": "app"}

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """The application: every request ends at once, but one for /slow when `release` says so."""
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                if b"/slow" in head:
                    await self.release.wait()
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
                await writer.drain()
        writer.close()

    async def status(self, path: str = "/") -> int:
        """Of one request on a connection of its own; 0 when it is refused or cut."""
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.web)
        except ConnectionRefusedError:
            return 0
        writer.write(f"GET {path} HTTP/1.1\r\nhost: a\r\n\r\n".encode())
        try:
            line = await reader.readline()
        except ConnectionError:
            line = b""
        writer.close()
        return int(line.split()[1]) if line else 0

    async def serves(self) -> bool:
        return await self.status() == 200

    async def serves_more(self) -> bool:
        """Whether what `serve_more` adds is there."""
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self.more)
        except ConnectionRefusedError:
            return False
        writer.close()
        return True

    def serve_more(self) -> None:
        """One more listener."""
        self.cache.update({(LDS, "more"): wire(Listener(), self.listener("more", self.more, self.tcp()))})


@asynccontextmanager
async def running(agent: EnvoyProcess) -> AsyncIterator[EnvoyProcess]:
    """An agent that watches its Envoy, and at the end stops it cleanly."""
    await agent.start()
    watching = asyncio.create_task(agent.run())
    try:
        yield agent
    finally:
        await agent.stop(timedelta(0))
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching


async def within(seconds: float, true: Callable[[], Awaitable[bool]]) -> float:
    """How long it took to become true."""
    began = time.monotonic()
    async with asyncio.timeout(seconds):
        while not await true():
            await asyncio.sleep(0.005)
    return time.monotonic() - began


@dataclass
class Started:
    agent: int
    envoy: int


_AGENT = """
import asyncio, sys
from pathlib import Path
from meshagent.envoy.bootstrap import BootstrapSettings
from meshagent.envoy.process import EnvoyProcess
async def main(directory):
    settings = BootstrapSettings("vm-1", directory / "run" / "xds.sock", directory / "run" / "admin.sock")
    agent = EnvoyProcess(directory / "data", settings, path="auto", concurrency=1)
    await agent.start()
    (directory / "started").write_text(str(agent.pid))
    await agent.run()
asyncio.run(main(Path(sys.argv[1])))
"""


async def start_elsewhere(host: Host) -> Started:
    """An agent in a process of its own."""
    command = [sys.executable, "-c", _AGENT, str(host.directory)]
    agent = os.posix_spawn(sys.executable, command, {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})

    async def told() -> bool:
        with suppress(OSError):
            return bool((host.directory / "started").read_text())
        return False

    await within(10, told)
    return Started(agent, int((host.directory / "started").read_text()))


@pytest.fixture
async def host() -> AsyncIterator[Host]:
    """A host whose app and xDS server run; at its end no process of it may be left."""
    directory = Path(tempfile.mkdtemp(prefix="mesh"))  # short: a socket's path has 107 bytes
    made = Host(directory)
    made.data.mkdir()
    made.serve()
    server = XdsServer(made.cache)
    await server.start(made.settings.xds_socket)
    async with await asyncio.start_server(made.answer, "127.0.0.1", made.app):
        try:
            yield made
        finally:
            left = made.processes()
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            made.release.set()
            await server.stop(0)
            forget_memory(directory)
            shutil.rmtree(directory)
    assert not left, f"left behind: {left}"
