"""A made-up mesh of any size, the same for the same size: services, their instances and who may call them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from itertools import islice

from meshagent.catalog.consul_forms import meta_of, service_id
from meshagent.model.service import Instance, ServiceDefinition
from meshagent.model.world import Local
from meshagent.policy.resolve import Host
from meshagent.state.catalog import commit_all, put_instance
from meshagent.state.keys import Interest, Keys
from meshagent.state.records import Manifest, OriginRecord, PolicyRecord, decode, encode
from meshagent.store.access import Access
from meshagent.store.base import Changes, Entry, Expect, Put, Store
from meshagent.wire.consul import open_consul

KEYS = Keys()
HERE = Host("vm-here", "127.0.0.1")
SEED = 20261121
Register = Callable[[Iterable[Instance]], Awaitable[None]]
_FIRST_PORT = 13_000
_OPERATIONS = 63  # in a transaction, beside the node
_NODE = {"Node": {"Verb": "set", "Node": {"Node": "elsewhere", "Address": "10.9.9.9"}}}


@dataclass(frozen=True, slots=True)
class Population:
    """`services` services with `instances` each elsewhere, and `sources` intentions for each of them."""

    services: int
    instances: int = 10
    sources: int = 10

    @property
    def names(self) -> tuple[str, ...]:
        return _names(self.services)

    def called(self, count: int) -> tuple[str, ...]:
        """`count` of the services, spread over all but the first, which calls them."""
        return tuple(sorted(random.Random(SEED).sample(self.names[1:], count)))

    def instance(self, service: str, number: int, port: int = 21000) -> Instance:
        where = int(service[1:]) * self.instances + number
        address = f"10.{where >> 16 & 255}.{where >> 8 & 255}.{where & 255}"
        return Instance(
            service=service, host=f"vm-{where:06d}", id=service, address=address, port=port, protocol="http"
        )

    def callers(self, service: str) -> list[str]:
        """Whom its intentions name."""
        return sorted(random.Random(service).sample(self.names, min(self.sources, self.services)))

    def policy(self, service: str, revision: int, denied: str = "") -> Put:
        """The record of the service's intentions: its callers may call it, but for one."""
        rows = [{"name": name, "action": "deny" if name == denied else "allow"} for name in self.callers(service)]
        document = {"kind": "intention", "name": service, "sources": rows}
        origin = OriginRecord(who="bench", at=datetime(2026, 11, 21, tzinfo=UTC))
        key = KEYS.document("intention", service)
        return Put(key, encode(PolicyRecord(revision=revision, document=document, origins={"": origin})))

    def registrations(self) -> Iterator[Instance]:
        """All instances."""
        return (self.instance(service, number) for service in self.names for number in range(self.instances))

    def policies(self, revision: int) -> Iterator[Put]:
        """The writes of all intentions."""
        return (self.policy(service, revision) for service in self.names)


@lru_cache
def _names(count: int) -> tuple[str, ...]:
    return tuple(f"s{number:05d}" for number in range(count))


async def populate(store: Store, population: Population, url: str = "") -> int:
    """Write it into a store in which there is a mesh, or soon is. Returns the policy's revision, which makes all of it count."""
    async with asyncio.timeout(10):
        while not (found := (await store.read(KEYS.manifest)).entries.get(KEYS.manifest)):
            await asyncio.sleep(0.05)
    revision = decode(Manifest, found.value).revision + 1
    async with registering(store, url) as register:
        await register(population.registrations())
    await commit_all(store, population.policies(revision))
    await bump(store, revision)
    return revision


@asynccontextmanager
async def registering(store: Store, url: str) -> AsyncIterator[Register]:
    """Gives what puts instances, which live for ever, where the store's catalog has them."""
    if not url.startswith("consul:"):
        yield lambda instances: commit_all(store, (put_instance(KEYS, each, None) for each in instances))
        return
    consul = open_consul(url, Access())

    async def register(instances: Iterable[Instance]) -> None:
        every = iter(instances)
        while some := list(islice(every, _OPERATIONS)):
            answer = await consul.put("/v1/txn", body=[_NODE, *map(_in_catalog, some)])
            assert answer.status == 200, answer.body

    try:
        yield register
    finally:
        await consul.close()


def _in_catalog(instance: Instance) -> dict:
    """The write of a service on a node that no agent of Consul tends."""
    service = {
        "ID": service_id(instance),
        "Service": instance.service,
        "Address": instance.address,
        "Port": 8080,
        "Meta": meta_of(instance),
    }
    return {"Service": {"Verb": "set", "Node": _NODE["Node"]["Node"]["Node"], "Service": service}}


async def bump(store: Store, revision: int, *puts: Put) -> None:
    """Move the policy to the revision, with these writes."""
    found = (await store.read(KEYS.manifest)).entries[KEYS.manifest]
    manifest = Put(KEYS.manifest, encode(Manifest(revision=revision)))
    await store.commit([Expect(KEYS.manifest, found.revision), *puts, manifest])


def caller(population: Population, upstreams: int) -> ServiceDefinition:
    """The first service, which calls so many of the others."""
    calls = [
        {"service": name, "local_port": _FIRST_PORT + place} for place, name in enumerate(population.called(upstreams))
    ]
    return ServiceDefinition.model_validate(
        {"name": population.names[0], "port": 8080, "protocol": "http", "upstreams": calls}
    )


def here(population: Population, upstreams: int) -> tuple[tuple[Local, ...], Interest]:
    """What runs on the host that is measured, and what it needs to know of the mesh."""
    definition = caller(population, upstreams)
    return (Local(definition, 21000),), Interest(
        frozenset({definition.name}), frozenset(each.service for each in definition.upstreams)
    )


def everything(population: Population, interest: Interest) -> Changes:
    """The first read of that host, as the store gives it."""
    mesh = Put(KEYS.mesh, encode(PolicyRecord(revision=1, document={"kind": "mesh", "name": "mesh"})))
    puts = [Put(KEYS.manifest, encode(Manifest(revision=1))), mesh, population.policy(population.names[0], 1)]
    puts += [
        put_instance(KEYS, population.instance(name, number), None)
        for name in sorted(interest.upstreams)
        for number in range(population.instances)
    ]
    return changes(1, puts, full=True)


def changes(revision: int, puts: list[Put], *, full: bool = False) -> Changes:
    """What a watch gives of these writes."""
    return Changes(revision, tuple(Entry(put.key, put.value, revision) for put in puts), full=full)
