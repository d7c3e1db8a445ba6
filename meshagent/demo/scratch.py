"""A scratch mesh: founded in a temporary directory, agents with real Envoys, apps in this process, and all of it removed."""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from meshagent.api.client import AgentClient
from meshagent.ca.builtin import open_builtin
from meshagent.demo.processes import Process, answers, end, free_ports, last_words, signals_kept, spawn
from meshagent.envoy.admin import AdminClient
from meshagent.errors import EnvoyFailed, UsageProblem
from meshagent.model.kinds import Document
from meshagent.model.mesh import Mesh
from meshagent.model.service import ServiceDefinition
from meshagent.model.world import Stated
from meshagent.state.changes import Author, Name, change
from meshagent.state.foundation import lay_foundation
from meshagent.state.keys import Keys
from meshagent.store import open_store
from meshagent.store.base import Store

_PATIENCE_SECONDS = 20.0
_LOOK_AGAIN_SECONDS = 0.02
_LONGEST_DIRECTORY = 80  # characters: 107 are a socket's path at most, host-N/run/... included
_PORTS_APART = 300  # further instances of a service take the next 255 ports
_CONFIG = """\
store: sqlite://{store}
api: unix://{directory}/run/agent.sock
data_dir: {directory}/data
runtime_dir: {directory}/run
services_dir: {directory}/services.d
host: {{name: {name}, address: 127.0.0.1, region: {region}, zone: {zone}}}
ca: {{provider: builtin, path: {ca}}}
envoy: {{drain: 10ms}}
metrics: none
inbound_port: {port}
"""

Place = tuple[str, str]
"""Where a host stands: region and zone."""


@dataclass(slots=True)
class ScratchMesh:
    """The mesh. `hosts`: the directory of each host's agent, by where it stands."""

    directory: Path
    store: Store
    keys: Keys
    hosts: dict[Place, Path] = field(default_factory=dict)
    processes: list[Process] = field(default_factory=list)

    async def up(self, place: Place, definition: ServiceDefinition) -> None:
        """Register a service on the host at a place; its listeners are up when this returns. EnvoyFailed, PortInUse."""
        await self._client(place).up(definition, _PATIENCE_SECONDS)

    async def down(self, place: Place, service: str, instance: str) -> None:
        """Take an instance out again."""
        await self._client(place).down(service, instance)

    async def apply(self, documents: Mapping[Name, Stated[Document] | None], by: Author) -> None:
        """Put documents in force everywhere, or out of it (None). Raises EnvoyFailed when an Envoy does not apply them."""
        applied = await change(self.store, self.keys, lambda _: dict(documents), by)
        for place in self.hosts:
            client = self._client(place)

            async def in_force(client: AgentClient = client) -> bool:
                return bool((await client.status()).get("applied_revision", 0) >= applied.revision)

            await self.until(in_force, "Envoy did not apply the documents")

    def admin(self, place: Place) -> AdminClient:
        """The Envoy of the host at a place."""
        return AdminClient(self.hosts[place] / "run/admin.sock")

    async def stats(self, pattern: str) -> dict[str, int]:
        """Envoy's counters and gauges of these names, summed over all hosts."""
        found: dict[str, int] = {}
        for place in self.hosts:
            for name, value in (await self.admin(place).stats(pattern)).items():
                found[name] = found.get(name, 0) + value
        return found

    async def until(self, holds: Callable[[], Awaitable[object]], failed: str) -> None:
        """Wait until a coroutine function says yes. Raises EnvoyFailed with what failed after some patience."""
        by = time.monotonic() + _PATIENCE_SECONDS
        while not await holds():
            if time.monotonic() > by or any(process.poll() is not None for process in self.processes):
                raise EnvoyFailed(f"{failed}:\n{self._last_words()}", next_step="run `meshagent agent` to see why")
            await asyncio.sleep(_LOOK_AGAIN_SECONDS)

    def _client(self, place: Place) -> AgentClient:
        return AgentClient(f"unix://{self.hosts[place]}/run/agent.sock")

    def _last_words(self) -> str:
        return "\n".join(last_words(directory / "agent.log") for directory in self.hosts.values())


@asynccontextmanager
async def scratch_mesh(mesh: Mesh, places: Sequence[Place], by: Author) -> AsyncIterator[ScratchMesh]:
    """A running mesh with this document and a host at each place; removed with the block, also on SIGTERM and SIGHUP.

    Nothing of any other mesh is read or touched. Raises EnvoyFailed when an agent does not start. Belongs to the main
    thread, as signals do.
    """
    with signals_kept():
        directory = Path(tempfile.mkdtemp(prefix="meshagent-cases-"))
        try:
            _require_short(directory)
            made = ScratchMesh(directory, await open_store(f"sqlite://{directory}/mesh.db"), Keys())
            try:
                await _found(made, mesh, by)
                await _start(made, places)
                yield made
            finally:
                end(made.processes, made.hosts.values())
                await made.store.close()
        finally:
            shutil.rmtree(directory, ignore_errors=True)


def _require_short(directory: Path) -> None:
    if len(str(directory)) > _LONGEST_DIRECTORY:
        raise UsageProblem(
            f"the temporary directory {directory} has too long a name for the sockets in it",
            next_step="TMPDIR=/tmp meshagent policy test --live ...",
        )


async def _found(made: ScratchMesh, mesh: Mesh, by: Author) -> None:
    authority = open_builtin(made.directory / "ca", mesh.trust_domain, clock=lambda: datetime.now(UTC))
    await lay_foundation(made.store, made.keys, mesh, await authority.bundle(), by)


async def _start(made: ScratchMesh, places: Sequence[Place]) -> None:
    """The agents, which answer when this returns."""
    ports = free_ports(len(places), _PORTS_APART)
    for number, (region, zone) in enumerate(places):
        directory = made.directory / f"host-{number}"
        directory.mkdir()
        (directory / "agent.yaml").write_text(
            _CONFIG.format(
                store=made.directory / "mesh.db",
                directory=directory,
                name=f"host-{number}",
                region=json.dumps(region),
                zone=json.dumps(zone),
                ca=made.directory / "ca",
                port=ports[number],
            )
        )
        made.hosts[region, zone] = directory
        made.processes.append(spawn(directory / "agent.log", "agent", "--config", str(directory / "agent.yaml")))

    async def up() -> bool:
        return all(answers(directory / "run/agent.sock") for directory in made.hosts.values())

    await made.until(up, "the agents of the scratch mesh did not start")
