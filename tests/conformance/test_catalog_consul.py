"""What only Consul's catalog can get wrong: what a token may not see, a node that is left, what others registered."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from meshagent.catalog import open_catalog
from meshagent.catalog.base import Catalog, Offer
from meshagent.errors import LeaseLost, StoreDenied
from meshagent.model.service import Instance, ServiceDefinition
from meshagent.store.access import Access
from tests.servers import consul

pytestmark = pytest.mark.conformance

TTL = timedelta(seconds=5)
READ = 'service_prefix "" { policy = "read" } node_prefix "" { policy = "read" }'


def offer(service: str) -> Offer:
    instance = Instance(service=service, host="vm-1", id=service, address="10.0.0.1", port=21000)
    return Offer(instance, ServiceDefinition(name=service, port=8080))


@pytest.fixture
def service() -> str:
    return f"s-{secrets.token_hex(4)}"


@pytest.fixture
async def opened(tmp_path: Path) -> AsyncIterator[list[Catalog]]:
    made: list[Catalog] = []
    yield made
    for catalog in made:
        await catalog.close()


def catalog(opened: list[Catalog], servers: consul.Servers, directory: Path, rules: str = "", url: str = "") -> Catalog:
    file = None
    if servers.token:
        file = directory / f"token-{len(opened)}"
        file.touch(0o600)
        file.write_text(servers.policy_token(rules) if rules else servers.token)
    made = open_catalog(url or servers.url, Access(token_file=file), TTL)
    assert made
    opened.append(made)
    return made


async def test_what_a_token_may_not_see_is_not_taken_for_gone(
    opened: list[Catalog], guarded_consul_servers: consul.Servers, service: str, tmp_path: Path
) -> None:
    owner = catalog(opened, guarded_consul_servers, tmp_path)
    await owner.register([offer(service)], "")
    blind = catalog(opened, guarded_consul_servers, tmp_path, 'node_prefix "" { policy = "read" }')
    with pytest.raises(StoreDenied, match="may not see"):
        await blind.read(service)
    with pytest.raises(StoreDenied, match="may not see"):
        await anext(blind.watch([service]))
    seeing = catalog(opened, guarded_consul_servers, tmp_path, READ)
    assert (await seeing.read(service))[0].instances == (offer(service).instance,)
    assert (await seeing.read(f"{service}-none"))[0].instances == ()
    await owner.deregister([offer(service).instance])


async def test_a_token_of_one_service_registers_no_other_and_takes_no_other_out(
    opened: list[Catalog], guarded_consul_servers: consul.Servers, service: str, tmp_path: Path
) -> None:
    rules = "".join(f'service "{service}{end}" {{ policy = "write" }} ' for end in ("", "-sidecar-proxy")) + READ
    owner = catalog(opened, guarded_consul_servers, tmp_path, rules)
    thief = catalog(opened, guarded_consul_servers, tmp_path, rules.replace(service, f"{service}2"))
    await owner.register([offer(service)], "")
    with pytest.raises(StoreDenied):
        await thief.register([offer(service)], "")
    with pytest.raises(StoreDenied):
        await thief.deregister([offer(service).instance])
    with pytest.raises(StoreDenied):
        await thief.renew([offer(service).instance])
    assert (await owner.read(service))[0].instances == (offer(service).instance,)
    await owner.deregister([offer(service).instance])


async def test_an_agent_of_consul_that_dies_is_left_for_another_one_and_its_showing_does_not_count_twice(
    opened: list[Catalog], service: str, tmp_path: Path
) -> None:
    async with consul.three_nodes() as servers:
        first = next(node for node in servers.nodes if node is not servers.leader())
        places = [first.place, *(node.place for node in servers.nodes if node is not first)]
        mine = catalog(opened, servers, tmp_path, url=f"consul://{','.join(places)}")
        theirs = catalog(opened, servers, tmp_path, url=f"consul://{','.join(places[1:])}")
        given = offer(service)
        await mine.register([given], "")
        assert (await theirs.read(service))[0].instances == (given.instance,)
        await asyncio.to_thread(first.kill)
        async with asyncio.timeout(20):
            with pytest.raises(LeaseLost):
                await mine.renew([given.instance])
        await mine.register([given], "")
        for _ in range(10):
            await mine.renew([given.instance])
            assert (await theirs.read(service))[0].instances == (given.instance,)
            await asyncio.sleep(TTL.total_seconds() / 5)
