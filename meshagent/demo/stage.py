"""The demo's stage: a temporary directory, an agent, the services, and calls as an app or a person makes them."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from meshagent.demo.caller import Caller
from meshagent.demo.processes import (
    Process,
    answers,
    clean_environment,
    end,
    free_ports,
    last_words,
    signals_kept,
    spawn,
)
from meshagent.errors import EnvoyFailed

_START_SECONDS = 20.0
SERVICES = (("http", "payments"), ("tcp", "ledger"), ("http", "web"))
UPSTREAMS = {"web": ("payments", "ledger"), "reporting": ("ledger",)}  # reporting only calls: it has no process
_CONFIG = """\
store: {store}
api: {api}
data_dir: {directory}/data
runtime_dir: {directory}/run
services_dir: {directory}/services.d
host: {{name: demo, address: 127.0.0.1}}
envoy: {{drain: 1s}}
metrics: none
inbound_port: {inbound_port}
"""


@dataclass(frozen=True, slots=True)
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
    processes: list[Process] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        """What makes every command talk to this mesh."""
        return {
            "MESHAGENT_STORE": f"sqlite://{self.directory}/mesh.db",
            "MESHAGENT_API": f"unix://{self.directory}/run/agent.sock",
        }

    @property
    def config(self) -> Path:
        """The agent's configuration file."""
        return self.directory / "agent.yaml"

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Start `meshagent WORDS` as a person would."""
        return subprocess.Popen(
            [sys.executable, "-m", "meshagent", *words],
            env=clean_environment() | self.environment | {"MESHAGENT_CONFIG": str(self.config)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def spawn(self, log_name: str, kind: str, *words: str) -> Process:
        """Start one of the demo's processes; it ends with the stage."""
        process = spawn(self.directory / f"{log_name}.log", kind, *words)
        self.processes.append(process)
        return process

    def call(self, pair: str) -> Caller:
        """A connection of the source's app to its local upstream port, kept open between requests."""
        return Caller(self.ports[pair])

    def dial(self, pair: str) -> socket.socket:
        """A TCP connection to the source's local upstream port."""
        return socket.create_connection(("127.0.0.1", self.ports[pair]), timeout=5)

    def last_words(self) -> str:
        """The end of the agent's log."""
        return last_words(self.directory / "agent.log")


def finish(process: subprocess.Popen[str]) -> Said:
    """Wait for a command."""
    out, err = process.communicate()
    return Said(process.returncode, out.strip(), err.strip())


@contextmanager
def staged() -> Iterator[Stage]:
    """A running mesh with three services; everything ends and is removed with the block, also on SIGTERM and SIGHUP.

    Raises EnvoyFailed when the agent does not start. Belongs to the main thread, as signals do.
    """
    calls = [f"{source}>{upstream}" for source, upstreams in UPSTREAMS.items() for upstream in upstreams]
    names = [*(name for _, name in SERVICES), "reporting", *calls, "mtls"]
    with signals_kept():
        stage = Stage(
            Path(tempfile.mkdtemp(prefix="meshagent-demo-")), dict(zip(names, free_ports(len(names)), strict=True))
        )
        try:
            _start(stage)
            yield stage
        finally:
            end(stage.processes, (stage.directory,))
            shutil.rmtree(stage.directory, ignore_errors=True)


def _start(stage: Stage) -> None:
    """The apps and the agent, which answers when this returns."""
    for kind, name in SERVICES:
        stage.spawn(name, kind, "--name", name, "--port", str(stage.ports[name]))
    settings = {
        "directory": stage.directory,
        "store": stage.environment["MESHAGENT_STORE"],
        "api": stage.environment["MESHAGENT_API"],
        "inbound_port": stage.ports["mtls"],
    }
    stage.config.write_text(_CONFIG.format(**settings))
    agent = stage.spawn("agent", "agent", "--config", str(stage.config))
    until = time.monotonic() + _START_SECONDS
    while not answers(stage.directory / "run/agent.sock"):
        if agent.poll() is not None or time.monotonic() > until:
            raise EnvoyFailed(
                f"the demo's agent did not start:\n{stage.last_words()}", next_step="run `meshagent agent` to see why"
            )
        time.sleep(0.02)
