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
from meshagent.store.etcd import EtcdStore
from meshagent.store.sqlite import SqliteStore
from tests.servers import consul, etcd, openbao

STORE_PROVIDERS = ("sqlite", "consul", "consul_acl", "etcd", "etcd_auth", "etcd_three")


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
    doubts: tuple[str, ...] = ()
    """What a healthy server of this version is known to do wrong, a word of each."""


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


@pytest.fixture(scope="session")
def connect_servers() -> Iterator[consul.Servers]:
    """With Connect's CA, which no store suite needs, and which the CA's suite restarts."""
    with consul.servers(acl=True, settings={"connect": {"enabled": True}}) as running:
        consul.wait_for_roots(running)
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


@pytest.fixture(scope="session")
def etcd_servers() -> Iterator[etcd.Servers]:
    # A shorter election makes shorter leases possible.
    with etcd.servers(options=("--heartbeat-interval=50", "--election-timeout=500")) as running:
        yield running


@pytest.fixture(scope="session")
def guarded_etcd_servers() -> Iterator[etcd.Servers]:
    with etcd.servers(guarded=True, options=("--heartbeat-interval=50", "--election-timeout=500")) as running:
        yield running


@pytest.fixture(scope="session")
def three_etcd_servers() -> Iterator[etcd.Servers]:
    with etcd.servers(3) as running:
        yield running


def kept_by(running: etcd.Servers, access: Access, *, ttl: float, doubts: tuple[str, ...] = ()) -> Provider:
    async def forget(store: Store) -> None:
        assert isinstance(store, EtcdStore)
        await store.compact()

    return Provider(
        url=running.url,
        ttl=timedelta(seconds=ttl),
        grace=timedelta(seconds=3),
        forget_history=forget,
        access=access,
        doubts=doubts,
    )


@pytest.fixture(scope="session")
def openbao_server() -> Iterator[openbao.OpenBao]:
    with openbao.server() as running:
        yield running


@pytest.fixture
def etcd_provider(etcd_servers: etcd.Servers) -> Provider:
    return kept_by(etcd_servers, Access(), ttl=1)


@pytest.fixture
def etcd_auth_provider(guarded_etcd_servers: etcd.Servers, root: str, tmp_path: Path) -> Provider:
    """With a user who may use this test's tree, and nothing else."""
    name = root.strip("/")
    guarded_etcd_servers.add_role(name, "readwrite", root)
    guarded_etcd_servers.add_user(name, "secret", name)
    password = tmp_path / "password"
    password.touch(0o600)
    password.write_text("secret\n")
    access = Access(username=name, password_file=password)
    return kept_by(guarded_etcd_servers, access, ttl=1, doubts=("CVE-2026-33343",))


@pytest.fixture
def etcd_three_provider(three_etcd_servers: etcd.Servers) -> Provider:
    return kept_by(three_etcd_servers, Access(), ttl=2)


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
