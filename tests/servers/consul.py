"""Real Consul servers on loopback, each in a directory of its own: one, one with ACLs, a cluster of three.

A node keeps its data over `kill` and `start`, and `freeze` stops it without closing a connection. Ended by pid.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.servers.programs import program

PATIENCE = 40.0
_ports = itertools.cycle(range(12000 + os.getpid() % 60 * 120, 19990))


def free_port() -> int:
    """A loopback port below 20000 that nobody listens on, by TCP or UDP."""
    for port in itertools.islice(_ports, 4000):
        with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
            try:
                tcp.bind(("127.0.0.1", port))
                udp.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no free port")


@dataclass
class Node:
    """One Consul server process."""

    name: str
    directory: Path
    settings: Mapping[str, Any] = field(default_factory=dict)
    http: int = field(default_factory=free_port)
    serf: int = field(default_factory=free_port)
    rpc: int = field(default_factory=free_port)
    https: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def place(self) -> str:
        return f"127.0.0.1:{self.http}"

    def start(self, peers: Sequence[Node] = ()) -> None:
        """Start it, or start it again with the data that it had; see `Servers.wait` for when it is ready."""
        self.directory.mkdir(parents=True, exist_ok=True)
        configuration = {
            "server": True,
            "bootstrap_expect": max(1, len(peers)),
            "bind_addr": "127.0.0.1",
            "client_addr": "127.0.0.1",
            "data_dir": str(self.directory / "data"),
            "node_name": self.name,
            "log_level": "WARN",
            "disable_update_check": True,
            "ports": {
                "http": self.http,
                "https": self.https if "cert_file" in self.settings else -1,
                "serf_lan": self.serf,
                "server": self.rpc,
                "dns": -1,
                "serf_wan": -1,
                "grpc": -1,
            },
            "performance": {"raft_multiplier": 1},
            "retry_interval": "1s",
            "retry_join": [f"127.0.0.1:{peer.serf}" for peer in peers if peer is not self],
            "limits": {"http_max_conns_per_client": 2000},
            # Leases of a second end after two; the default of 10 s would make minutes of every run.
            "session_ttl_min": "1s",
            **self.settings,
        }
        file = self.directory / "consul.json"
        file.write_text(json.dumps(configuration))
        with (self.directory / "log").open("ab") as log:
            command = [program("consul"), "agent", "-config-file", str(file)]
            self.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)

    def kill(self) -> None:
        """End it without warning."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End it as an operator does."""
        self._end(signal.SIGTERM)

    def freeze(self) -> None:
        """Stop it from running, its connections open."""
        assert self.process
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let a frozen one run on."""
        assert self.process
        self.process.send_signal(signal.SIGCONT)

    def log(self) -> str:
        return (self.directory / "log").read_text(errors="replace")

    def _end(self, by: signal.Signals) -> None:
        if self.process and self.process.poll() is None:
            self.process.send_signal(by)
            self.process.send_signal(signal.SIGCONT)
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.process = None


@dataclass
class Servers:
    """One cluster. `token` may do everything, "" when ACLs are off."""

    nodes: tuple[Node, ...]
    token: str = ""

    @property
    def url(self) -> str:
        """The store's URL, with every node."""
        return f"consul://{','.join(node.place for node in self.nodes)}"

    def call(self, method: str, path: str, body: object = None, *, token: str | None = None, node: int = 0) -> Any:
        """One HTTP call, its JSON answer. Raises urllib.error.HTTPError."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"X-Consul-Token": self.token if token is None else token}
        url = f"http://{self.nodes[node].place}{path}"
        with urllib.request.urlopen(urllib.request.Request(url, data, headers, method=method), timeout=10) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def policy_token(self, rules: str) -> str:
        """A token that may do what the rules (HCL) say and nothing else."""
        name = f"p{time.monotonic_ns()}"
        self.call("PUT", "/v1/acl/policy", {"Name": name, "Rules": rules})
        made = self.call("PUT", "/v1/acl/token", {"Description": name, "Policies": [{"Name": name}]})
        return str(made["SecretID"])

    def start(self) -> None:
        """Start all nodes that do not run, and wait until they serve."""
        for node in self.nodes:
            if node.process is None:
                node.start(self.nodes if len(self.nodes) > 1 else ())
        self.wait()

    def wait(self) -> None:
        """Until every node that runs has a leader and reads from it."""
        for number, node in enumerate(self.nodes):
            deadline = time.monotonic() + PATIENCE
            while node.process and not self._serves(number):
                assert node.process.poll() is None, f"Consul ended: {node.log()}"
                assert time.monotonic() < deadline, f"Consul serves nothing: {node.log()}"
                time.sleep(0.05)

    def leader(self) -> Node:
        """The node that leads now."""
        running = next(number for number, node in enumerate(self.nodes) if node.process)
        place = self.call("GET", "/v1/status/leader", node=running)
        return next(node for node in self.nodes if place.endswith(f":{node.rpc}"))

    def kill(self) -> None:
        """End all nodes without warning."""
        for node in self.nodes:
            node.kill()

    def _serves(self, number: int) -> bool:
        try:
            # A node takes part when the leader has it in the catalog: sessions hang on it.
            nodes = self.call("GET", "/v1/catalog/nodes", node=number)
            return any(each["Node"] == self.nodes[number].name for each in nodes)
        except (OSError, ValueError, TypeError):
            return False


@contextmanager
def servers(count: int = 1, *, acl: bool = False, settings: Mapping[str, Any] | None = None) -> Iterator[Servers]:
    """Running servers; they and their data are gone afterwards. `settings` go into each one's configuration."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="consul-", ignore_cleanup_errors=True)))
        wanted = {**({"acl": {"enabled": True, "default_policy": "deny"}} if acl else {}), **(settings or {})}
        nodes = tuple(Node(f"n{number}", directory / f"n{number}", wanted) for number in range(count))
        made = Servers(nodes)
        stack.callback(made.kill)
        for node in nodes:
            node.start(nodes if count > 1 else ())
        if acl:
            made.token = _bootstrap(made)
            for number in range(count):
                made.call("PUT", "/v1/agent/token/agent", {"Token": made.token}, node=number)
        made.wait()
        yield made


def wait_for_roots(made: Servers) -> str:
    """Until Connect's CA of servers that have it on is there. Gives its trust domain."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            told = made.call("GET", "/v1/agent/connect/ca/roots")
            if told["Roots"]:
                return str(told["TrustDomain"])
        except OSError:
            pass
        assert time.monotonic() < deadline, made.nodes[0].log()
        time.sleep(0.1)


def _bootstrap(made: Servers) -> str:
    """The first token of servers with ACLs on."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return str(made.call("PUT", "/v1/acl/bootstrap")["SecretID"])
        except OSError:
            assert time.monotonic() < deadline, made.nodes[0].log()
            time.sleep(0.1)


@asynccontextmanager
async def _in_a_thread(count: int, *, acl: bool = False) -> AsyncIterator[Servers]:
    context = servers(count, acl=acl)
    made = await asyncio.to_thread(context.__enter__)
    try:
        yield made
    finally:
        await asyncio.to_thread(context.__exit__, None, None, None)


@asynccontextmanager
async def one_node() -> AsyncIterator[Servers]:
    """A single server."""
    async with _in_a_thread(1) as made:
        yield made


@asynccontextmanager
async def guarded_node() -> AsyncIterator[Servers]:
    """A single server with ACLs on, which denies what no policy allows."""
    async with _in_a_thread(1, acl=True) as made:
        yield made


@asynccontextmanager
async def three_nodes() -> AsyncIterator[Servers]:
    """A cluster of three."""
    async with _in_a_thread(3) as made:
        yield made
