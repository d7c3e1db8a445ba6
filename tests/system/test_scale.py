"""Faults of size and rate (security facts, 3.3): much policy, and much change. A denied pair is probed all the while."""

from __future__ import annotations

import asyncio
import time

import pytest

from bench.population import KEYS, Population, populate, registering
from bench.scale import memory
from meshagent.model.service import Instance
from meshagent.state.records import Manifest, PolicyRecord, decode, encode
from meshagent.store import open_store
from meshagent.store.base import Put
from tests.servers.either import KINDS, store_url
from tests.system.apps import Caller, Load
from tests.system.live import eventually, free_port
from tests.system.shop import RATE, shop

STORMY = "stormy"
FLIPS = 40
STORM_SECONDS = 3.0
STORM_RATE = 1_000
EVERY = ("sqlite", *KINDS)
# Consul answers each blocking query some ten times a second at most, so an agent sees less than what it takes for a storm.
MOST_PUSHES = {"sqlite": 10, "etcd": 10, "consul": 25}
# What one writer gets done of it, changes a second.
LEAST_RATE = {"sqlite": STORM_RATE / 2, "etcd": STORM_RATE / 10, "consul": STORM_RATE / 20}


@pytest.mark.parametrize("kind", EVERY)
async def test_fault_r23_ten_thousand_intentions_of_a_thousand_services_are_applied_in_2_s_and_one_change_in_200_ms(
    kind,
):
    async with store_url(kind) as url, shop(url=url) as it:
        async with Load(it.web, 2, RATE / 4) as load:
            began = time.monotonic()
            revision = await asyncio.to_thread(_filled, it.mesh.url)
            written = time.monotonic()
            await eventually(lambda: it.agent.status()["applied_revision"] >= revision, 2, it.agent.tail())
            print(f"written in {written - began:.2f} s, applied {time.monotonic() - written:.3f} s later")
            assert load.failed() == [] and load.answers
        times = await _flips(it)
        print(f"one change: p50 {1000 * times[FLIPS // 2]:.1f} ms, max {1000 * times[-1]:.1f} ms")
        assert times[-1] < 0.2
        assert memory(it.agent.process.pid) < 200
        # Envoy hears of the services of this host and of nobody else's.
        held = it.agent.admin("/config_dump?include_eds")
        assert b"out/web/payments" in held and b"s00042" not in held


@pytest.mark.parametrize("kind", EVERY)
async def test_fault_r31_a_storm_of_a_thousand_changes_a_second_becomes_ten_pushes_a_second_and_fails_nothing(kind):
    async with store_url(kind) as url, shop(url=url) as it:
        calls = [{"service": STORMY, "local_port": free_port()}]
        await it.agent.up(name="batch", port=free_port(), protocol="http", upstreams=calls)
        async with Load(it.web, 4, RATE / 2) as load:
            before, began = len(it.agent.events("world_served")), time.monotonic()
            async with registering(it.mesh.store, url) as register:
                made, revision, port = await _storm(it, register)
            took = time.monotonic() - began
            await eventually(lambda: it.agent.status()["applied_revision"] >= revision, 2, it.agent.tail())
            await eventually(lambda: f"10.0.0.9:{port}::".encode() in it.agent.admin("/clusters"), 2, it.agent.tail())
            pushes = len(it.agent.events("world_served")) - before
            print(f"{made / took:.0f} changes/s for {took:.1f} s became {pushes / took:.1f} pushes/s")
            assert made / took > LEAST_RATE[kind]
            assert pushes <= MOST_PUSHES[kind] * took + 20  # twenty changes make a storm
            assert load.failed() == [] and len(load.answers) > 100
        # Then one change is served at once again.
        assert (await _flips(it))[FLIPS // 2] < 0.05


def _filled(url):
    """Write the mesh; gives the revision. Not in the loop of those whose answers are timed."""

    async def write():
        store = await open_store(url)
        try:
            return await populate(store, Population(1_000), url)
        finally:
            await store.close()

    return asyncio.run(write())


async def _flips(it):
    """Seconds from a change of policy to the first answer that it decides, in order of size."""
    caller, times = Caller(it.web), []
    for number in range(FLIPS):
        action, wanted = ("deny", 403) if number % 2 == 0 else ("allow", 200)
        await it.mesh.intend("payments", web=action, orders="deny")
        began = time.monotonic()
        while (await caller.get()).status != wanted:
            await asyncio.sleep(0)
        times.append(time.monotonic() - began)
        await asyncio.sleep(0.03)
    caller.close()
    return sorted(times)


async def _storm(it, register):
    """Changes of what this host needs, one a commit: nine endpoints, then an intention, and so on.

    Gives how many, the last revision of the policy, and the last port.
    """
    found = (await it.mesh.store.read(KEYS.manifest)).entries[KEYS.manifest]
    revision, port, made = decode(Manifest, found.value).revision, 20000, 0
    began = time.monotonic()
    while (elapsed := time.monotonic() - began) < STORM_SECONDS:
        if made > elapsed * STORM_RATE:
            await asyncio.sleep(0.001)
            continue
        made += 1
        if made % 10:
            port = 20000 + made % 5000
            instance = Instance(service=STORMY, host="vm-9", id=STORMY, address="10.0.0.9", port=port, protocol="http")
            await register([instance])
        else:
            revision += 1
            sources = [
                {"name": name, "action": action}
                for name, action in (
                    ("web", "allow"),
                    ("orders", "deny"),
                    ("batch", ("allow", "deny")[made % 20 // 10]),
                )
            ]
            document = {"kind": "intention", "name": "payments", "sources": sources}
            record = PolicyRecord(revision=revision, document=document)
            await it.mesh.store.commit(
                [
                    Put(KEYS.document("intention", "payments"), encode(record)),
                    Put(KEYS.manifest, encode(Manifest(revision=revision))),
                ]
            )
    return made, revision, port
