"""Two hosts as network namespaces with transparent capture: apps as users of their own, that know nothing of the mesh."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from meshagent.model.virtual import virtual_addresses
from tests.system.live import Agent, LiveMesh, live_mesh
from tests.system.namespaces import Hosts, hosts, ip

WEB, BATCH, STRANGER, API = 51001, 51002, 51003, 51010  # users that this machine need not have
APP, OTHER, LEDGER = 8080, 8090, 5432  # where the apps listen, on every address of theirs
SYSTEM_PYTHON = "/usr/bin/python3"  # one that every user may run
_APP = """
import http.server, socket, socketserver, sys, threading
class Http(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        said = "%s %s %s" % (sys.argv[1], self.headers.get("host"), self.headers.get("x-forwarded-client-cert", "plain"))
        self.send_response(200); self.send_header("content-length", str(len(said))); self.end_headers()
        self.wfile.write(said.encode())
    def log_message(self, *words): pass
class Echo(socketserver.StreamRequestHandler):
    def handle(self):
        while line := self.rfile.readline(): self.wfile.write(b"ledger " + line)
class Http6(http.server.ThreadingHTTPServer): address_family = socket.AF_INET6
class Echo6(socketserver.ThreadingTCPServer): address_family = socket.AF_INET6; allow_reuse_address = True
servers = [Http6(("::", int(port)), Http) for port in sys.argv[2].split(",")] + [Echo6(("::", int(sys.argv[3])), Echo)]
for server in servers[1:]: threading.Thread(target=server.serve_forever, daemon=True).start()
print("ready", flush=True)
servers[0].serve_forever()
"""
_TALK = """
import socket, sys
s = socket.create_connection((sys.argv[1], int(sys.argv[2])), 3)
s.sendall(sys.argv[3].encode() + b"\\n")
print(s.recv(200).decode().strip())
"""


@dataclass
class Answer:
    """What a program of an app printed and how it ended."""

    code: int
    said: str
    error: str = ""

    @property
    def refused(self) -> bool:
        """Whether the connection was refused at once, by a reset."""
        return self.error.startswith("curl: (7)") or "ConnectionRefusedError" in self.error


@dataclass
class Captured:
    """The mesh of the tests: web and batch on host a, api and ledger on host b."""

    mesh: LiveMesh
    made: Hosts
    a: Agent
    b: Agent

    async def run(self, host: str, *words: str, user: int | None = None) -> Answer:
        """Run a program on a host as a user."""
        drop = () if user is None else ("setpriv", "--reuid", str(user), "--regid", str(user), "--clear-groups")
        process = await asyncio.create_subprocess_exec(
            *self.made.within(host), *drop, *words, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        out, error = await process.communicate()
        return Answer(process.returncode, out.decode(), error.decode())

    @asynccontextmanager
    async def program(self, host: str, *words: str):
        """A program that runs on a host meanwhile; its input and output are pipes."""
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        process = await asyncio.create_subprocess_exec(*self.made.within(host), *words, **pipes)
        try:
            yield process
        finally:
            process.kill()
            await process.communicate()

    async def curl(self, host: str, user: int, url: str, *more: str) -> Answer:
        """One request as an app makes it; the status is the last line."""
        return await self.run(host, "curl", "-sS", "-g", "-m", "5", "-w", "\n%{http_code}", *more, url, user=user)

    async def call(self, service: str, user: int, *, ipv6: bool = False, port: int = 80, known: bool = False) -> Answer:
        """http://SERVICE.mesh/ from host a, whose resolver is its agent. `known`: the address was found before."""
        address = virtual(service, ipv6=ipv6)
        resolve = f"{service}.mesh:{port}:{f'[{address}]' if ipv6 else address}"
        how = ("--resolve", resolve) if known else ("-6" if ipv6 else "-4",)
        return await self.curl("a", user, f"http://{service}.mesh{'' if port == 80 else f':{port}'}/", *how)

    async def python(self, host: str, user: int, program: str, *words: object) -> Answer:
        """A small program of an app."""
        return await self.run(host, SYSTEM_PYTHON, "-c", program, *map(str, words), user=user)

    async def talk(self, user: int, address: str, port: int, line: str = "hello") -> Answer:
        """One line to a TCP service from host a, and its answer."""
        return await self.python("a", user, _TALK, address, port, line)

    async def redirect(
        self, host: str, *words: str, check: bool = True, within: tuple[str, ...] = (), **capture: object
    ) -> Answer:
        """`meshagent redirect ...` on a host, with these settings of `capture`."""
        agent = self.a if host == "a" else self.b
        config = agent.directory / f"capture-{len(capture)}.yaml"
        config.write_text(json.dumps({"capture": capture}))
        command = (sys.executable, "-m", "meshagent", "redirect", *words)
        options = ("--api", agent.api, "--config", str(config)) if words[0] in ("up", "show") else ()
        process = await asyncio.create_subprocess_exec(
            *self.made.within(host),
            *within,
            *command,
            *options,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | {"SSH_CONNECTION": ""},
        )
        out, error = await process.communicate()
        assert not check or process.returncode == 0, error.decode()
        return Answer(process.returncode, out.decode(), error.decode())

    def ipv6(self, host: str) -> str:
        """The host's address."""
        return f"fd77::{host}"


def virtual(service: str, *, ipv6: bool = False) -> str:
    """The virtual address of a service."""
    return str(virtual_addresses(service)[ipv6])


@asynccontextmanager
async def captured_mesh():
    """The mesh, with rules in force on both hosts and web allowed to call api and ledger."""
    async with AsyncExitStack() as stack:
        mesh = await stack.enter_async_context(live_mesh())
        made = await stack.enter_async_context(hosts("a", "b"))
        stack.enter_context(_names())
        for name in ("a", "b"):
            stack.enter_context(_resolver(made.namespace(name)))
            ip("-n", made.namespace(name), "addr", "add", f"fd77::{name}/64", "dev", "eth0", "nodad")
            app = await stack.enter_async_context(_app(made, name))
            assert await app.stdout.readline() == b"ready\n"
        found = [
            await mesh.agent(f"vm-{name}", within=made.within(name), host_address=made.address(name))
            for name in ("a", "b")
        ]
        world = Captured(mesh, made, *found)
        await _services(world)
        await asyncio.gather(*(world.redirect(name, "up", "--no-undo") for name in ("a", "b")))
        yield world


@contextmanager
def _names():
    """Every agent answers the mesh's names on its own host, where resolvers ask."""
    os.environ["MESHAGENT_DNS"] = "127.0.0.1:53"
    try:
        yield
    finally:
        del os.environ["MESHAGENT_DNS"]


@contextmanager
def _resolver(namespace: str):
    """The resolv.conf of all that is run there."""
    directory = Path("/etc/netns") / namespace
    directory.mkdir(parents=True)
    try:
        (directory / "resolv.conf").write_text("nameserver 127.0.0.1\noptions timeout:2 attempts:1\n")
        yield
    finally:
        shutil.rmtree(directory)


async def _services(world: Captured) -> None:
    for name, port, protocol in (("api", APP, "http"), ("ledger", LEDGER, "tcp")):
        await world.b.up(name=name, port=port, protocol=protocol, capture={"user": API + port})
    await world.b.up(name="stock", port=OTHER, protocol="http")
    calls = [{"service": name} for name in ("api", "ledger", "outside", "stock")]
    await world.a.up(name="web", port=APP, protocol="http", upstreams=calls, capture={"user": WEB})
    await world.a.up(
        name="batch", port=OTHER, protocol="http", upstreams=calls, capture={"user": BATCH, "inbound": "open"}
    )
    await world.mesh.intend("api", web="allow")
    await world.mesh.intend("stock", web="allow")
    await world.mesh.applied(await world.mesh.intend("ledger", web="allow"))


@asynccontextmanager
async def _app(made: Hosts, host: str):
    words = (SYSTEM_PYTHON, "-c", _APP, host, f"{APP},{OTHER}", str(LEDGER))
    process = await asyncio.create_subprocess_exec(*made.within(host), *words, stdout=subprocess.PIPE)
    try:
        yield process
    finally:
        process.terminate()
        await process.wait()
