"""Programs of others, run with a deadline, a bound on what they may say, and nothing that they leave behind.

Attack test 45: a plugin that hangs, forks, floods, or that somebody else may write, must neither hold up the agent nor
run as it.
"""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import stat
import subprocess
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from meshagent.errors import UnsafeFile

MAX_OUTPUT_BYTES = 64 * 1024
_CHUNK = 64 * 1024
_LAST_WORDS_SECONDS = 0.5  # for what is in the pipes when the program has ended
_REAPED_SECONDS = 1.0  # it was killed: this waits only for the kernel
_MOST_LINKS = 40  # as the kernel
_ROOT = 0


@dataclass(frozen=True, slots=True)
class Ended:
    """How a program ended. `error_bytes` says how much was on standard error; the text itself is never kept."""

    status: int
    output: bytes
    error_bytes: int
    expired: bool = False
    flooded: bool = False


async def run_command(command: Sequence[str], given: bytes, environment: Mapping[str, str], deadline: float) -> Ended:
    """Runs `command` (an absolute path first) with `given` on standard input.

    After `deadline` seconds, after 64 KiB of output, or when this call is cancelled, it is killed, and with it all that
    it started in its process group. What moved to a group of its own lives on but holds up nobody. Raises UnsafeFile
    when others may change the program, OSError when it cannot be started.
    """
    refuse_unsafe_command(command)
    over = asyncio.Event()
    process = _start(command, given, environment)
    output, errors = _Pipe(process.stdout, MAX_OUTPUT_BYTES, over), _Pipe(process.stderr, 0, over)
    expired = False
    try:
        async with asyncio.timeout(deadline), _end_of(process, over):
            await over.wait()
    except TimeoutError:
        expired = True
    finally:
        _kill_group(process)
        with suppress(TimeoutError):
            async with asyncio.timeout(_LAST_WORDS_SECONDS):
                await asyncio.gather(output.ended.wait(), errors.ended.wait())
        output.close()
        errors.close()
        with suppress(subprocess.TimeoutExpired):
            process.wait(_REAPED_SECONDS)
    return Ended(process.returncode, bytes(output.kept), errors.size, expired, flooded=output.flooded)


def refuse_unsafe_command(command: Sequence[str]) -> None:
    """Raises UnsafeFile when anybody but root and us may change what would run.

    Looked at are the program and every argument that is the absolute path of something (a script after its
    interpreter), with every folder and link on the way to them.
    """
    if not Path(command[0]).is_absolute():
        raise UnsafeFile(f"{command[0]} is not an absolute path", next_step="write where the program is")
    for place, argument in enumerate(command):
        if place == 0 or argument.startswith("/"):
            _refuse_unsafe_path(Path(argument), required=place == 0)


class _Pipe:
    """Takes what a program writes, keeps the first bytes of it, and counts the rest."""

    def __init__(self, pipe: IO[bytes] | None, keep: int, over: asyncio.Event) -> None:
        self._pipe, self._keep, self._over = cast(IO[bytes], pipe), keep, over
        self._loop = asyncio.get_running_loop()
        self.kept = bytearray()
        self.size = 0
        self.ended = asyncio.Event()
        os.set_blocking(self._pipe.fileno(), False)
        self._loop.add_reader(self._pipe.fileno(), self._take)

    @property
    def flooded(self) -> bool:
        """Whether there was more to keep than may be kept."""
        return bool(self._keep) and self.size > self._keep

    def _take(self) -> None:
        try:
            chunk = os.read(self._pipe.fileno(), _CHUNK)
        except BlockingIOError:
            return
        self.size += len(chunk)
        self.kept += chunk[: self._keep - len(self.kept)] if len(self.kept) < self._keep else b""
        if self.flooded:
            self._over.set()
        if not chunk or self.flooded:
            self._loop.remove_reader(self._pipe.fileno())
            self.ended.set()

    def close(self) -> None:
        """Read no more."""
        self._loop.remove_reader(self._pipe.fileno())
        self._pipe.close()


@contextmanager
def _pidfd(process: subprocess.Popen[bytes]) -> Iterator[int]:
    descriptor = os.pidfd_open(process.pid)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@asynccontextmanager
async def _end_of(process: subprocess.Popen[bytes], over: asyncio.Event) -> AsyncIterator[None]:
    """Sets `over` when the process ends, whoever else still holds its pipes open."""
    loop = asyncio.get_running_loop()
    with _pidfd(process) as descriptor:
        loop.add_reader(descriptor, over.set)
        try:
            yield
        finally:
            loop.remove_reader(descriptor)


def _start(command: Sequence[str], given: bytes, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """In a session of its own. Standard input is a file in memory: it never blocks, read or not."""
    descriptor = os.memfd_create("stdin")
    with os.fdopen(descriptor, "w+b") as standard_input:
        standard_input.write(given)
        standard_input.seek(0)
        return subprocess.Popen(
            command,
            stdin=standard_input,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=dict(environment),
            cwd="/",
            start_new_session=True,
        )


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """Its leader is not reaped before, so the number is still the group's."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _refuse_unsafe_path(path: Path, *, required: bool) -> None:
    try:
        for place, found in _on_the_way(path):
            _refuse_unsafe(place, found)
    except FileNotFoundError:
        if required:
            raise UnsafeFile(f"there is no program {path}", next_step="install it, or correct the path") from None
    except OSError as error:
        raise UnsafeFile(f"{path}: {error.strerror}", next_step="check the folders on the way to it") from None


def _on_the_way(path: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Every folder, link and file that the kernel looks at to find `path`."""
    here, rest, links = Path("/"), list(path.parts[1:]), 0
    yield here, here.lstat()
    while rest:
        name = rest.pop(0)
        if name == "..":
            here = here.parent
            continue
        found = (here / name).lstat()
        yield here / name, found
        if not stat.S_ISLNK(found.st_mode):
            here /= name
            continue
        links += 1
        if links > _MOST_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        target = (here / name).readlink()
        here = Path("/") if target.is_absolute() else here
        rest = [part for part in target.parts if part != "/"] + rest


def _refuse_unsafe(place: Path, found: os.stat_result) -> None:
    if found.st_uid not in (os.geteuid(), _ROOT):
        raise UnsafeFile(f"{place} is owned by uid {found.st_uid}", next_step=f"check who made it; chown root {place}")
    if stat.S_ISLNK(found.st_mode):
        return
    others = stat.S_IWOTH if found.st_gid == _ROOT else stat.S_IWOTH | stat.S_IWGRP
    sticky = stat.S_ISDIR(found.st_mode) and found.st_mode & stat.S_ISVTX
    if found.st_mode & others and not sticky and not stat.S_ISCHR(found.st_mode):
        raise UnsafeFile(
            f"{place} can be written by other users (mode {stat.S_IMODE(found.st_mode):04o})",
            next_step=f"chmod go-w {place}",
        )
