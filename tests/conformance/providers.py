"""The CA providers that the suites are run against: a module `provided_<name>.py` for each, in this folder.

Such a module has `SIGNS`, whether the provider signs requests or hands out keys with certificates, and
`provided(request, tmp_path)`, an asynchronous context manager that gives a `Provided`. Servers come from fixtures of
the session (`request.getfixturevalue`).
"""

from __future__ import annotations

import importlib
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol

import pytest

from tests.conformance.provided import Provided


class ProviderModule(Protocol):
    SIGNS: bool

    def provided(self, request: pytest.FixtureRequest, tmp_path: Path) -> AbstractAsyncContextManager[Provided]: ...


def _module(path: Path) -> ProviderModule:
    return importlib.import_module(f"tests.conformance.{path.stem}")  # type: ignore[return-value]


PROVIDERS = {path.stem.removeprefix("provided_"): _module(path) for path in Path(__file__).parent.glob("provided_*.py")}
SIGNERS = sorted(name for name, module in PROVIDERS.items() if module.SIGNS)
KEY_MAKERS = sorted(set(PROVIDERS) - set(SIGNERS))


async def opened(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Provided]:
    """The provider that the fixture's parameter names."""
    async with PROVIDERS[request.param].provided(request, tmp_path) as provided:
        yield provided
        await provided.authority.close()
