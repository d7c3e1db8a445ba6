"""The services that files in services.d say: registered when they are read, and out of service when no file says them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Never

import structlog

from meshagent.agent.roster import Place, Roster
from meshagent.documents.decode import Decoded
from meshagent.documents.files import read_paths
from meshagent.errors import MeshError
from meshagent.model.service import ServiceDefinition

_log = structlog.get_logger(__name__)


class Definitions:
    """Keeps the roster as the directory says. `down` takes one instance out of service, with a drain."""

    def __init__(self, directory: Path, roster: Roster, down: Callable[[str, str | None], Awaitable[object]]) -> None:
        self._directory = directory
        self._roster = roster
        self._down = down
        self._retired: asyncio.Queue[Place] = asyncio.Queue()

    def load(self) -> None:
        """Register what the files say. One bad file keeps nobody else from being registered."""
        if not self._directory.is_dir():
            return
        found: Decoded[ServiceDefinition] = Decoded()
        if any(self._directory.iterdir()):
            found = read_paths([self._directory], ServiceDefinition)
        for problem in found.problems:
            _log.error("definition_unusable", problem=str(problem))
        said: set[Place] = set()
        for located in found.documents:
            said.add((located.document.name, located.document.instance_id))
            try:
                self._roster.add(located.document, "file")
            except MeshError as error:
                _log.error("service_not_registered", service=located.document.name, problem=str(error))
        if not found.problems:  # with a file unread, nobody can tell what it would have said
            for place, each in self._roster.registered.items():
                if each.source == "file" and place not in said:
                    self._retired.put_nowait(place)

    async def run(self) -> Never:
        """Take out of service, with a drain, what the files no longer say."""
        while True:
            service, instance_id = await self._retired.get()
            try:
                await self._down(service, instance_id)
            except MeshError as error:
                _log.error("service_not_retired", service=service, problem=str(error))
