"""Files that openssl and a test put there, for the suites."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from meshagent.ca import open_authority
from meshagent.ca.keys import new_key_and_csr
from tests.conformance.provided import SERVICES, TTL, Provided
from tests.servers.openssl import documented_program, openssl_root

SIGNS = False
DOMAIN = "mesh.internal"


def pair(program: Path, root: Path, service: str, ttl: timedelta = TTL) -> tuple[bytes, bytes]:
    """A new key and a chain for it, signed by openssl."""
    name = f"spiffe://{DOMAIN}/svc/{service}"
    key, csr = new_key_and_csr(name)
    asked = {"MESHAGENT_SPIFFE_ID": name, "MESHAGENT_TTL_SECONDS": str(int(ttl.total_seconds()))}
    environment = {"PATH": "/usr/bin:/bin", **asked}
    command = [str(program), str(root.parent)]
    return key, subprocess.run(command, input=csr, capture_output=True, check=True, env=environment).stdout


def put(directory: Path, service: str, key: bytes, chain: bytes) -> None:
    """The two files, one after the other and each at once."""
    for name, content in ((f"{service}.key", key), (f"{service}.pem", chain)):
        new = directory / f".{name}"
        new.touch(0o600)
        new.write_bytes(content)
        new.rename(directory / name)


@asynccontextmanager
async def provided(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Provided]:
    root = openssl_root(tmp_path / "ca")
    program = documented_program(tmp_path / "openssl-sign")
    directory = tmp_path / "pairs"
    directory.mkdir()
    (directory / "roots.pem").write_bytes(root.read_bytes())

    async def feed(service: str) -> None:
        put(directory, service, *await asyncio.to_thread(pair, program, root, service))

    await asyncio.gather(*map(feed, SERVICES))
    ca = open_authority(
        "files",
        {"directory": str(directory)},
        trust_domain=DOMAIN,
        data_dir=tmp_path,
        clock=lambda: datetime.now(UTC),
    )
    yield Provided(ca, DOMAIN, timedelta(hours=1), replace=feed)
