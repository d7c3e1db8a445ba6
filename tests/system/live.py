"""A real mesh for tests: agents as processes with real Envoys, apps in this process, the store opened beside them.

Ports come from 20000 to 31999, below the ephemeral range. Everything started is ended by pid.
"""

from __future__ import annotations

import asyncio
import http.client
import itertools
import json
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from meshagent.ca.base import Authority
from meshagent.ca.builtin import open_builtin
from meshagent.model.kinds import KINDS
from meshagent.model.mesh import Mesh
from meshagent.model.world import Origin, Stated
from meshagent.state.changes import Author, change
from meshagent.state.foundation import lay_foundation
from meshagent.state.keys import Keys
from meshagent.state.reach import catalog_at
from meshagent.store import open_store
from meshagent.store.access import Access

KEYS = Keys()
TRUST_DOMAIN = "mesh.internal"
_ports = itertools.cycle(range(20000 + os.getpid() % 40 * 250, 31999))


def free_port() -> int:
    """A port that nobody listens on."""
    for _ in range(2000):
        port = next(_ports)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no free port")


class Agent:
    """One agent process and what it was started with."""

    def __init__(self, mesh: LiveMesh, name: str, within: tuple[str, ...] = (), **settings: object) -> None:
        self.mesh = mesh
        self.within = within
        self.name = name
        self.directory = mesh.directory / name
        self.inbound_port = free_port()
        self.settings = settings
        self.process: asyncio.subprocess.Process | None = None
        self.api = f"unix://{self.directory}/run/agent.sock"

    @property
    def log(self) -> Path:
        return self.directory / "agent.log"

    async def start(self, *, wait: float = 15.0) -> None:
        """Start it and wait until it answers and its Envoy is connected."""
        self.directory.mkdir(exist_ok=True)
        arguments = {
            "store": self.mesh.url,
            "data-dir": self.directory / "data",
            "services-dir": self.directory / "services.d",
            "host-name": self.name,
            "inbound-port": self.inbound_port,
            "metrics": "none",
            "api": self.api,
            **{key.replace("_", "-"): value for key, value in self.settings.items()},
        }
        flags = [text for key, value in arguments.items() for text in (f"--{key}", str(value))]
        environment = {**os.environ, "MESHAGENT_RUNTIME_DIR": str(self.directory / "run"), "MESHAGENT_CA_PATH": ""}
        environment.pop("MESHAGENT_CA_PATH")
        config = self.directory / "agent.yaml"
        told = {key: value for key, value in asdict(self.mesh.agent_access).items() if value}
        config.write_text(
            f"ca: {{{self.mesh.ca_settings}, ttl: {self.mesh.ttl}}}\n"
            f"envoy: {{drain: {self.mesh.drain}}}\n" + "".join(f"store_{key}: {value}\n" for key, value in told.items())
        )
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *self.within,
                sys.executable,
                "-m",
                "meshagent",
                "agent",
                "--config",
                str(config),
                *flags,
                stdout=log,
                stderr=log,
                env=environment,
            )
        if wait:
            await self.ready(wait)

    async def ready(self, wait: float = 15.0) -> None:
        """Wait until the API answers and Envoy is connected."""
        await eventually(lambda: self.status().get("envoy", {}).get("ready"), wait, f"agent {self.name}: {self.tail()}")

    def call(self, method: str, path: str, body: object = None) -> dict:
        """One call of the agent's API."""
        connection = UnixConnection(self.api.removeprefix("unix://"))
        try:
            connection.request(method, path, json.dumps(body) if body is not None else None)
            response = connection.getresponse()
            return {"http": response.status, **json.loads(response.read() or b"{}")}
        finally:
            connection.close()

    def status(self) -> dict:
        """The agent's status; empty while it does not answer."""
        try:
            return self.call("GET", "/v1/status")
        except OSError:
            return {}

    async def up(self, **definition: object) -> dict:
        """Register a service and require that it worked."""
        answer = await asyncio.to_thread(self.call, "PUT", "/v1/services", definition)
        assert answer["http"] == 200, (answer, self.tail())
        return answer

    async def down(self, name: str, instance: str = "") -> dict:
        """Deregister a service."""
        query = f"?id={instance}" if instance else ""
        return await asyncio.to_thread(self.call, "DELETE", f"/v1/services/{name}{query}")

    async def kill(self) -> None:
        """End the agent as a crash would: its Envoy goes on."""
        self.process.kill()
        await self.process.wait()

    async def stop(self) -> int:
        """End it as an operator would, with its Envoy. Returns the exit code."""
        if self.process and self.process.returncode is None:
            self.process.terminate()
            try:
                async with asyncio.timeout(30):
                    await self.process.wait()
            except TimeoutError:
                self.process.kill()
                await self.process.wait()
        code = self.process.returncode if self.process else 0
        self.end_envoy(signal.SIGTERM)
        return code

    def envoy_pid(self) -> int:
        """The pid of the running Envoy, from the agent's own state; 0 when there is none."""
        try:
            state = json.loads((self.directory / "data" / "envoy.json").read_text())
        except (OSError, ValueError):
            return 0
        return state["pid"] if Path(f"/proc/{state['pid']}/exe").exists() else 0

    def end_envoy(self, number: signal.Signals) -> None:
        """Signal the Envoy that this agent started."""
        pid = self.envoy_pid()
        if pid and "envoy" in os.readlink(f"/proc/{pid}/exe"):
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def admin(self, path: str, method: str = "GET") -> bytes:
        """A call of Envoy's admin socket."""
        connection = UnixConnection(str(self.directory / "run" / "admin.sock"))
        try:
            connection.request(method, path)
            return connection.getresponse().read()
        finally:
            connection.close()

    def tail(self, lines: int = 25) -> str:
        """The end of the agent's log, for a failing test."""
        return "\n".join(self.log.read_text().splitlines()[-lines:]) if self.log.exists() else ""

    def events(self, name: str) -> list[dict]:
        """The log events of one name."""
        found = []
        for line in self.log.read_text().splitlines():
            with suppress(ValueError):
                event = json.loads(line)
                if event.get("event") == name:
                    found.append(event)
        return found


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=30)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class LiveMesh:
    """A store, a CA directory and any number of agents on this machine."""

    def __init__(self, directory: Path, ttl: str, url: str = "", access: Access | None = None) -> None:
        self.directory = directory
        self.store_path = directory / "mesh.db"
        self.url = url or f"sqlite://{self.store_path}"
        self.access = access or Access()
        self.agent_access = self.access
        self.ttl = ttl
        self.ca = directory / "ca"
        self.ca_settings = f"provider: builtin, path: {self.ca}"
        self.drain = "3s"
        self.agents: list[Agent] = []
        self.store = None

    async def agent(self, name: str = "vm-1", within: tuple[str, ...] = (), **settings: object) -> Agent:
        """Start one more agent. `within` goes before its command, to run it in another network namespace."""
        agent = Agent(self, name, within, **settings)
        self.agents.append(agent)
        await agent.start()
        if self.store is None:
            self.store = await open_store(self.url, self.access)
        return agent

    async def found(self, authority: Authority | None = None) -> None:
        """Set the mesh up in a store that no agent sets up by itself, with the roots of the builtin CA or another."""
        self.store = await open_store(self.url, self.access)
        if authority is None:
            authority = open_builtin(self.directory / "ca", TRUST_DOMAIN, clock=lambda: datetime.now(UTC))
        await lay_foundation(self.store, KEYS, Mesh(), await authority.bundle(), Author("test", datetime.now(UTC)))

    async def apply(self, *documents: dict) -> int:
        """Put documents (plain data) in force by the store's API. Returns the revision."""
        origin = Origin(file="test.yaml", line=1)
        edits = {}
        for data in documents:
            document = KINDS[data["kind"]].model_validate(data)
            edits[data["kind"], data.get("name", "mesh")] = Stated(document, {"": origin})
        applied = await change(self.store, KEYS, lambda _: edits, Author("test", datetime.now(UTC)))
        return applied.revision

    async def delete(self, *names: tuple[str, str]) -> int:
        """Take documents, by kind and name, out of force. Returns the revision."""
        gone = dict.fromkeys(names)
        return (await change(self.store, KEYS, lambda _: gone, Author("test", datetime.now(UTC)))).revision

    async def intend(self, destination: str, **sources: object) -> int:
        """One destination's intentions: web="allow", anyone="deny", batch=[permission, ...]."""
        rows = []
        for name, value in sources.items():
            row = {"name": "*" if name == "anyone" else name.replace("_", "-")}
            rows.append(row | ({"action": value} if isinstance(value, str) else {"permissions": value}))
        return await self.apply(
            {"kind": "intention", "name": "*" if destination == "*" else destination, "sources": rows}
        )

    async def applied(self, revision: int, *agents: Agent) -> None:
        """Wait until the agents' Envoys have applied the revision."""
        for agent in agents or self.agents:
            await eventually(
                lambda agent=agent: agent.status().get("applied_revision", 0) >= revision, 10, agent.tail()
            )

    async def close(self) -> None:
        """End everything."""
        if self.store:
            await self.store.close()
        await asyncio.gather(*(agent.stop() for agent in self.agents))


@asynccontextmanager
async def live_mesh(ttl: str = "1h", url: str = "", access: Access | None = None, authority: Authority | None = None):
    """A mesh in a directory of its own, in the store at `url` (an SQLite file of its own unless told).

    When the test fails, its logs stay under test-artifacts/.
    """
    directory = Path(tempfile.mkdtemp(prefix="mesh-"))
    mesh = LiveMesh(directory, ttl, url, access)
    try:
        if url:
            await mesh.found(authority)
        yield mesh
    except BaseException:
        keep_evidence(mesh)
        raise
    finally:
        await mesh.close()
        forget_memory(directory)
        shutil.rmtree(directory, ignore_errors=True)


def forget_memory(directory: Path) -> None:
    """Remove what Envoys that were killed leave in shared memory."""
    for kept in directory.glob("**/envoy-base-id"):
        (Path("/dev/shm") / f"envoy_shared_memory_{int(kept.read_text()) * 10}").unlink(missing_ok=True)


def keep_evidence(mesh: LiveMesh) -> None:
    """Agent logs, Envoy's logs and configuration (keys redacted by Envoy) of a failed test."""
    name = os.environ.get("PYTEST_CURRENT_TEST", "test").partition("::")[2].split(" ")[0].replace("/", "_") or "test"
    target = Path("test-artifacts") / name
    target.mkdir(parents=True, exist_ok=True)
    for agent in mesh.agents:
        for source in (agent.log, *(agent.directory / "data").glob("*.log"), agent.directory / "data" / "envoy.stderr"):
            with suppress(OSError):
                shutil.copy(source, target / f"{agent.name}-{source.name}")
        with suppress(OSError, http.client.HTTPException):
            (target / f"{agent.name}-config_dump.json").write_bytes(agent.admin("/config_dump?include_eds"))


async def eventually(condition, wait: float, evidence: str = "") -> None:
    """Wait until the condition holds, at most `wait` seconds."""
    until = time.monotonic() + wait
    while not await asyncio.to_thread(condition):
        assert time.monotonic() < until, f"not within {wait} s {evidence}"
        await asyncio.sleep(0.02)


async def passing_hosts(url: str, access: Access, service: str) -> set[str]:
    """The hosts of a service that callers are sent to, as another opening of store and catalog knows them."""
    store = await open_store(url, access)
    catalog = catalog_at(url, access, store, KEYS)
    try:
        found = [instance for listing in await catalog.read(service) for instance in listing.instances]
        return {instance.host for instance in found if instance.health == "passing"}
    finally:
        await catalog.close()
        await store.close()
