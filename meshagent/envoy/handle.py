"""One Envoy process, a child or not: whether it is ours, when it ends, how it ended."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from dataclasses import asdict, dataclass
from pathlib import Path

from meshagent.errors import MeshError
from meshagent.private import read_private, write_private


@dataclass(frozen=True, slots=True)
class Handle:
    """`started` is the kernel's start time of the process in clock ticks: with the pid it names one process for ever."""

    pid: int
    started: int
    digest: str  # of the binary's path, the bootstrap and the arguments

    def alive(self) -> bool:
        """Whether this very process still runs."""
        return start_time(self.pid) == self.started

    def send(self, number: signal.Signals) -> None:
        """Signal it; nothing happens when it has gone."""
        if self.alive():
            try:
                os.kill(self.pid, number)
            except ProcessLookupError:
                return

    async def ended(self) -> str:
        """Wait until it ends, by its pidfd, which works for processes that are not our children too. Returns how it ended."""
        loop = asyncio.get_running_loop()
        try:
            descriptor = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return self._reap()
        if not self.alive():
            os.close(descriptor)
            return self._reap()
        done = asyncio.Event()
        loop.add_reader(descriptor, done.set)
        try:
            await done.wait()
        finally:
            loop.remove_reader(descriptor)
            os.close(descriptor)
        return self._reap()

    def _reap(self) -> str:
        """Collect a child; another agent's child is collected by init and its status stays unknown."""
        try:
            _, status = os.waitpid(self.pid, os.WNOHANG)
        except ChildProcessError:
            return "unknown"
        if os.WIFSIGNALED(status):
            return signal.Signals(os.WTERMSIG(status)).name
        return f"exit {os.waitstatus_to_exitcode(status)}"


def start_time(pid: int) -> int:
    """The start time of a process in clock ticks since boot; 0 when there is none, or only a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return 0 if fields[0] in "ZX" else int(fields[19])


def save_handle(path: Path, handle: Handle) -> None:
    """Keep it for the next agent."""
    write_private(path, json.dumps(asdict(handle)).encode())


def load_handle(path: Path) -> Handle | None:
    """The process that an agent kept, if it still runs."""
    try:
        data = json.loads(read_private(path))
        handle = Handle(int(data["pid"]), int(data["started"]), str(data["digest"]))
    except (MeshError, ValueError, KeyError, TypeError):
        return None
    return handle if handle.alive() else None
