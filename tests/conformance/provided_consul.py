"""A real Consul with Connect on, for the suites. Its agent makes the keys, and renews when it sees fit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from meshagent.ca import open_authority
from meshagent.model.names import parse_spiffe_id
from tests.conformance.provided import SERVICES, Provided
from tests.servers import consul

SIGNS = False
LIFE = timedelta(hours=72)


@asynccontextmanager
async def provided(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Provided]:
    servers: consul.Servers = request.getfixturevalue("connect_servers")
    token = tmp_path / "token"
    token.touch(0o600)
    rights = " ".join(f'service "{service}" {{ policy = "write" }}' for service in SERVICES)
    token.write_text(await asyncio.to_thread(servers.policy_token, rights))
    settings = {"address": servers.url, "token_file": str(token)}
    ca = open_authority(
        "consul", settings, trust_domain="mesh.internal", data_dir=tmp_path, clock=lambda: datetime.now(UTC)
    )

    async def begin_anew(_: str) -> None:
        """The agent of Consul keeps leaves in memory alone."""
        await asyncio.to_thread(servers.kill)
        await asyncio.to_thread(servers.start)
        await asyncio.to_thread(consul.wait_for_roots, servers)

    trust_domain, _ = parse_spiffe_id(await ca.named("web"))
    yield Provided(ca, trust_domain, LIFE, LIFE, path="ns/default/dc/dc1/svc", replace=begin_anew)
