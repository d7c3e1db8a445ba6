"""Waiting for a server that a test has started."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path


def until_served(ask: Callable[[], object], process: subprocess.Popen, log: Path, patience: float, name: str) -> None:
    """Ask again until there is an answer; fail with the log when the process ends or `patience` seconds are over."""
    deadline = time.monotonic() + patience
    while True:
        try:
            ask()
        except (OSError, ValueError, AssertionError):
            assert process.poll() is None, f"{name} ended: {log.read_text(errors='replace')}"
            assert time.monotonic() < deadline, f"{name} serves nothing: {log.read_text(errors='replace')}"
            time.sleep(0.05)
        else:
            return
