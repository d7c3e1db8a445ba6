"""Starts one Envoy process that outlives us: its own session, files instead of pipes, nothing inherited."""

from __future__ import annotations

import os
import resource
import signal
import sys
from contextlib import suppress
from pathlib import Path

from meshagent.envoy import outlive
from meshagent.envoy.lineage import Lineage, hot_restart, lineage_of
from meshagent.errors import DataDirUnusable, EnvoyFailed

LOG, ACCESS_LOG, STDERR = "envoy.log", "access.log", "envoy.stderr"
ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"}  # nothing of ours: it may hold secrets
_LOG_LINE = '{"time":"%Y-%m-%dT%T.%e%z","level":"%l","logger":"%n","message":"%j"}'
_APPEND = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
_STDERR_LIMIT = 1 << 20  # bytes; it gets a few lines each time that Envoy fails
_OUTLIVING = (sys.executable, "-I", "-S", outlive.__file__)
_FIXED = (
    # A drain of a second is what cuts the connections of a source that was denied (measured).
    *("--drain-time-s", "1", "--drain-strategy", "immediate"),
    # Envoy's default keeps a line back for up to 10 s; half a second costs 0.25 ms of CPU a second (measured).
    *("--file-flush-interval-msec", "500"),
    # As an option and not in the bootstrap: so the lines about a bad bootstrap have this form too.
    *("-l", "warning", "--log-format", _LOG_LINE),
)


def arguments(binary: Path, bootstrap: Path, log: Path, concurrency: int, lineage: Lineage | None = None) -> list[str]:
    """Envoy's command line. `concurrency`: worker threads. `lineage`: None where no other is to follow it."""
    paths = [str(binary), "-c", str(bootstrap), "--log-path", str(log), "--concurrency", str(concurrency)]
    return [*paths, *hot_restart(lineage), *_FIXED]


def spawn(command: list[str], directory: Path) -> int:
    """Start it, with stdout and stderr appended to a file in `directory`. Returns the pid.

    The log files are made here, so that their mode is ours. Raises EnvoyFailed when the system refuses to start it, and
    DataDirUnusable when the files cannot be made.
    """
    make_files(directory)
    words = [*_OUTLIVING, *command] if lineage_of(command) else command
    stderr = str(directory / STDERR)
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, stderr, _APPEND, 0o600),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    # posix_spawn: gRPC's threads forbid fork. Its own session, so that what ends the agent does not end it.
    try:
        pid = os.posix_spawn(
            words[0],
            words,
            ENVIRONMENT,
            file_actions=actions,
            setsid=True,
            setsigmask=(),
            setsigdef=(signal.SIGPIPE, signal.SIGXFSZ),  # Python ignores them, and a child inherits that
        )
    except OSError as error:
        raise EnvoyFailed(
            f"{command[0]} cannot be started: {os.strerror(error.errno or 0)}", next_step="check --envoy-path"
        ) from error
    _limit(pid)
    return pid


def make_files(directory: Path) -> None:
    """The files that Envoy writes, mode 0600; an overgrown stderr is put aside. Raises DataDirUnusable."""
    stderr = directory / STDERR
    try:
        if stderr.exists() and stderr.stat().st_size > _STDERR_LIMIT:
            stderr.replace(directory / f"{STDERR}.1")
        for name in (LOG, ACCESS_LOG, STDERR):
            make_file(directory / name)
    except OSError as error:
        raise DataDirUnusable(
            f"{error.filename}: {os.strerror(error.errno or 0)}", next_step=f"check {directory} and what is in it"
        ) from error


def make_file(path: Path) -> None:
    """An empty file of mode 0600, unless there is one. Raises OSError."""
    descriptor = os.open(path, _APPEND, 0o600)
    try:
        os.fchmod(descriptor, 0o600)  # one that Envoy made itself has 0644
    finally:
        os.close(descriptor)


def open_files_limit() -> int | None:
    """How many files a process of ours may have open; None: as many as it likes."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return None if hard == resource.RLIM_INFINITY else hard


def _limit(pid: int) -> None:
    """No core dumps, which would hold keys, and all the files that the system allows (Envoy 1.40 asks for them itself)."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with suppress(PermissionError, ProcessLookupError):  # a binary with file capabilities is not ours to limit
        resource.prlimit(pid, resource.RLIMIT_CORE, (0, 0))
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (hard, hard))
