"""Keeps the last-known-good World on disk, shortly after each change."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Never

import structlog

from meshagent.agent.lastgood import Cuts, UnusableSnapshot, load_snapshot, save_snapshot
from meshagent.errors import MeshError
from meshagent.model.view import ProxyView
from meshagent.model.world import World

_log = structlog.get_logger(__name__)
_GATHER_SECONDS = 0.05  # a burst of changes is written once


def last_good(path: Path) -> tuple[World | None, Cuts]:
    """What was kept, with its cuts; nothing where that cannot be used, which is logged."""
    try:
        return load_snapshot(path) or (None, {})
    except UnusableSnapshot as error:
        _log.error("snapshot_ignored", path=str(path), problem=str(error))
        return None, {}


class Snapshots:
    """Writes the newest of what it is given. A disk that is full or read-only is reported, and nothing else happens."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._newest: tuple[World, ProxyView] | None = None
        self._written: tuple[World, ProxyView] | None = None
        self._wake = asyncio.Event()
        self.problem = ""

    def keep(self, world: World, view: ProxyView) -> None:
        """Take in what is served now."""
        self._newest = (world, view)
        self._wake.set()

    async def run(self) -> Never:
        """Write, for ever."""
        while True:
            await self._wake.wait()
            await asyncio.sleep(_GATHER_SECONDS)
            self._wake.clear()
            await self.flush()

    async def flush(self) -> None:
        """Write now what is not yet written."""
        newest = self._newest
        if newest is None or newest == self._written:
            return
        try:
            await asyncio.to_thread(save_snapshot, self._path, *newest)
        except MeshError as error:
            if self.problem != str(error):
                _log.error("snapshot_not_written", problem=str(error))
            self.problem = str(error)
            return
        self.problem = ""
        self._written = newest
