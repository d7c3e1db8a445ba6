"""A program that signs with openssl, as docs/authorities.md has it, for the suites."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from meshagent.ca import open_authority
from tests.conformance.provided import Provided
from tests.servers.openssl import documented_program, openssl_root

SIGNS = True
DOMAIN = "mesh.internal"


@asynccontextmanager
async def provided(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Provided]:
    root = openssl_root(tmp_path / "ca")
    program = documented_program(tmp_path / "openssl-sign")
    settings = {"command": [str(program), str(root.parent)], "roots_file": str(root)}
    ca = open_authority("exec", settings, trust_domain=DOMAIN, data_dir=tmp_path, clock=lambda: datetime.now(UTC))
    yield Provided(ca, DOMAIN, timedelta(hours=1))
