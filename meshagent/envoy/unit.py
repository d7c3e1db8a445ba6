"""Envoy in a systemd unit of its own: the agent writes down what to start, the unit starts it, nobody here ends it.

So an agent's restart, crash or upgrade never touches Envoy. Only one that does not answer any more is ended, and its unit
starts the next one.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Never, NoReturn

import structlog

from meshagent.envoy.admin import AdminClient
from meshagent.envoy.bootstrap import bootstrap
from meshagent.envoy.handle import Handle, digest_of, end, load_handle, serving
from meshagent.envoy.handover import follow, obstacle, patience, stand_in
from meshagent.envoy.lineage import lineage_of, with_lineage
from meshagent.envoy.locate import EnvoyVersion, check_version, parse_version
from meshagent.envoy.process import EnvoyProcess
from meshagent.envoy.records import Records, write_changed
from meshagent.envoy.spawn import ENVIRONMENT, STDERR, make_files
from meshagent.errors import EnvoyFailed, NotFound, UsageProblem
from meshagent.private import read_private

_log = structlog.get_logger(__name__)
UNIT = "meshagent-envoy.service"
_LAUNCH = "envoy-launch.json"
_LOOK_SECONDS = 0.1
_APPEND = os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW


class EnvoyUnit(EnvoyProcess):
    """As EnvoyProcess, for an Envoy that systemd starts and ends."""

    _installed = EnvoyVersion(0, 0, 0)
    _standing_in: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Write what the unit is to start; take over the Envoy that runs.

        One that runs another binary or configuration serves on, and a person is told to reload its unit. Raises
        EnvoyMissing, EnvoyTooOld, EnvoyFailed, DataDirUnusable.
        """
        self._prepare()
        self.version = self._installed = await check_version(self._binary)
        handle = self._left_behind()
        write_changed(self._records.config, bootstrap(self._settings))
        write_changed(self._directory / _LAUNCH, json.dumps(self._arguments()).encode())
        make_files(self._directory)
        if handle:
            self._require_ours(handle)
            await self._take_over(handle)

    async def run(self) -> Never:
        """Take over each Envoy that the unit starts, for ever."""
        while True:
            if self._handle is None:
                await self._look()
                continue
            handle = self._handle
            how = await handle.ended()
            self._handle = None
            if self._left_behind():
                self._followed(handle)
                continue
            self.restarts += 1
            _log.warning("envoy_ended", how=how, pid=handle.pid, unit=UNIT)
            self._tell("ended", handle.pid, how)

    async def stop(self, limit: timedelta) -> None:
        """Nothing: it serves on until its own unit is stopped."""

    def _followed(self, handle: Handle) -> None:
        """Its unit was reloaded, and it has ended, as it was told to or not."""
        _log.info("envoy_retired", pid=handle.pid)
        self._records.before.unlink(missing_ok=True)
        if row := lineage_of(handle.arguments):
            self._standing_in = asyncio.create_task(stand_in(row, self._patience + 1))

    async def _look(self) -> None:
        handle = self._left_behind()
        if handle and self._is_ours(handle):
            await self._take_over(handle)
        else:
            await asyncio.sleep(_LOOK_SECONDS)

    async def _take_over(self, handle: Handle) -> None:
        if not await self._taken(handle):
            if handle.alive():  # else its unit starts the next one already
                _log.error("envoy_replaced", pid=handle.pid, reason="it does not answer", unit=UNIT)
                await end(handle)
        elif reason := self._set_otherwise(handle) or self._of_other_version():
            _log.warning("envoy_outdated", pid=handle.pid, reason=reason, next_step=f"systemctl reload {UNIT}")

    def _of_other_version(self) -> str:
        """A package puts a new file in place of the same Envoy too: what counts is the version."""
        return "" if self.version == self._installed else f"it is {self.version}, and {self._installed} is installed"


async def renew_envoy(data_dir: Path, admin_socket: Path, drain: timedelta, took_over: Callable[[int], None]) -> str:
    """Have the Envoy that the agent wrote down take over from the one that runs, if that is another; in words, what was done.

    The one before has as long as `drain` for what is under way. `took_over` hears the pid of what serves then. Raises
    EnvoyFailed when no other can follow without a gap, UsageProblem when no agent has run yet, EnvoyMissing, EnvoyTooOld.
    """
    admin, records, command = AdminClient(admin_socket), Records(data_dir), _command(data_dir)
    running = load_handle(records.running) or serving(admin_socket)
    if running is None:
        raise EnvoyFailed("no Envoy runs", next_step=f"systemctl start {UNIT}")
    binary, config = Path(command[0]), read_private(records.config)
    version = await check_version(binary)
    now = parse_version(str((await admin.server_info()).get("version")))
    if now == version and running.digest == digest_of(command, config):
        return f"Envoy {version}, pid {running.pid}, runs as it should"
    if gap := await obstacle(running, admin, binary):
        raise EnvoyFailed(f"no other Envoy can follow without a gap: {gap}", next_step=f"systemctl restart {UNIT}")
    row = lineage_of(running.arguments)
    words = with_lineage(command, row.following(patience(drain.total_seconds()))) if row else command
    following = await follow(words, config, data_dir, admin)
    records.keep(records.running, following)
    took_over(following.pid)
    return f"Envoy {version}, pid {following.pid}, has taken over from Envoy {now}, pid {running.pid}"


def become_envoy(data_dir: Path) -> NoReturn:
    """Become the Envoy that the agent of this directory wrote down, in this very process.

    Its stderr goes to a private file: a crash dumps requests there. Raises UsageProblem when no agent has run yet,
    EnvoyFailed when the system does not start it, DataDirUnusable, UnsafeFile.
    """
    command = _command(data_dir)
    make_files(data_dir)
    stderr = os.open(data_dir / STDERR, _APPEND)
    os.dup2(stderr, 1)
    os.dup2(stderr, 2)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them, and so would what comes after it
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execve(command[0], command, ENVIRONMENT)  # noqa: S606 - a list that our own agent wrote, no shell
    except OSError as error:
        raise EnvoyFailed(
            f"{command[0]} cannot be started: {os.strerror(error.errno or 0)}", next_step="check envoy.path"
        ) from error


def _command(data_dir: Path) -> list[str]:
    path = data_dir / _LAUNCH
    try:
        command = json.loads(read_private(path))
    except NotFound:
        raise UsageProblem(
            f"no agent has said yet what to start ({path} is not there)", next_step="systemctl start meshagent"
        ) from None
    except ValueError:
        command = None
    if not command or not isinstance(command, list) or not all(isinstance(word, str) for word in command):
        raise UsageProblem(f"{path} holds no command", next_step="systemctl restart meshagent")
    return command
