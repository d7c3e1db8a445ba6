"""The providers that the conformance suites are run against.

To add a store: a fixture `<name>_provider` that returns a `Provider`, and its name in `STORE_PROVIDERS`.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest

from meshagent.store import open_store
from meshagent.store.access import Access
from meshagent.store.base import Store
from meshagent.store.consul import ConsulStore
from meshagent.store.sqlite import SqliteStore
from tests.servers import consul

STORE_PROVIDERS = ("sqlite", "consul", "consul_acl")


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
    access: Access = field(default_factory=Access)
    """Who the suite is to the server."""


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


@pytest.fixture(scope="session")
def consul_servers() -> Iterator[consul.Servers]:
    with consul.servers() as running:
        yield running


@pytest.fixture(scope="session")
def guarded_consul_servers() -> Iterator[consul.Servers]:
    with consul.servers(acl=True) as running:
        yield running


def provided_by(running: consul.Servers, access: Access) -> Provider:
    async def forget(store: Store) -> None:
        # The server keeps no history at all; what a client may go on from is what it saw itself.
        assert isinstance(store, ConsulStore)
        store.forget()

    return Provider(
        url=running.url,
        # The servers grant a second (session_ttl_min) and end a lease after two.
        ttl=timedelta(seconds=1),
        grace=timedelta(seconds=3),
        forget_history=forget,
        access=access,
    )


@pytest.fixture
def consul_provider(consul_servers: consul.Servers) -> Provider:
    return provided_by(consul_servers, Access())


@pytest.fixture
def consul_acl_provider(guarded_consul_servers: consul.Servers, root: str, tmp_path: Path) -> Provider:
    """With a token that may use this test's tree and make sessions, and nothing else."""
    rules = f'''key_prefix "{root}" {{ policy = "write" }} session_prefix "" {{ policy = "write" }}
        agent_prefix "" {{ policy = "read" }}'''
    token = tmp_path / "token"
    token.touch(0o600)
    token.write_text(guarded_consul_servers.policy_token(rules))
    return provided_by(guarded_consul_servers, Access(token_file=token))


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
        opened.append(await open_store(provider.url, provider.access))
        return opened[-1]

    yield open_another
    for store in opened:
        await store.close()


@pytest.fixture
async def store(store_factory: Callable[[], Awaitable[Store]]) -> Store:
    return await store_factory()
