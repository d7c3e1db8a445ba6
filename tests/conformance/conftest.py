"""The providers that the conformance suites are run against.

To add a store: a fixture `<name>_provider` that returns a `Provider`, and its name in `STORE_PROVIDERS`.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

from meshagent.store import open_store
from meshagent.store.base import Store
from meshagent.store.sqlite import SqliteStore

STORE_PROVIDERS = ("sqlite",)


@dataclass(frozen=True, slots=True)
class Provider:
    """A store server (or file) as the suite sees it."""

    url: str
    ttl: timedelta
    """The shortest lease that it grants and keeps to."""
    grace: timedelta
    """How long after its ttl a lease may linger."""
    forget_history: Callable[[Store], Awaitable[None]]
    """Makes the server drop its log of changes, so that a watcher which is behind has lost its place."""


@pytest.fixture
def sqlite_provider(tmp_path: Path) -> Provider:
    async def forget(store: Store) -> None:
        assert isinstance(store, SqliteStore)
        await store.compact(keep=1)

    return Provider(
        url=f"sqlite://{tmp_path}/mesh.db",
        ttl=timedelta(seconds=0.4),
        grace=timedelta(seconds=2),
        forget_history=forget,
    )


@pytest.fixture(params=STORE_PROVIDERS)
def provider(request: pytest.FixtureRequest) -> Provider:
    made = request.getfixturevalue(f"{request.param}_provider")
    assert isinstance(made, Provider)
    return made


@pytest.fixture
def root() -> str:
    """A tree of this test's own, for several tests may share a server."""
    return f"t-{secrets.token_hex(6)}/"


@pytest.fixture
async def store_factory(provider: Provider) -> AsyncIterator[Callable[[], Awaitable[Store]]]:
    """Opens one more client of the same store."""
    opened: list[Store] = []

    async def open_another() -> Store:
        opened.append(await open_store(provider.url))
        return opened[-1]

    yield open_another
    for store in opened:
        await store.close()


@pytest.fixture
async def store(store_factory: Callable[[], Awaitable[Store]]) -> Store:
    return await store_factory()
