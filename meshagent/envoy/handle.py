"""One Envoy process, a child or not: whether it is ours, when it ends, how it ended."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import json
import os
import signal
import socket
import struct
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from meshagent.envoy.lineage import without_lineage
from meshagent.errors import EnvoyFailed, MeshError
from meshagent.private import read_private, write_private

_BOOT = Path("/proc/sys/kernel/random/boot_id")
_PEER = struct.Struct("3i")  # pid, uid, gid: struct ucred of unix(7)
_PROBE_SECONDS = 1.0
_KILL_AFTER_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Handle:
    """Which process it is and what it runs.

    `started` is the kernel's start time in clock ticks since `boot`, the machine's boot id: with the pid they name one
    process for ever. `digest` is `digest_of` what it was started with.
    """

    pid: int
    started: int
    boot: str
    digest: str
    arguments: tuple[str, ...]

    @classmethod
    def of(cls, pid: int, arguments: Sequence[str], bootstrap: bytes) -> Self:
        """The handle of a process that runs now."""
        return cls(pid, start_time(pid), boot_id(), digest_of(arguments, bootstrap), tuple(arguments))

    def alive(self) -> bool:
        """Whether this very process still runs; a zombie does not."""
        return self._there() and _stat(self.pid)[0] not in "ZX"

    def _there(self) -> bool:
        return self.started != 0 and start_time(self.pid) == self.started and boot_id() == self.boot

    def outdated(self) -> bool:
        """Whether its binary was replaced or removed since it started, as an upgrade does."""
        try:
            return str(Path(f"/proc/{self.pid}/exe").readlink()).endswith(" (deleted)")
        except OSError:  # a binary with file capabilities does not let us look
            return False

    def send(self, number: signal.Signals) -> None:
        """Signal it; nothing happens when it has gone, even if another process has its pid by now."""
        with suppress(ProcessLookupError):
            descriptor = os.pidfd_open(self.pid)
            try:
                if self.alive():
                    signal.pidfd_send_signal(descriptor, number)
            finally:
                os.close(descriptor)

    async def ended(self) -> str:
        """Wait until it ends, by its pidfd, which works for processes that are not our children too.

        Returns how it ended: "exit 1", "SIGKILL", or "unknown" for what another agent had started. A child is reaped.
        Raises EnvoyFailed on a kernel without pidfd_open.
        """
        descriptor = self._open()
        if descriptor is None:
            return self._reap()
        done = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_reader(descriptor, done.set)
        try:
            if self._there():  # a zombie may still have threads that end, and is reaped only after them
                await done.wait()
        finally:
            loop.remove_reader(descriptor)
            os.close(descriptor)
        return self._reap()

    def _open(self) -> int | None:
        try:
            return os.pidfd_open(self.pid)
        except ProcessLookupError:
            return None
        except OSError as error:
            if error.errno != errno.ENOSYS:
                raise
            raise EnvoyFailed("this kernel cannot watch a process", next_step="use Linux 5.3 or later") from None

    def _reap(self) -> str:
        """Collect a child; another agent's child is collected by init and its status stays unknown."""
        try:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
        except ChildProcessError:
            return "unknown"
        if pid == 0:  # a child with that pid runs, so it is not this process
            return "unknown"
        code = os.waitstatus_to_exitcode(status)
        return f"exit {code}" if code >= 0 else signal.Signals(-code).name


async def end(handle: Handle) -> None:
    """SIGTERM, and SIGKILL when that does not end it within 5 s."""
    handle.send(signal.SIGTERM)
    try:
        async with asyncio.timeout(_KILL_AFTER_SECONDS):
            await handle.ended()
    except TimeoutError:
        handle.send(signal.SIGKILL)
        await handle.ended()


def digest_of(arguments: Sequence[str], bootstrap: bytes) -> str:
    """Two processes with the same digest do the same, whichever of them follows the other."""
    words = without_lineage(arguments)
    return hashlib.blake2b(bootstrap + "\0".join(words).encode(), digest_size=16).hexdigest()


def start_time(pid: int) -> int:
    """The start time of a process, zombies too, in clock ticks since boot; 0 when there is none."""
    return _stat(pid)[1]


def started_at(pid: int) -> datetime | None:
    """When a process was started, to the second; None when there is none."""
    ticks = start_time(pid)
    if not ticks:
        return None
    lines = Path("/proc/stat").read_text().splitlines()
    booted = next(int(line.split()[1]) for line in lines if line.startswith("btime "))
    return datetime.fromtimestamp(booted + ticks // os.sysconf("SC_CLK_TCK"), UTC)


def _stat(pid: int) -> tuple[str, int]:
    """The state of a process (proc(5): Z is a zombie) and its start time."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "X", 0
    return words[0], int(words[19])


def boot_id() -> str:
    """The kernel's name for this run of the machine."""
    return _BOOT.read_text().strip()


def save_handle(path: Path, handle: Handle) -> None:
    """Keep it for the next agent. Raises DataDirUnusable and UnsafeFile."""
    write_private(path, json.dumps(asdict(handle)).encode())


def load_handle(path: Path) -> Handle | None:
    """The process that an agent kept, if it still runs."""
    try:
        data = json.loads(read_private(path))
        handle = Handle(
            pid=int(data["pid"]),
            started=int(data["started"]),
            boot=str(data["boot"]),
            digest=str(data["digest"]),
            arguments=tuple(map(str, data["arguments"])),
        )
    except (MeshError, ValueError, KeyError, TypeError):
        return None
    return handle if handle.alive() else None


def serving(socket_path: Path) -> Handle | None:
    """The Envoy that answers on this admin socket, whoever knows of it.

    An agent that dies between starting Envoy and writing its state file leaves one that only its socket tells of. What
    it was started with is read from its command line and from the bootstrap file that is named there.
    """
    pid = _peer(socket_path)
    try:
        line = Path(f"/proc/{pid}/cmdline").read_bytes()
        arguments = [os.fsdecode(word) for word in line.split(b"\0")[:-1]]
        bootstrap = read_private(Path(arguments[arguments.index("-c") + 1]))
    except (OSError, MeshError, ValueError, IndexError):
        arguments, bootstrap = [], b""
    handle = Handle.of(pid, arguments, bootstrap)
    return handle if handle.alive() else None


def _peer(socket_path: Path) -> int:
    """The pid of who listens; 0 when nobody does."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(_PROBE_SECONDS)
        try:
            probe.connect(str(socket_path))
        except OSError:
            return 0
        found = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
    pid: int = _PEER.unpack(found)[0]
    return pid
