"""The demo's stage: a temporary directory, an agent, the services, and calls as an app or a person makes them."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from meshagent.demo.caller import Caller
from meshagent.envoy.handle import load_handle, serving
from meshagent.errors import EnvoyFailed

_START_SECONDS = 20.0
_STOP_SECONDS = 15.0
_LOG_LINES = 15
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
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
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

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

    def call(self, pair: str) -> Caller:
        """A connection of the source's app to its local upstream port, kept open between requests."""
        return Caller(self.ports[pair])

    def dial(self, pair: str) -> socket.socket:
        """A TCP connection to the source's local upstream port."""
        return socket.create_connection(("127.0.0.1", self.ports[pair]), timeout=5)

    def last_words(self) -> str:
        """The end of the agent's log, without the calls that it was asked to refuse."""
        with suppress(OSError):
            lines = (self.directory / "agent.log").read_text(errors="replace").splitlines()
            return "\n".join([line for line in lines if '"request_refused"' not in line][-_LOG_LINES:])
        return ""


def finish(process: subprocess.Popen[str]) -> Said:
    """Wait for a command."""
    out, err = process.communicate()
    return Said(process.returncode, out.strip(), err.strip())


def clean_environment() -> dict[str, str]:
    """Ours without what a person set for another mesh."""
    return {name: value for name, value in os.environ.items() if not name.startswith("MESHAGENT_")}


@contextmanager
def staged() -> Iterator[Stage]:
    """A running mesh with three services; everything ends and is removed with the block, also on SIGTERM and SIGHUP.

    Raises EnvoyFailed when the agent does not start. Belongs to the main thread, as signals do.
    """
    calls = [f"{source}>{upstream}" for source, upstreams in UPSTREAMS.items() for upstream in upstreams]
    names = [*(name for _, name in SERVICES), "reporting", *calls, "mtls"]
    with _signals_kept():
        stage = Stage(
            Path(tempfile.mkdtemp(prefix="meshagent-demo-")), dict(zip(names, _free_ports(len(names)), strict=True))
        )
        try:
            _start(stage)
            yield stage
        finally:
            _stop(stage)
            shutil.rmtree(stage.directory, ignore_errors=True)


@contextmanager
def _signals_kept() -> Iterator[None]:
    """SIGTERM and SIGHUP unwind as Ctrl-C does; afterwards everything is as it was."""
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _leave(number: int, _: object) -> NoReturn:
    """End as a shell reports a signal, but with everything taken away."""
    sys.exit(128 + number)


def _start(stage: Stage) -> None:
    """The apps and the agent, which answers when this returns."""
    for kind, name in SERVICES:
        _spawn(stage, name, kind, "--name", name, "--port", str(stage.ports[name]))
    settings = {
        "directory": stage.directory,
        "store": stage.environment["MESHAGENT_STORE"],
        "api": stage.environment["MESHAGENT_API"],
        "inbound_port": stage.ports["mtls"],
    }
    stage.config.write_text(_CONFIG.format(**settings))
    agent = _spawn(stage, "agent", "agent", "--config", str(stage.config))
    until = time.monotonic() + _START_SECONDS
    while not _answers(stage.directory / "run/agent.sock"):
        if agent.poll() is not None or time.monotonic() > until:
            raise EnvoyFailed(
                f"the demo's agent did not start:\n{stage.last_words()}", next_step="run `meshagent agent` to see why"
            )
        time.sleep(0.02)


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


def _spawn(stage: Stage, log_name: str, kind: str, *words: str) -> subprocess.Popen[bytes]:
    """One of our processes, in a session of its own: Ctrl-C is for the story, which then ends them in order."""
    with (stage.directory / f"{log_name}.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "meshagent.demo.apps", kind, "--parent", str(os.getpid()), *words],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=clean_environment(),
            start_new_session=True,
        )
    stage.processes.append(process)
    return process


def _stop(stage: Stage) -> None:
    """The agent first: it drains and ends its Envoy. Whoever is impatient cannot leave half of it behind."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    for process in reversed(stage.processes):
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    # An agent that crashed leaves its Envoy serving: in a mesh that is a promise, here it would be litter.
    envoy = load_handle(stage.directory / "data/envoy.json") or serving(stage.directory / "run/admin.sock")
    if envoy:
        envoy.send(signal.SIGKILL)


def _free_ports(count: int) -> list[int]:
    """Ports below the ephemeral range that nobody listens on. Raises EnvoyFailed when there are too few."""
    found: list[int] = []
    for port in range(21500 + os.getpid() % 500 * 20, 32000):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            found.append(port)
        if len(found) == count:
            return found
    raise EnvoyFailed("there are not enough free ports below 32000", next_step="end what listens there")
