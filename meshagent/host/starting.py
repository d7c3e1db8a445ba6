"""Starts one of our daemons for good: by its systemd unit where that is installed, else in a session of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from meshagent.errors import DaemonNotStarted
from meshagent.private import append_private, private_dir

SYSTEMD = Path("/run/systemd/system")  # there while systemd runs the machine: sd_booted(3)
_PATIENCE = 30.0
_POLL = 0.05
_LOG_BYTES = 2000
_SYSTEMCTL_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Started:
    """What runs now, in words. `process` is None where systemd has it in hand, or it ran before."""

    words: str
    process: subprocess.Popen[bytes] | None = None


def start_daemon(
    name: str, unit: str, arguments: tuple[str, ...], log: Path, answers: Callable[[], bool], systemd: Path = SYSTEMD
) -> Started:
    """Start `meshagent ARGUMENTS` and return when it answers. Raises DaemonNotStarted with the end of its log.

    One that answers already is left alone.
    """
    if answers():
        return Started(f"{name} runs already")
    if systemd.is_dir() and _succeeds("systemctl", "cat", unit):
        if not _succeeds("systemctl", "enable", "--now", unit):
            raise DaemonNotStarted(f"systemd did not start {unit}", next_step=f"systemctl status {unit}")
        _wait(name, answers, lambda: "", f"journalctl -u {unit}")
        return Started(f"{name} runs as {unit}; stop it: systemctl stop {unit}")
    process = _detached(arguments, log)
    _wait(name, answers, lambda: _end_of(process, log), f"see {log}; it is process {process.pid}")
    return Started(f"{name} runs (pid {process.pid}, log {log}); stop it: kill {process.pid}", process)


def unix_socket_answers(path: Path) -> bool:
    """Whether somebody listens on the socket."""
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


def port_answers(host: str, port: int) -> bool:
    """Whether somebody listens on the TCP port."""
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError:
        return False
    return True


def _detached(arguments: tuple[str, ...], log: Path) -> subprocess.Popen[bytes]:
    """A child in a session of its own; it outlives this command and its terminal."""
    private_dir(log.parent)
    append_private(log, b"")
    with log.open("ab") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "meshagent", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            env={name: value for name, value in os.environ.items() if not name.startswith("MESHAGENT_STORE")},
            start_new_session=True,
        )


def _wait(name: str, answers: Callable[[], bool], ended: Callable[[], str], step: str) -> None:
    until = time.monotonic() + _PATIENCE
    while not answers():
        if words := ended():
            raise DaemonNotStarted(f"{name} did not start:\n{words}", next_step=step)
        if time.monotonic() > until:
            raise DaemonNotStarted(f"{name} does not answer within {_PATIENCE:g} s", next_step=step)
        time.sleep(_POLL)


def _end_of(process: subprocess.Popen[bytes], log: Path) -> str:
    """The end of its log when it has ended, else nothing."""
    if process.poll() is None:
        return ""
    said = log.read_bytes()[-_LOG_BYTES:].decode(errors="replace").strip()
    return said or f"it ended with {process.returncode} and said nothing"


def _succeeds(*words: str) -> bool:
    try:
        return subprocess.run(words, capture_output=True, timeout=_SYSTEMCTL_SECONDS, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False
