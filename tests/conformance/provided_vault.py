"""A real OpenBao with a role for each service, for the suites."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from meshagent.ca import open_authority
from tests.conformance.provided import SERVICES, Provided
from tests.servers.openbao import OpenBao

SIGNS = True
DOMAIN = "mesh.internal"


def secret_file(place: Path, secret: str) -> str:
    place.touch(0o600)
    place.write_text(secret + "\n")
    return str(place)


@asynccontextmanager
async def provided(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Provided]:
    bao: OpenBao = request.getfixturevalue("openbao_server")
    mount = bao.pki(DOMAIN, SERVICES)
    settings = {
        "address": bao.address,
        "mount": mount,
        "role": "svc-{service}",
        "token_file": secret_file(tmp_path / "token", bao.token(bao.policy(mount))),
    }
    ca = open_authority("vault", settings, trust_domain=DOMAIN, data_dir=tmp_path, clock=lambda: datetime.now(UTC))
    yield Provided(ca, DOMAIN, timedelta(hours=1))
