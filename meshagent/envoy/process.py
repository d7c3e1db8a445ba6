"""Envoy's supervision. It outlives the agent: the next agent adopts it, and only a clean stop ends it.

One of another binary or configuration is adopted too, and serves until `renew`: then another takes over its sockets.
"""

from __future__ import annotations

import asyncio
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
from meshagent.envoy.handle import Handle, digest_of, end, load_handle, serving
from meshagent.envoy.handover import follow, forget, founding, obstacle, patience, stand_in
from meshagent.envoy.lineage import Lineage, lineage_of
from meshagent.envoy.locate import EnvoyVersion, check_version, locate, parse_version
from meshagent.envoy.records import Records, write_changed
from meshagent.envoy.spawn import LOG, arguments, open_files_limit, spawn
from meshagent.envoy.tap import Tap
from meshagent.errors import EnvoyFailed, MeshError

_log = structlog.get_logger(__name__)
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0
_STEADY_SECONDS = 30.0
_RETIRE_SECONDS = 10.0  # more than the one after it should take to end it
_PREMATURE_SECONDS = 1.5
_ADOPT_SECONDS = 10.0  # one that was started a moment ago with 10,000 clusters answers after 6 s (measured)
_REPLACE_DRAIN = timedelta(seconds=5)
_SILENT = "it does not answer"

Kind = Literal["started", "adopted", "replaced", "renewed", "ended", "not_started", "stopped"]


@dataclass(frozen=True, slots=True)
class EnvoyEvent:
    """What happened to the process `pid`. `detail`: for `ended` how, for `replaced`, `renewed` and `not_started` why."""

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

    `path`: as `locate` takes it. `concurrency`: worker threads. `drain`: how long an Envoy that another one follows has
    for what is under way. `on_event` hears what is logged too; it must not raise.
    """

    def __init__(
        self,
        data_dir: Path,
        settings: BootstrapSettings,
        *,
        path: str,
        concurrency: int,
        drain: timedelta = timedelta(seconds=10),
        on_event: Callable[[EnvoyEvent], None] = lambda event: None,
    ) -> None:
        allowed = connections_allowed(settings.max_connections, open_files_limit())
        self._directory = data_dir
        self._records = Records(data_dir)
        self._wanted_connections = settings.max_connections
        self._settings = replace(settings, max_connections=allowed)
        self._path = path
        self._concurrency = concurrency
        self._on_event = on_event
        self._binary = Path()
        self._patience = patience(drain.total_seconds())
        self._row: Lineage | None = None
        self._due = asyncio.Event()
        self._changing = asyncio.Lock()
        self._before: Handle | None = None  # that ends by and by
        self._retiring: asyncio.Task[None] | None = None
        self._handle: Handle | None = None
        self._stopping = asyncio.Event()
        self.admin = AdminClient(settings.admin_socket)
        self.tap = Tap(self.admin, settings.tap_socket)
        self.version = EnvoyVersion(0, 0, 0)
        self.adopted = False
        self.restarts = 0
        self.outdated = ""  # how the one that runs is not the one that would be started now

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

        One that runs another binary or configuration is `outdated` and serves until `renew`; one that does not answer is
        replaced. Raises EnvoyMissing, EnvoyTooOld, EnvoyFailed, and DataDirUnusable when its files cannot be written;
        then none is left running.
        """
        self._prepare()
        handle = self._left_behind()
        if handle:
            self._require_ours(handle)
            if await self._taken(handle):
                self.outdated = self._differs(handle)
                self._retire(load_handle(self._records.before))
                return
            await self._replace(handle, _SILENT)
        await self._end_before()
        await self._start_checked()

    def renew(self) -> None:
        """Have another Envoy take over from one that is outdated; `run` does it."""
        if self.outdated:
            self._due.set()

    async def run(self) -> Never:
        """Start it again whenever it ends, or cannot be started, until `stop`. Raises EnvoyFailed before `start`."""
        in_row = 0
        while not self._stopping.is_set():
            if self._handle is None:
                raise EnvoyFailed("Envoy was not started")
            began = asyncio.get_running_loop().time()
            how = await self._ended_or_due(self._handle)
            if self._stopping.is_set():
                break
            if not how:
                await self._renew(self._handle)
                continue
            if asyncio.get_running_loop().time() - began > _STEADY_SECONDS:
                in_row = 0
            _log.error("envoy_ended", how=how, in_row=in_row, said=self._records.last_words(how), **self._whereabouts())
            self._tell("ended", self._handle.pid, how)
            await self._end_before()
            in_row = await self._restart(in_row)
        stopped: asyncio.Future[Never] = asyncio.get_running_loop().create_future()
        await stopped  # until cancelled

    async def stop(self, limit: timedelta) -> None:
        """Let callers finish, at most `limit` (0: not at all), then end it: SIGTERM, and SIGKILL after 5 s."""
        self._stopping.set()
        async with self._changing:
            handle = self._handle
            if not handle or not handle.alive():
                await self._end_before()
                return
            drained = await self._drain(limit)
            await end(handle)  # first: it speaks to the one before, and waits for it in vain where that is dead
            await self._end_before()
        for path in (self._records.running, self._settings.admin_socket):
            path.unlink(missing_ok=True)
        forget(lineage_of(handle.arguments))
        _log.info("envoy_stopped", pid=handle.pid, drained=drained)
        self._tell("stopped", handle.pid)

    def _prepare(self) -> None:
        """Find the binary, and say when the system allows fewer connections than wanted."""
        self._binary = locate(self._path)
        self._row = founding(self._directory, self._settings.admin_socket.with_name("envoy"), self._binary)
        if self._settings.max_connections < self._wanted_connections:
            _log.warning(
                "connections_limited",
                wanted=self._wanted_connections,
                allowed=self._settings.max_connections,
                next_step="raise the limit of open files (LimitNOFILE, ulimit -Hn)",
            )

    # --- an Envoy that an earlier agent left

    def _left_behind(self) -> Handle | None:
        """What answers counts: an agent that ended while one Envoy followed another may have kept the first."""
        kept, found = load_handle(self._records.running), serving(self._settings.admin_socket)
        if kept is None or (found and found.pid != kept.pid and self._is_ours(found)):
            return found
        return kept

    def _is_ours(self, handle: Handle) -> bool:
        return str(self._records.config) in handle.arguments

    def _require_ours(self, handle: Handle) -> None:
        if not self._is_ours(handle):
            raise EnvoyFailed(
                f"another Envoy, pid {handle.pid}, serves {self._settings.admin_socket}",
                next_step="give this agent a runtime_dir of its own",
            )

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
        self._records.begin()
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

    # --- another Envoy in its place

    async def _ended_or_due(self, handle: Handle) -> str:
        """How it ended; "" when another is to take over."""
        ended, due = asyncio.create_task(handle.ended()), asyncio.create_task(self._due.wait())
        try:
            await asyncio.wait({ended, due}, return_when=asyncio.FIRST_COMPLETED)
            return ended.result() if ended.done() else ""
        finally:
            ended.cancel()
            due.cancel()

    async def _renew(self, handle: Handle) -> None:
        """Another takes over from this one: beside it, with its sockets, or after a drain where that cannot be."""
        self._due.clear()
        if self._retiring:  # Envoy ends the one before the one before at once
            await self._retiring
        async with self._changing:
            if self._stopping.is_set():
                return
            try:
                version = await check_version(self._binary)
                gap = await obstacle(handle, self.admin, self._binary)
                if not gap:
                    await self._follow(handle)
            except MeshError as error:
                _log.error("envoy_not_renewed", pid=handle.pid, problem=str(error), next_step=error.next_step)
                if not handle.alive() or await self.admin.ready():
                    return
                gap, version = str(error), self.version
            if gap:
                _log.warning("envoy_replaced", pid=handle.pid, reason=self.outdated, gap=gap)
                await self._replace(handle, self.outdated)
                await self._restart(0)
            self.version, self.adopted = version, False
            self._tell("renewed", self.pid, self.outdated)
            self.outdated = ""

    async def _follow(self, handle: Handle) -> None:
        began = asyncio.get_running_loop().time()
        row = lineage_of(handle.arguments)
        config, command = bootstrap(self._settings), self._arguments(row.following(self._patience) if row else None)
        write_changed(self._records.config, config)
        self._records.begin()

        def started(following: Handle) -> None:
            self._records.keep(self._records.before, handle)
            self._records.keep(self._records.running, following)

        try:
            following = await follow(
                command, config, self._directory, self.admin, started=started, given_up=self._stopping.is_set
            )
        except EnvoyFailed:
            self._records.keep(self._records.running, handle)
            self._records.before.unlink(missing_ok=True)
            raise
        self._handle = following
        self._retire(handle)
        seconds = round(asyncio.get_running_loop().time() - began, 2)
        _log.info("envoy_renewed", pid=following.pid, before=handle.pid, reason=self.outdated, seconds=seconds)

    def _retire(self, handle: Handle | None) -> None:
        self._before = handle
        if handle:
            self._retiring = asyncio.create_task(self._retired(handle))

    async def _retired(self, handle: Handle) -> None:
        """Wait for the one before to end, which the one after it sees to."""
        clock = asyncio.get_running_loop().time
        began = clock()
        try:
            async with asyncio.timeout(self._patience + _RETIRE_SECONDS):
                await handle.ended()
        except TimeoutError:
            await end(handle)
        self._records.before.unlink(missing_ok=True)
        _log.info("envoy_retired", pid=handle.pid)
        row, left = lineage_of(handle.arguments), self._patience + 1 - (clock() - began)
        if row and left > _PREMATURE_SECONDS:
            _log.warning("envoy_ended", pid=handle.pid, how="before its time", in_row=0, said="")
            await stand_in(row, left)

    async def _end_before(self) -> None:
        """Nobody sees to its end any more when the one after it has ended."""
        if self._retiring:
            self._retiring.cancel()
        if before := self._before or load_handle(self._records.before):
            await end(before)
        self._before = self._retiring = None
        self._records.before.unlink(missing_ok=True)

    async def _replace(self, handle: Handle, reason: str) -> None:
        if reason == _SILENT:
            _log.warning("envoy_replaced", pid=handle.pid, reason=reason)
        else:
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
        write_changed(self._records.config, config)
        self._records.begin()
        pid = spawn(command, self._directory)
        self._take(Handle.of(pid, command, config))
        _log.info("envoy_started", pid=pid, binary=str(self._binary))
        self._tell("started", pid)

    def _take(self, handle: Handle) -> None:
        self._handle = handle
        self._records.keep(self._records.running, handle)

    async def _drain(self, limit: timedelta) -> bool:
        if limit <= timedelta(0):
            return False
        try:
            return await drain(self.admin, limit)
        except EnvoyFailed as error:
            _log.warning("envoy_not_drained", problem=str(error))
            return False

    def _arguments(self, row: Lineage | None = None) -> list[str]:
        return arguments(self._binary, self._records.config, self._directory / LOG, self._concurrency, row or self._row)

    def _whereabouts(self) -> dict[str, Any]:
        return {"pid": self._handle.pid if self._handle else 0, "log": str(self._directory / LOG)}

    def _tell(self, kind: Kind, pid: int, detail: str = "") -> None:
        self._on_event(EnvoyEvent(kind, pid, detail))
