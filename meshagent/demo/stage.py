"""The demo's stage: a temporary directory, an agent, the services, and calls as an app or a person makes them."""

from __future__ import annotations

import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from meshagent.errors import EnvoyFailed

_START_SECONDS = 20.0
_STOP_SECONDS = 15.0
SERVICES = (("http", "payments"), ("tcp", "ledger"), ("http", "web"))


@dataclass(slots=True)
class Said:
    """What a command printed, and how it ended."""

    code: int
    out: str
    err: str


@dataclass(slots=True)
class Stage:
    """Where everything is. `ports`: of the apps and, as `web>payments`, of the callers' local upstreams."""

    directory: Path
    ports: dict[str, int]
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        """What makes every command talk to this mesh."""
        return {
            "MESHAGENT_STORE": f"sqlite://{self.directory}/mesh.db",
            "MESHAGENT_API": f"unix://{self.directory}/run/agent.sock",
        }

    def command(self, *words: str) -> Said:
        """Run `meshagent WORDS` as a person would."""
        done = subprocess.run(
            [sys.executable, "-m", "meshagent", *words],
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            check=False,
        )
        return Said(done.returncode, done.stdout.strip(), done.stderr.strip())

    def get(self, pair: str, path: str = "/", method: str = "GET") -> tuple[int, dict[str, str], str]:
        """Call as the source's app does: plain HTTP to its local upstream port."""
        connection = http.client.HTTPConnection("127.0.0.1", self.ports[pair], timeout=5)
        try:
            connection.request(method, path)
            response = connection.getresponse()
            return (
                response.status,
                {key.lower(): value for key, value in response.getheaders()},
                response.read().decode(),
            )
        finally:
            connection.close()

    def dial(self, pair: str) -> socket.socket:
        """A TCP connection to the source's local upstream port."""
        return socket.create_connection(("127.0.0.1", self.ports[pair]), timeout=5)


@contextmanager
def staged() -> Iterator[Stage]:
    """A running mesh with three services; everything ends and is removed with the block."""
    directory = Path(tempfile.mkdtemp(prefix="meshagent-demo-"))
    names = [*(name for _, name in SERVICES), "reporting", "web>payments", "web>ledger", "reporting>ledger", "mtls"]
    stage = Stage(directory, dict(zip(names, _free_ports(len(names)), strict=True)))
    try:
        for kind, name in SERVICES:
            _spawn(stage, kind, name, str(stage.ports[name]))
        _start_agent(stage)
        yield stage
    finally:
        _stop(stage)
        shutil.rmtree(directory, ignore_errors=True)


def _start_agent(stage: Stage) -> None:
    directory = stage.directory
    flags = {
        "data-dir": directory / "data",
        "services-dir": directory / "services.d",
        "store": stage.environment["MESHAGENT_STORE"],
        "api": stage.environment["MESHAGENT_API"],
        "inbound-port": stage.ports["mtls"],
        "host-name": "demo",
        "metrics": "none",
    }
    words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    agent = _spawn(stage, "agent", *words)
    until = time.monotonic() + _START_SECONDS
    while stage.command("services").code != 0:
        if agent.poll() is not None or time.monotonic() > until:
            log = (directory / "agent.log").read_text()[-2000:]
            raise EnvoyFailed(f"the demo's agent did not start:\n{log}", next_step="run `meshagent agent` to see why")


def _spawn(stage: Stage, kind: str, *words: str) -> subprocess.Popen[bytes]:
    with (stage.directory / f"{kind}.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "meshagent.demo.apps", kind, *words],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, "MESHAGENT_RUNTIME_DIR": str(stage.directory / "run")},
        )
    stage.processes.append(process)
    return process


def _stop(stage: Stage) -> None:
    """The agent first: it drains and ends its Envoy."""
    for process in reversed(stage.processes):
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _free_ports(count: int) -> Sequence[int]:
    """Ports below the ephemeral range that nobody listens on."""
    found: list[int] = []
    for port in range(21500 + os.getpid() % 500 * 20, 32000):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            found.append(port)
        if len(found) == count:
            return found
    raise EnvoyFailed("there are not enough free ports below 32000", next_step="end what listens there")
