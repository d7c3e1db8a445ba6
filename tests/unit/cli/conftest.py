"""A mesh in a real SQLite file, a host's agent that answers as it is told, and the command that is asked about them."""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import UnixStreamServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import structlog
from click.testing import CliRunner, Result

from meshagent.cli.main import cli
from meshagent.model.identity import TrustBundle
from meshagent.model.mesh import Mesh
from meshagent.model.service import Instance
from meshagent.state.catalog import put_instance, put_report
from meshagent.state.changes import Author, read_documents
from meshagent.state.foundation import lay_foundation
from meshagent.state.keys import Keys
from meshagent.state.records import ReportRecord
from meshagent.store.base import Put
from meshagent.store.sqlite import open_sqlite

KEYS = Keys()
SEEDED = datetime(2026, 11, 21, tzinfo=UTC)


@dataclass
class Commands:
    """Runs `meshagent` as a person does: in a directory, with an environment."""

    env: dict[str, str]

    def run(self, *args: str, code: int = 0, stdin: str | None = None) -> Result:
        """The result of one command, whose exit code must be `code`."""
        result = CliRunner(env=self.env).invoke(cli, list(args), input=stdin, catch_exceptions=False)
        assert result.exit_code == code, f"exit {result.exit_code}\n{result.output}"
        return result

    def json(self, *args: str, code: int = 0, stdin: str | None = None) -> Any:
        """What the command prints as JSON."""
        return json.loads(self.run(*args, "--output", "json", code=code, stdin=stdin).stdout)


@dataclass
class MeshFile(Commands):
    """A mesh in a file."""

    path: Path = Path()

    def register(self, service: str, protocol: str = "http", host: str = "vm-1", **more: Any) -> None:
        """Put an instance into the catalog."""
        facts = {"id": service, "address": "10.0.0.1", "port": 21000} | more
        instance = Instance.model_validate({"service": service, "host": host, "protocol": protocol, **facts})
        self._commit(lambda lease: put_instance(KEYS, instance, lease))

    def report(self, host: str, services: list[str], revision: int, **more: Any) -> None:
        """Let a host report what it has applied."""
        facts: dict[str, Any] = {"agent_version": "0.1.0", "envoy_version": "1.40.0", "at": SEEDED} | more
        record = ReportRecord.model_validate({"host": host, "services": services, "revision": revision, **facts})
        self._commit(lambda lease: put_report(KEYS, record, lease))

    def put(self, key: str, value: bytes) -> None:
        """Write a raw value, as something that is not meshagent might."""
        self._commit(lambda _: Put(key, value))

    def documents(self) -> dict[tuple[str, str], Any]:
        """The documents as they count now."""

        async def read() -> Any:
            store = await open_sqlite(self.path)
            try:
                return (await read_documents(store, KEYS))[1]
            finally:
                await store.close()

        return asyncio.run(read())

    def _commit(self, operation: Any) -> None:
        async def write() -> None:
            store = await open_sqlite(self.path)
            try:
                lease = await store.lease(timedelta(hours=1))
                await store.commit([operation(lease.id)])
            finally:
                await store.close()

        asyncio.run(write())


@pytest.fixture
def short_dir():
    """A directory whose path leaves room for the name of a socket."""
    made = Path(tempfile.mkdtemp(prefix="mesh"))
    yield made
    shutil.rmtree(made)


@pytest.fixture(autouse=True)
def _own_log():
    """A command sets the log up for its process, which is also that of the other tests."""
    yield
    structlog.reset_defaults()


@pytest.fixture
def env(tmp_path, short_dir, monkeypatch):
    """No configuration and no agent but those of the test."""
    for name in ("MESHAGENT_STORE", "MESHAGENT_API", "MESHAGENT_CONFIG", "SUDO_USER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LOGNAME", "ann")
    monkeypatch.setattr("platform.node", lambda: "vm-1")
    return {"MESHAGENT_STORE": f"sqlite://{tmp_path}/mesh.db", "MESHAGENT_API": f"unix://{short_dir}/agent.sock"}


@pytest.fixture(scope="session")
def seeded(tmp_path_factory):
    """The file that every mesh begins as: web, payments (http) and db (tcp) are registered."""
    found = MeshFile({}, tmp_path_factory.mktemp("seeded") / "mesh.db")

    async def lay() -> None:
        store = await open_sqlite(found.path)
        await lay_foundation(store, KEYS, Mesh(), TrustBundle(), Author("seed", SEEDED))
        await store.close()

    asyncio.run(lay())
    found.register("web")
    found.register("payments")
    found.register("db", "tcp")
    return found.path


@pytest.fixture
def mesh(env, tmp_path, seeded):
    """A mesh of its own."""
    shutil.copy(seeded, tmp_path / "mesh.db")
    return MeshFile(env, tmp_path / "mesh.db")


@dataclass
class FakeAgent(Commands):
    """Answers with what `answers` holds for a method and path, and keeps what it was asked."""

    answers: dict[tuple[str, str], tuple[int, Any]] = field(default_factory=dict)
    once: list[tuple[int, Any]] = field(default_factory=list)
    asked: list[tuple[str, str, dict[str, list[str]], Any]] = field(default_factory=list)

    def answer(self, method: str, path: str, body: Any, status: int = 200) -> None:
        """What to answer from now on; bytes are sent as they are."""
        self.answers[method, path] = (status, body)

    def answer_once(self, body: Any, status: int = 200) -> None:
        """What to answer to the next question, whatever it is."""
        self.once.append((status, body))


@pytest.fixture
def agent(env, short_dir):
    """An agent on its socket."""
    fake = FakeAgent(env)

    class Handler(BaseHTTPRequestHandler):
        def handle_one(self) -> None:
            parts = urlsplit(self.path)
            sent = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            fake.asked.append((self.command, parts.path, parse_qs(parts.query), json.loads(sent) if sent else None))
            status, body = fake.once.pop(0) if fake.once else fake.answers[self.command, parts.path]
            raw = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        do_GET = do_PUT = do_POST = do_DELETE = handle_one  # noqa: N815 - http.server's names

        def log_message(self, *_: object) -> None:
            return

        def address_string(self) -> str:
            return "client"

    server = UnixStreamServer(str(short_dir / "agent.sock"), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield fake
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def file(tmp_path):
    """Writes documents and gives the path."""

    def write(text, name="p.yaml"):
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return write
