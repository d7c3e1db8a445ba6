"""Signing authorities as processes, the hosts that join them, and what an attacker may send to them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import ssl
import sys
import tempfile
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from meshagent.agent.enrolment import enrol
from meshagent.authority.founding import found_authority
from meshagent.ca.authority_calls import Calls, known_by
from meshagent.ca.root_files import load_root
from meshagent.config.authority import AuthorityConfig, load_authority_config
from meshagent.model.identity import TrustBundle
from meshagent.model.joining import JoinLine
from meshagent.model.mesh import Mesh
from meshagent.private import private_dir
from meshagent.state.changes import Author
from meshagent.state.enrolment import token_hash
from meshagent.state.foundation import lay_foundation
from meshagent.state.keys import Keys
from meshagent.state.tokens import Invitation, invite
from meshagent.store import open_store
from meshagent.store.base import Expect, Put
from tests.system.live import free_port

DOMAIN = "mesh.internal"
KEYS = Keys()
PATIENCE = 20.0


def now() -> datetime:
    return datetime.now(UTC)


def author() -> Author:
    return Author("ann@test", now())


class Daemon:
    """One `meshagent authority` process."""

    def __init__(self, folder: Path, name: str, store: str, **settings: object) -> None:
        self.folder = private_dir(folder / name)
        self.name = name
        self.address = f"127.0.0.1:{free_port()}"
        self.file = self.folder / "authority.yaml"
        self.metrics = f"127.0.0.1:{free_port()}"
        self.settings: dict[str, object] = {
            "store": store,
            "name": name,
            "listen": self.address,
            "address": self.address,
            "data_dir": str(self.folder / "data"),
            "metrics": self.metrics,
            "store_for_hosts": "consul://10.0.0.9:8500",
            **settings,
        }
        self.write()
        self.process: asyncio.subprocess.Process | None = None

    def write(self) -> None:
        self.file.write_text(yaml.safe_dump(self.settings))

    @property
    def config(self) -> AuthorityConfig:
        return load_authority_config(self.file, env={})

    @property
    def data(self) -> Path:
        return self.folder / "data"

    async def start(self, *, serving: bool = True) -> None:
        with (self.folder / "log").open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "meshagent", "authority", "--config", str(self.file)), stderr=log
            )
        if serving:
            await self.until("authority_started")

    def log(self) -> list[dict]:
        return [json.loads(line) for line in (self.folder / "log").read_text().splitlines() if line.startswith("{")]

    def audit(self) -> list[dict]:
        return [json.loads(line) for line in (self.data / "audit.jsonl").read_text().splitlines()]

    async def until(self, event: str, count: int = 1) -> dict:
        """Until the log holds the event this often."""
        ends = time.monotonic() + PATIENCE
        while time.monotonic() < ends:
            found = [line for line in self.log() if line["event"] == event]
            if len(found) >= count:
                return found[-1]
            assert self.process is None or self.process.returncode is None, (self.folder / "log").read_text()
            await asyncio.sleep(0.02)
        raise AssertionError((self.folder / "log").read_text())

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        if self.process is None:
            return 0
        if self.process.returncode is None:
            self.process.send_signal(number)
        code = await asyncio.wait_for(self.process.wait(), PATIENCE)
        self.process = None
        return code


@dataclass
class Host:
    """A host that joined: its key and certificate are in its folder."""

    name: str
    folder: Path
    root: str

    def calls(self, *addresses: str) -> Calls:
        own = (self.folder / "host.pem", self.folder / "host.key")
        return Calls(addresses, lambda: known_by(self.root, DOMAIN, own))


class World:
    """A mesh with a store and authorities."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        self.url = url or f"sqlite://{folder}/mesh.db"
        self.daemons: list[Daemon] = []

    async def found(self, **settings: object) -> Daemon:
        """The first authority with the root; the store is set up."""
        daemon = self.daemon("a1", **settings)
        founded = found_authority(daemon.config, DOMAIN, now())
        bundle = TrustBundle(((DOMAIN, (founded.root_pem,)),))
        async with self.store() as store:
            await lay_foundation(store, KEYS, Mesh(trust_domain=DOMAIN), bundle, author())
        return daemon

    def daemon(self, name: str, **settings: object) -> Daemon:
        made = Daemon(self.folder, name, self.url, **settings)
        self.daemons.append(made)
        return made

    @asynccontextmanager
    async def store(self):
        opened = await open_store(self.url)
        try:
            yield opened
        finally:
            await opened.close()

    @property
    def root(self) -> str:
        found = load_root(self.daemons[0].data / "root")
        assert found
        return found.certificate.public_bytes(serialization.Encoding.PEM).decode()

    async def token(self, host: str, *services: str, ttl: timedelta = timedelta(minutes=10)) -> str:
        async with self.store() as store:
            return await invite(store, KEYS, Invitation(host, services or ("web",), ttl), author())

    async def age(self, token: str) -> None:
        """Let the token have ended a second ago."""
        key = KEYS.token(token_hash(token))
        async with self.store() as store:
            entry = (await store.read(key)).entries[key]
            value = json.loads(entry.value)
            value["expires_at"] = (now() - timedelta(seconds=1)).isoformat()
            await store.commit([Expect(key, entry.revision), Put(key, json.dumps(value).encode())])

    def line(self, token: str, *addresses: str) -> JoinLine:
        root = x509.load_pem_x509_certificate(self.root.encode())
        fingerprint = f"sha256:{root.fingerprint(hashes.SHA256()).hex()}"
        return JoinLine(addresses or (self.daemons[0].address,), fingerprint, token, DOMAIN)

    async def join(self, name: str, *services: str) -> Host:
        folder = self.folder / f"host-{name}-{len(list(self.folder.glob('host-*')))}"
        await enrol(self.line(await self.token(name, *services)), name, folder, now)
        return Host(name, folder, self.root)

    def stranger(self, *addresses: str) -> Calls:
        return Calls(addresses or (self.daemons[0].address,), lambda: known_by(self.root, DOMAIN))

    async def close(self) -> None:
        for daemon in self.daemons:
            if daemon.process and daemon.process.returncode is None:
                daemon.process.kill()
                await daemon.process.wait()


@asynccontextmanager
async def world(url: str = ""):
    """A mesh that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="auth-") as name:
        made = World(Path(name), url)
        try:
            yield made
        finally:
            await made.close()


async def post(daemon: Daemon, context: ssl.SSLContext, path: str, body: object, **headers: str) -> tuple[int, dict]:
    """Status and answer, whatever they are."""
    connector = aiohttp.TCPConnector(ssl=context, force_close=True)
    async with aiohttp.ClientSession(connector=connector) as session:
        url = f"https://{daemon.address}{path}"
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        async with session.post(url, data=data, headers=headers) as response:
            return response.status, await response.json()


def csr(key=None, *extensions: x509.ExtensionType, common_name: str = "") -> str:
    """A CSR with whatever somebody writes into it."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    name = [x509.NameAttribute(x509.NameOID.COMMON_NAME, common_name)] if common_name else []
    built = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(name))
    for extension in extensions:
        built = built.add_extension(extension, critical=False)
    return built.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


def leaf_of(chain: str) -> x509.Certificate:
    return x509.load_pem_x509_certificates(chain.encode())[0]


def svc(name: str) -> str:
    return f"spiffe://{DOMAIN}/svc/{name}"


def asked(name: str, request: str = "", ttl: float = 3600) -> dict[str, object]:
    return {"csr": request or csr(), "spiffe_id": svc(name), "ttl_seconds": ttl}


def pid_of(daemon: Daemon) -> int:
    assert daemon.process
    return daemon.process.pid


def descriptors(daemon: Daemon) -> int:
    return len(os.listdir(f"/proc/{pid_of(daemon)}/fd"))
