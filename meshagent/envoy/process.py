"""Envoy's supervision. It outlives the agent: the next agent adopts it, and only a clean stop ends it."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, Never

import structlog

from meshagent.envoy.admin import AdminClient
from meshagent.envoy.bootstrap import BootstrapSettings, bootstrap, connections_allowed
from meshagent.envoy.drain import drain
from meshagent.envoy.handle import Handle, digest_of, load_handle, save_handle, serving
from meshagent.envoy.locate import EnvoyVersion, check_version, locate, parse_version
from meshagent.envoy.spawn import LOG, STDERR, arguments, open_files_limit, spawn
from meshagent.envoy.tap import Tap
from meshagent.errors import EnvoyFailed, MeshError
from meshagent.private import read_private, write_private

_log = structlog.get_logger(__name__)
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0
_STEADY_SECONDS = 30.0
_KILL_AFTER_SECONDS = 5.0
_ADOPT_SECONDS = 10.0  # one that was started a moment ago with 10,000 clusters answers after 6 s (measured)
_REPLACE_DRAIN = timedelta(seconds=5)
_LAST_WORDS = 500  # characters
_SILENT = "it does not answer"

Kind = Literal["started", "adopted", "replaced", "ended", "not_started", "stopped"]


@dataclass(frozen=True, slots=True)
class EnvoyEvent:
    """What happened to the process `pid`; for `ended`, `detail` is how, for `replaced` and `not_started` it is why."""

    kind: Kind
    pid: int
    detail: str = ""


def pause_before(restarts_in_row: int) -> float:
    """Seconds to wait before one more restart: none before the first, then 0.1 s doubling up to 5 s."""
    if restarts_in_row == 0:
        return 0.0
    return min(_FIRST_PAUSE * 2.0 ** min(restarts_in_row - 1, 16), _LONGEST_PAUSE)


class EnvoyProcess:
    """Starts, adopts, restarts and drains one Envoy. `data_dir` holds its files, and is this agent's alone.

    `path`: as `locate` takes it. `concurrency`: worker threads. `on_event` hears what is logged too; it must not raise.
    """

    def __init__(
        self,
        data_dir: Path,
        settings: BootstrapSettings,
        *,
        path: str,
        concurrency: int,
        on_event: Callable[[EnvoyEvent], None] = lambda event: None,
    ) -> None:
        allowed = connections_allowed(settings.max_connections, open_files_limit())
        self._directory = data_dir
        self._wanted_connections = settings.max_connections
        self._settings = replace(settings, max_connections=allowed)
        self._path = path
        self._concurrency = concurrency
        self._on_event = on_event
        self._binary = Path()
        self._handle: Handle | None = None
        self._stderr_from = 0
        self._stopping = asyncio.Event()
        self.admin = AdminClient(settings.admin_socket)
        self.tap = Tap(self.admin, settings.tap_socket)
        self.version = EnvoyVersion(0, 0, 0)
        self.adopted = False
        self.restarts = 0

    @property
    def pid(self) -> int:
        """Of the running Envoy; 0 when there is none."""
        return self._handle.pid if self._handle and self._handle.alive() else 0

    @property
    def running_here(self) -> bool:
        """Whether an Envoy of an earlier agent runs on this data directory."""
        handle = self._left_behind()
        return handle is not None and self._is_ours(handle)

    async def start(self) -> None:
        """Adopt the Envoy that an earlier agent left, or start one.

        One that runs another binary or configuration, or does not answer, is drained and replaced. Raises EnvoyMissing,
        EnvoyTooOld, EnvoyFailed, and DataDirUnusable when its files cannot be written; then none is left running.
        """
        self._prepare()
        handle = self._left_behind()
        if handle:
            self._require_ours(handle)
            reason = await self._adopt(handle)
            if not reason:
                return
            await self._replace(handle, reason)
        await self._start_checked()

    async def run(self) -> Never:
        """Start it again whenever it ends, or cannot be started, until `stop`. Raises EnvoyFailed before `start`."""
        in_row = 0
        while not self._stopping.is_set():
            if self._handle is None:
                raise EnvoyFailed("Envoy was not started")
            began = asyncio.get_running_loop().time()
            how = await self._handle.ended()
            if self._stopping.is_set():
                break
            if asyncio.get_running_loop().time() - began > _STEADY_SECONDS:
                in_row = 0
            _log.error("envoy_ended", how=how, in_row=in_row, said=self._last_words(how), **self._whereabouts())
            self._tell("ended", self._handle.pid, how)
            in_row = await self._restart(in_row)
        stopped: asyncio.Future[Never] = asyncio.get_running_loop().create_future()
        await stopped  # until cancelled

    async def stop(self, limit: timedelta) -> None:
        """Let callers finish, at most `limit` (0: not at all), then end it: SIGTERM, and SIGKILL after 5 s."""
        self._stopping.set()
        handle = self._handle
        if not handle or not handle.alive():
            return
        drained = await self._drain(limit)
        await end(handle)
        for path in (self._state, self._settings.admin_socket):
            path.unlink(missing_ok=True)
        _log.info("envoy_stopped", pid=handle.pid, drained=drained)
        self._tell("stopped", handle.pid)

    def _prepare(self) -> None:
        """Find the binary, and say when the system allows fewer connections than wanted."""
        self._binary = locate(self._path)
        if self._settings.max_connections < self._wanted_connections:
            _log.warning(
                "connections_limited",
                wanted=self._wanted_connections,
                allowed=self._settings.max_connections,
                next_step="raise the limit of open files (LimitNOFILE, ulimit -Hn)",
            )

    # --- an Envoy that an earlier agent left

    def _left_behind(self) -> Handle | None:
        return load_handle(self._state) or serving(self._settings.admin_socket)

    def _is_ours(self, handle: Handle) -> bool:
        return str(self._config) in handle.arguments

    def _require_ours(self, handle: Handle) -> None:
        if not self._is_ours(handle):
            raise EnvoyFailed(
                f"another Envoy, pid {handle.pid}, serves {self._settings.admin_socket}",
                next_step="give this agent a runtime_dir of its own",
            )

    async def _adopt(self, handle: Handle) -> str:
        """Take it over; or the reason why not."""
        if reason := self._differs(handle):
            return reason
        return "" if await self._taken(handle) else _SILENT

    def _differs(self, handle: Handle) -> str:
        """How it is not the Envoy that would be started now; "" when it is."""
        return self._set_otherwise(handle) or ("its binary was replaced" if handle.outdated() else "")

    def _set_otherwise(self, handle: Handle) -> str:
        same = handle.digest == digest_of(self._arguments(), bootstrap(self._settings))
        return "" if same else "its configuration or arguments are not those of now"

    async def _taken(self, handle: Handle) -> bool:
        """Take it over when it answers."""
        info = await self._answer(handle)
        version = parse_version(str(info.get("version"))) if info else None
        if version is None:
            return False
        self._stderr_from = _size(self._directory / STDERR)
        self._take(handle)
        self.version, self.adopted = version, True
        _log.info("envoy_adopted", pid=handle.pid, version=str(version))
        self._tell("adopted", handle.pid)
        return True

    async def _answer(self, handle: Handle) -> dict[str, Any]:
        """What it says of itself; nothing when it does not within 10 s. One that was just started is waited for."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_ADOPT_SECONDS):
                while handle.alive():
                    with suppress(EnvoyFailed):
                        return await self.admin.server_info()
                    await asyncio.sleep(0.05)
        return {}

    async def _replace(self, handle: Handle, reason: str) -> None:
        _log.warning("envoy_replaced", pid=handle.pid, reason=reason)
        if reason != _SILENT:
            await self._drain(_REPLACE_DRAIN)
        await end(handle)
        self._tell("replaced", handle.pid, reason)

    # --- an Envoy of our own

    async def _start_checked(self) -> None:
        """The version is asked for while it starts: that takes 50 ms, which are better spent twice at once."""
        checking = asyncio.create_task(check_version(self._binary))
        try:
            self._spawn()
        finally:
            try:
                self.version = await checking
            except BaseException:  # too old, not an Envoy, or cancelled: it must not stay behind
                if self._handle:
                    await end(self._handle)
                raise

    async def _restart(self, in_row: int) -> int:
        """Try until one is started or `stop` was called; returns how many times in a row that makes."""
        while True:
            await asyncio.sleep(pause_before(in_row))
            in_row += 1
            if self._stopping.is_set():
                return in_row
            try:
                self._binary = locate(self._path)
                self._spawn()
            except MeshError as error:
                _log.error("envoy_not_started", problem=str(error), next_step=error.next_step, in_row=in_row)
                self._tell("not_started", 0, str(error))
            else:
                self.restarts += 1
                self.adopted = False
                return in_row

    def _spawn(self) -> None:
        config, command = bootstrap(self._settings), self._arguments()
        write_changed(self._config, config)
        self._stderr_from = _size(self._directory / STDERR)
        pid = spawn(command, self._directory)
        self._take(Handle.of(pid, command, config))
        _log.info("envoy_started", pid=pid, binary=str(self._binary))
        self._tell("started", pid)

    def _take(self, handle: Handle) -> None:
        self._handle = handle
        try:
            save_handle(self._state, handle)
        except MeshError as error:  # it serves all the same, and its admin socket leads the next agent to it
            _log.warning("envoy_state_not_saved", problem=str(error), next_step=error.next_step)

    async def _drain(self, limit: timedelta) -> bool:
        if limit <= timedelta(0):
            return False
        try:
            return await drain(self.admin, limit)
        except EnvoyFailed as error:
            _log.warning("envoy_not_drained", problem=str(error))
            return False

    # --- its files

    @property
    def _state(self) -> Path:
        return self._directory / "envoy.json"

    @property
    def _config(self) -> Path:
        return self._directory / "envoy-bootstrap.json"

    def _arguments(self) -> list[str]:
        return arguments(self._binary, self._config, self._directory / LOG, self._concurrency)

    def _whereabouts(self) -> dict[str, Any]:
        return {"pid": self._handle.pid if self._handle else 0, "log": str(self._directory / LOG)}

    def _last_words(self, how: str) -> str:
        """What this process wrote to stderr, when it ended by itself.

        A crash dumps the request that it was at, with headers that may hold secrets: that stays in the private file.
        """
        if not how.startswith("exit"):
            return ""
        try:
            with (self._directory / STDERR).open("rb") as file:
                file.seek(self._stderr_from if self._stderr_from <= _size(self._directory / STDERR) else 0)
                return file.read(_LAST_WORDS).decode(errors="replace").strip()
        except OSError:
            return ""

    def _tell(self, kind: Kind, pid: int, detail: str = "") -> None:
        self._on_event(EnvoyEvent(kind, pid, detail))


async def end(handle: Handle) -> None:
    """SIGTERM, and SIGKILL when that does not end it within 5 s."""
    handle.send(signal.SIGTERM)
    try:
        async with asyncio.timeout(_KILL_AFTER_SECONDS):
            await handle.ended()
    except TimeoutError:
        handle.send(signal.SIGKILL)
        await handle.ended()


def write_changed(path: Path, data: bytes) -> None:
    """Nothing is written when nothing changed: a restart must work on a full disk too."""
    with suppress(MeshError):
        if read_private(path) == data:
            return
    write_private(path, data)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
