"""Follows another mesh's intentions for this host's services, and keeps them: after a restart they hold at once."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Never, Protocol

import structlog

from meshagent.errors import MeshError, NotFound, StoreDenied, StoreUnavailable
from meshagent.model.names import check_service_name
from meshagent.model.veto import Veto, Vetoes
from meshagent.private import read_private, write_private

_log = structlog.get_logger(__name__)
_PAUSE = (1.0, 5.0)


class Intentions(Protocol):
    """Where the other mesh says who may call."""

    def follow(self, service: str) -> AsyncIterator[Veto]:
        """Now and after each change, for ever. Raises StoreDenied, StoreUnavailable."""

    async def close(self) -> None:
        """Let go of connections."""


class ForeignIntentions:
    """`now` is what is known; `changed` is called after every change of it.

    While the other mesh cannot be asked, its last word holds. Of a service that it has never said a word about, all calls
    are refused.
    """

    def __init__(self, source: Intentions, path: Path, changed: Callable[[], None]) -> None:
        self._source = source
        self._path = path
        self._changed = changed
        self._tasks: dict[str, asyncio.Task[Never]] = {}
        self._wanted: frozenset[str] = frozenset()
        self._moved = asyncio.Event()
        self.problems: dict[str, str] = {}
        self.now = Vetoes(required=True, known=_kept(path))

    def want(self, services: frozenset[str]) -> None:
        """Say for which services to follow them."""
        if services != self._wanted:
            self._wanted = services
            self._moved.set()

    async def run(self) -> Never:
        """Follow, for ever."""
        async with asyncio.TaskGroup() as group:
            while True:
                await self._moved.wait()
                self._moved.clear()
                for gone in self._tasks.keys() - self._wanted:
                    self._tasks.pop(gone).cancel()
                    self.problems.pop(gone, None)
                for service in sorted(self._wanted - self._tasks.keys()):
                    self._tasks[service] = group.create_task(self._follow(service))
        raise AssertionError("follows for ever")

    async def close(self) -> None:
        """Let go of connections."""
        await self._source.close()

    async def _follow(self, service: str) -> Never:
        while True:
            try:
                async for veto in self._source.follow(service):
                    self._take(service, veto)
            except (StoreDenied, StoreUnavailable) as error:
                if self.problems.get(service) != str(error):
                    _log.error("consul_intentions_lost", service=service, problem=str(error))
                self.problems[service] = str(error)
            await asyncio.sleep(random.uniform(*_PAUSE))  # noqa: S311 - jitter

    def _take(self, service: str, veto: Veto) -> None:
        self.problems.pop(service, None)
        if self.now.known.get(service) == veto:
            return
        self.now = Vetoes(required=True, known={**self.now.known, service: veto})
        _log.info("consul_intentions_taken", service=service, named=len(veto.named), others=veto.others)
        self._changed()
        rows = {name: {"named": dict(each.named), "others": each.others} for name, each in self.now.known.items()}
        try:
            write_private(self._path, json.dumps({"v": 1, "services": rows}, sort_keys=True).encode())
        except MeshError as error:
            _log.error("consul_intentions_not_written", path=str(self._path), problem=str(error))


def _kept(path: Path) -> dict[str, Veto]:
    """What an earlier agent knew; nothing where the file is not there or is not one of ours."""
    try:
        told = json.loads(read_private(path))
        return {
            check_service_name(name): Veto({str(k): v is True for k, v in row["named"].items()}, row["others"] is True)
            for name, row in told["services"].items()
            if told["v"] == 1
        }
    except NotFound:
        return {}
    except (MeshError, ValueError, KeyError, TypeError, AttributeError) as error:
        _log.warning("consul_intentions_unreadable", path=str(path), problem=str(error))
        return {}
