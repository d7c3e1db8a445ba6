"""One command of a check, bounded in time and output: without a shell, without our environment, with all that it starts."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Sequence
from contextlib import suppress

OUTPUT_BYTES = 4096  # of what it says are kept; the rest is read and dropped, so that it never blocks on us
_ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"}  # nothing of ours: it may hold secrets
_REAP_SECONDS = 1.0  # after SIGKILL; a process in uninterruptible sleep may take longer and is left to the event loop


class _Output:
    """The reading end of a pipe, and the beginning of what came out of it.

    A pipe of our own, since asyncio's belongs to the process: there, `wait` lasts until the last grandchild that holds
    the other end is gone, and one that left the process group would hold up the probe past its timeout.
    """

    def __init__(self) -> None:
        self._reading, self.writing = os.pipe()
        os.set_blocking(self._reading, False)
        self._said = bytearray()
        asyncio.get_running_loop().add_reader(self._reading, self._read)

    def _read(self) -> None:
        try:
            data = os.read(self._reading, 65536)
        except BlockingIOError:
            return
        self._said += data[: OUTPUT_BYTES - len(self._said)]
        if not data:
            asyncio.get_running_loop().remove_reader(self._reading)

    def hand_over(self) -> None:
        """The command holds the writing end now."""
        os.close(self.writing)

    def close(self) -> str:
        """What was said, to the last byte that fits."""
        self._read()
        asyncio.get_running_loop().remove_reader(self._reading)
        os.close(self._reading)
        return self._said.decode(errors="replace").strip()


async def run_command(argv: Sequence[str]) -> tuple[int, str]:
    """(exit code, beginning of stdout and stderr together) of a command. Its process group ends with it or with us.

    A negative code is the signal that ended it. Cancelled, it kills the group and goes on being cancelled. Raises
    OSError when the command cannot be started, ValueError for an argument that no command can be given.
    """
    output = _Output()
    try:
        try:
            process = await asyncio.create_subprocess_exec(
                *argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output.writing,
                stderr=asyncio.subprocess.STDOUT,
                env=_ENVIRONMENT,
                start_new_session=True,
            )
        finally:
            output.hand_over()
        code = await _ended(process)
    finally:
        said = output.close()
    return code, said


async def _ended(process: asyncio.subprocess.Process) -> int:
    """Wait for the command, and leave nothing of its group behind."""
    try:
        return await process.wait()
    finally:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        with suppress(TimeoutError):
            async with asyncio.timeout(_REAP_SECONDS):
                await process.wait()
