"""Envoy's supervision. It outlives the agent: the next agent adopts it, and only a clean stop ends it."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Never

import structlog

from meshagent.envoy.admin import AdminClient
from meshagent.envoy.bootstrap import BootstrapSettings, bootstrap
from meshagent.envoy.handle import Handle, load_handle, save_handle, start_time
from meshagent.envoy.locate import EnvoyVersion, check_version, locate
from meshagent.errors import EnvoyFailed
from meshagent.private import write_private

_log = structlog.get_logger(__name__)
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0
_STEADY_SECONDS = 30.0
_KILL_AFTER_SECONDS = 5.0
_ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"}  # nothing of ours: it may hold secrets


def arguments(binary: Path, config: Path, log: Path, concurrency: int) -> list[str]:
    """Envoy's command line. A drain of a second is what cuts the connections of a source that was denied (measured)."""
    fixed = ["--disable-hot-restart", "--drain-time-s", "1", "--drain-strategy", "immediate", "-l", "warning"]
    return [str(binary), "-c", str(config), "--log-path", str(log), "--concurrency", str(concurrency), *fixed]


class EnvoyProcess:
    """Starts, adopts, restarts and drains one Envoy. `data_dir` holds its files, and is this agent's alone."""

    def __init__(self, data_dir: Path, settings: BootstrapSettings, *, path: str, concurrency: int) -> None:
        self._directory = data_dir
        self._settings = settings
        self._path = path
        self._concurrency = concurrency
        self._binary = Path()
        self._handle: Handle | None = None
        self._stopping = False
        self.admin = AdminClient(settings.admin_socket)
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
        return load_handle(self._state) is not None

    async def start(self) -> None:
        """Adopt the Envoy that an earlier agent left, or start one. Raises EnvoyMissing, EnvoyTooOld, EnvoyFailed."""
        self._binary = locate(self._path)
        handle = load_handle(self._state)
        if handle and handle.digest == self._digest():
            self._handle, self.adopted = handle, True
            self.version = await check_version(self._binary)
            _log.info("envoy_adopted", pid=handle.pid, version=str(self.version))
            return
        checking = asyncio.create_task(check_version(self._binary))
        if handle:
            _log.warning("envoy_replaced", pid=handle.pid, reason="it runs another binary or configuration")
            await self._end(handle)
        try:
            self._spawn()
        finally:
            self.version = await checking

    async def run(self) -> Never:
        """Start it again whenever it ends: at once the first time, then with growing pauses until it stays up."""
        pause = 0.0
        while True:
            handle = self._handle
            if handle is None:
                raise EnvoyFailed("Envoy was not started")
            began = asyncio.get_running_loop().time()
            how = await handle.ended()
            if self._stopping:
                await asyncio.Event().wait()
            steady = asyncio.get_running_loop().time() - began > _STEADY_SECONDS
            pause = 0.0 if steady or self.restarts == 0 else min(max(pause * 2, _FIRST_PAUSE), _LONGEST_PAUSE)
            _log.error("envoy_ended", pid=handle.pid, how=how, pause_s=pause, stderr=self._last_words())
            await asyncio.sleep(pause)
            self.restarts += 1
            self.adopted = False
            self._spawn()

    async def stop(self, drain: timedelta) -> None:
        """Let callers finish, at most `drain`, then end it."""
        self._stopping = True
        if not self._handle or not self._handle.alive():
            return
        with suppress(EnvoyFailed, TimeoutError):
            async with asyncio.timeout(drain.total_seconds()):
                await self.admin.post("/healthcheck/fail")
                await self.admin.post("/drain_listeners?graceful&skip_exit")
                while await self._active():
                    await asyncio.sleep(0.05)
        await self._end(self._handle)
        self._state.unlink(missing_ok=True)
        _log.info("envoy_stopped", pid=self._handle.pid)

    async def _active(self) -> int:
        """Requests and TCP connections of the mesh that are under way."""
        found = await self.admin.stats(r"^(http|tcp)\.in\..*downstream_(rq|cx)_active$")
        return sum(value for name, value in found.items() if name.startswith("tcp.") or name.endswith("rq_active"))

    async def _end(self, handle: Handle) -> None:
        handle.send(signal.SIGTERM)
        try:
            async with asyncio.timeout(_KILL_AFTER_SECONDS):
                await handle.ended()
        except TimeoutError:
            handle.send(signal.SIGKILL)
            await handle.ended()

    def _spawn(self) -> None:
        config = self._directory / "envoy-bootstrap.json"
        write_private(config, bootstrap(self._settings))
        for name in ("envoy.log", "access.log", "envoy.stderr"):  # made by us, so that their mode is ours
            os.close(os.open(self._directory / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600))
        stderr = str(self._directory / "envoy.stderr")
        flags = os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW
        actions = [
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, stderr, flags, 0),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ]
        # posix_spawn: gRPC's threads forbid fork. Its own session, so that what ends the agent does not end it.
        try:
            pid = os.posix_spawn(
                self._arguments()[0], self._arguments(), _ENVIRONMENT, file_actions=actions, setsid=True
            )
        except OSError as error:
            raise EnvoyFailed(
                f"{self._binary} cannot be started: {error.strerror}", next_step="check --envoy-path"
            ) from None
        self._handle = Handle(pid, start_time(pid), self._digest())
        save_handle(self._state, self._handle)
        _log.info("envoy_started", pid=pid, binary=str(self._binary))

    @property
    def _state(self) -> Path:
        return self._directory / "envoy.json"

    def _arguments(self) -> list[str]:
        return arguments(
            self._binary, self._directory / "envoy-bootstrap.json", self._directory / "envoy.log", self._concurrency
        )

    def _digest(self) -> str:
        whole = bootstrap(self._settings) + "\0".join(self._arguments()).encode()
        return hashlib.blake2b(whole, digest_size=16).hexdigest()

    def _last_words(self) -> str:
        try:
            return (self._directory / "envoy.stderr").read_bytes()[-2000:].decode(errors="replace").strip()
        except OSError:
            return ""
