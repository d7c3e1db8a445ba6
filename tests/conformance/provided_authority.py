"""The provider `authority` for the suites: a real `meshagent authority`, and a host that has joined."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from meshagent.ca import open_authority
from tests.conformance.provided import SERVICES, Provided
from tests.system.authorities import DOMAIN, now, world

SIGNS = True


@asynccontextmanager
async def provided(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Provided]:
    async with world() as made:
        daemon = await made.found()
        await daemon.start()
        host = await made.join("vm-1", *SERVICES)
        settings = {"addresses": [daemon.address]}
        client = open_authority("authority", settings, trust_domain=DOMAIN, data_dir=host.folder, clock=now)
        try:
            yield Provided(client, DOMAIN, timedelta(hours=1))
        finally:
            await client.close()
            await daemon.stop()
