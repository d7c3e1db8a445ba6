"""The built-in CA for the suites."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from meshagent.ca import open_authority
from tests.conformance.provided import Provided

SIGNS = True
DOMAIN = "mesh.internal"


@asynccontextmanager
async def provided(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Provided]:
    ca = open_authority("builtin", {}, trust_domain=DOMAIN, data_dir=tmp_path, clock=lambda: datetime.now(UTC))
    yield Provided(ca, DOMAIN, timedelta(hours=1))
