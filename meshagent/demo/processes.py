"""What a mesh that is made for a moment needs of the machine: processes that end with us, free ports, signals, an end."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

from meshagent.envoy.handle import load_handle, serving
from meshagent.errors import EnvoyFailed

_STOP_SECONDS = 15.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

Process = subprocess.Popen[bytes]


def clean_environment() -> dict[str, str]:
    """Ours without what a person set for another mesh."""
    return {name: value for name, value in os.environ.items() if not name.startswith("MESHAGENT_")}


@contextmanager
def signals_kept() -> Iterator[None]:
    """SIGTERM and SIGHUP unwind as Ctrl-C does; afterwards everything is as it was. Belongs to the main thread."""
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def spawn(log: Path, kind: str, *words: str) -> Process:
    """One of the processes of `demo.apps`, in a session of its own: Ctrl-C is for us, who then end them in order."""
    with log.open("ab") as written:
        return subprocess.Popen(
            [sys.executable, "-m", "meshagent.demo.apps", kind, "--parent", str(os.getpid()), *words],
            stdin=subprocess.DEVNULL,
            stdout=written,
            stderr=written,
            env=clean_environment(),
            start_new_session=True,
        )


def answers(path: Path) -> bool:
    """Whether somebody listens on a Unix socket."""
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


def last_words(log: Path, lines: int = 15) -> str:
    """The end of an agent's log, without the calls that it was asked to refuse."""
    with suppress(OSError):
        said = log.read_text(errors="replace").splitlines()
        return "\n".join([line for line in said if '"request_refused"' not in line][-lines:])
    return ""


def end(processes: Sequence[Process], agents: Iterable[Path]) -> None:
    """End processes, all told at once and the last one waited for first, and the Envoys of agents in these directories.

    Whoever is impatient cannot leave half of it behind: signals are not listened to until it is done.
    """
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    for process in reversed(processes):
        process.terminate()
    for process in reversed(processes):
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    # An agent that crashed leaves its Envoy serving: in a mesh that is a promise, here it would be litter.
    for directory in agents:
        envoy = load_handle(directory / "data/envoy.json") or serving(directory / "run/admin.sock")
        if envoy:
            envoy.send(signal.SIGKILL)


def free_ports(count: int, apart: int = 1) -> list[int]:
    """Ports below the ephemeral range that nobody listens on, at least so far apart. Raises EnvoyFailed for want of them."""
    found: list[int] = []
    for port in range(21500 + os.getpid() % 400 * 20, 32000):
        if found and port < found[-1] + apart:
            continue
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            found.append(port)
        if len(found) == count:
            return found
    raise EnvoyFailed("there are not enough free ports below 32000", next_step="end what listens there")


def _leave(number: int, _: object) -> NoReturn:
    """End as a shell reports a signal, but with everything taken away."""
    sys.exit(128 + number)
