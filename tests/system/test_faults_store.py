"""Faults of facts/security.md 3.3 in which the store goes away, goes back or moves: real Consul and etcd, under load.

Shortened here; with MESHAGENT_SOAK=1 the outages last as long as the table says, with 0.1 a tenth of it (`make soak`).
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from meshagent.errors import MeshError
from tests.servers.either import KINDS, servers
from tests.system.apps import HttpApp, Load, get
from tests.system.live import KEYS, eventually, free_port
from tests.system.shop import RATE, lasting, shop

DOWN_SECONDS = lasting(600, 5)
PARTITION_SECONDS = lasting(300, 20)
LEADER_LOSSES = lasting(10, 3)
TICKS = os.sysconf("SC_CLK_TCK")
pytestmark = [pytest.mark.timeout(lasting(900, 180))]


def cpu_seconds(pid):
    """CPU time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


async def changed(it, **sources):
    """Change payments' intentions from another place, as soon as the store takes it."""
    until = time.monotonic() + 10
    while True:
        try:
            return await it.mesh.intend("payments", **sources)
        except MeshError:
            assert time.monotonic() < until
            await asyncio.sleep(0.1)


@pytest.mark.parametrize("kind", KINDS)
async def test_fault_r1_a_store_that_is_down_costs_no_request_and_is_followed_again_when_it_is_back(kind):
    async with servers(kind) as store, shop(url=store.url) as it, Load(it.web, 4, RATE) as load:
        await store.kill()
        await eventually(lambda: it.agent.status()["stale_since"], 15)
        before, began = cpu_seconds(it.agent.process.pid), time.monotonic()
        await asyncio.sleep(DOWN_SECONDS)
        used = (cpu_seconds(it.agent.process.pid) - before) / (time.monotonic() - began)
        await store.start()
        back = time.monotonic()
        await it.mesh.applied(await changed(it, web="allow", orders="deny", batch="allow"))
        assert time.monotonic() - back < 5.0
        await eventually(lambda: it.agent.status()["store_ok"], 5)
        assert used < 0.05, f"{used:.1%} of a core while the store is away"
        assert load.failed() == []


@pytest.mark.parametrize("kind", KINDS)
async def test_fault_r1_a_whole_cluster_of_three_is_restarted_under_load_and_costs_no_request(kind):
    async with servers(kind, 3) as store, shop(url=store.url) as it, Load(it.web, 4, RATE) as load:
        await store.kill()
        await asyncio.sleep(1)
        await store.start()
        await it.mesh.applied(await changed(it, web="allow", orders="deny", batch="allow"))
        assert load.failed() == []


async def test_fault_r27_two_hosts_of_one_name_do_not_flap_and_the_one_that_stays_is_registered_again():
    async with servers("etcd") as store, shop(url=store.url) as it, Load(it.web, 4, RATE) as load:
        key = KEYS.instance("payments", "vm-1", "payments")
        double = await it.mesh.agent("double", host_name="vm-1")
        port = free_port()
        async with HttpApp(port, "double"):
            await double.up(name="payments", port=port, protocol="http")
            seen = set()
            for _ in range(40):
                seen.add((await it.mesh.store.read(key)).entries[key].revision)
                await asyncio.sleep(0.1)
            assert len(seen) <= 2, "they take it from each other"
            assert await double.stop() == 0
        gone = time.monotonic()
        while key not in (await it.mesh.store.read(key)).entries:
            assert time.monotonic() - gone < 3.0
            await asyncio.sleep(0.05)
        assert load.failed() == []


@pytest.mark.parametrize("kind", KINDS)
async def test_fault_r3_a_store_put_back_to_an_older_state_takes_nothing_back(kind, tmp_path):
    async with servers(kind) as store, shop(url=store.url) as it, Load(it.web, 4, RATE) as load:
        batch = free_port()
        upstreams = [{"service": "payments", "local_port": batch}]
        await it.agent.up(name="batch", port=free_port(), protocol="http", upstreams=upstreams)
        await it.mesh.applied(await it.mesh.intend("payments", web="allow", orders="deny", batch="allow"))
        await store.kill()
        for node in store.nodes:
            shutil.copytree(node.directory / "data", tmp_path / node.name)
        await store.start()
        revision = await changed(it, web="allow", orders="deny", batch="deny")
        await it.mesh.applied(revision)
        assert (await get(batch)).status == 403
        await store.kill()
        for node in store.nodes:
            shutil.rmtree(node.directory / "data")
            shutil.copytree(tmp_path / node.name, node.directory / "data")
        await store.start()
        await eventually(lambda: KEYS.manifest in it.agent.status()["problems"], 40)
        assert "went back" in it.agent.status()["problems"][KEYS.manifest]
        assert (await get(batch)).status == 403
        newest = 0
        while newest <= revision:
            newest = await changed(it, web="allow", orders="deny", batch="deny", **{f"more{newest}": "allow"})
        await it.mesh.applied(newest)
        assert KEYS.manifest not in it.agent.status()["problems"]
        assert (await get(batch)).status == 403
        assert load.failed() == []


@pytest.mark.parametrize("kind", KINDS)
async def test_fault_r4_three_nodes_that_lose_their_leader_again_and_again_lose_no_change_and_no_request(kind):
    async with servers(kind, 3) as store, shop(url=store.url) as it, Load(it.web, 4, RATE) as load:
        for _ in range(LEADER_LOSSES):
            leader = await asyncio.to_thread(store.leader)
            leader.kill()
            lost = time.monotonic()
            await it.mesh.applied(await changed(it, web="allow", orders="deny", batch="allow"))
            await it.mesh.applied(await changed(it, web="allow", orders="deny"))
            assert time.monotonic() - lost < 10.0
            await store.start()
        assert load.failed() == []


@contextmanager
def cut_off(ports):
    """Packets to and from these ports are dropped without a word, on connections that are open too."""
    table = f"inet meshagent_test_{os.getpid()}"
    chosen = ", ".join(map(str, ports))
    rules = (
        f"table {table} {{ chain in {{ type filter hook input priority 0; "
        f"tcp dport {{ {chosen} }} drop; tcp sport {{ {chosen} }} drop; }}; }}\n"
    )
    subprocess.run(["nft", "-f", "-"], input=rules, text=True, check=True)
    try:
        yield
    finally:
        subprocess.run(["nft", "delete", "table", *table.split()], check=True)


@pytest.mark.parametrize("kind", KINDS)
async def test_fault_r6_a_partition_without_a_word_is_noticed_and_healed(kind):
    async with servers(kind) as store, shop(url=store.url) as it, Load(it.web, 4, RATE) as load:
        began = time.monotonic()
        with cut_off(store.ports):
            await eventually(lambda: it.agent.status()["stale_since"], 30)
            await asyncio.sleep(max(0.0, PARTITION_SECONDS - (time.monotonic() - began)))
        healed = time.monotonic()
        await eventually(lambda: it.agent.status()["store_ok"], 10)
        await it.mesh.applied(await changed(it, web="allow", orders="deny", batch="allow"))
        assert time.monotonic() - healed < 10.0
        assert load.failed() == []


async def test_fault_r35_etcd_compacts_while_the_agent_is_away_and_nothing_is_missed():
    async with servers("etcd") as store, shop(url=store.url) as it, Load(it.web, 4, RATE) as load:
        batch = free_port()
        upstreams = [{"service": "payments", "local_port": batch}]
        await it.agent.up(name="batch", port=free_port(), protocol="http", upstreams=upstreams)
        await it.mesh.applied(await it.mesh.intend("payments", web="allow", orders="deny", batch="allow"))
        assert (await get(batch)).status == 200
        os.kill(it.agent.process.pid, signal.SIGSTOP)
        revision = await it.mesh.intend("payments", web="allow", orders="deny", batch="deny")
        newest = (await it.mesh.store.read(KEYS.manifest)).revision
        await asyncio.to_thread(store.made.ctl, "compaction", str(newest), "--physical")
        await asyncio.sleep(4)
        os.kill(it.agent.process.pid, signal.SIGCONT)
        await it.mesh.applied(revision)
        assert (await get(batch)).status == 403
        assert load.failed() == []


async def forget_leases(store):
    """The store forgets every lease, as an operator or a fault might have it."""
    if store.kind == "consul":
        for session in await asyncio.to_thread(store.made.call, "GET", "/v1/session/list"):
            await asyncio.to_thread(store.made.call, "PUT", f"/v1/session/destroy/{session['ID']}")
        return
    for line in (await asyncio.to_thread(store.made.ctl, "lease", "list")).splitlines()[1:]:
        await asyncio.to_thread(store.made.ctl, "lease", "revoke", line.strip())


@pytest.mark.parametrize("kind", KINDS)
async def test_fault_r36_a_lease_that_the_store_forgot_is_made_again_within_two_seconds(kind):
    async with servers(kind) as store, shop(url=store.url) as it, Load(it.web, 4, RATE) as load:
        report = KEYS.report("vm-1")
        assert report in (await it.mesh.store.read(report)).entries
        await forget_leases(store)
        forgotten = time.monotonic()
        while report in (await it.mesh.store.read(report)).entries and time.monotonic() < forgotten + 1:
            await asyncio.sleep(0.02)
        while report not in (await it.mesh.store.read(report)).entries:
            assert time.monotonic() - forgotten < 2.0
            await asyncio.sleep(0.02)
        assert time.monotonic() - forgotten < 2.0
        assert load.failed() == []


@pytest.mark.parametrize("kind", KINDS)
async def test_fault_r37_with_one_of_three_endpoints_dead_the_next_one_is_used(kind):
    async with servers(kind, 3) as store:
        followers = [node for node in store.nodes if node is not store.leader()]
        await asyncio.to_thread(followers[0].kill)
        first = [followers[0], *(node for node in store.nodes if node is not followers[0])]
        async with shop(url=store.url_of(*first)) as it, Load(it.web, 4, RATE) as load:
            gone = time.monotonic()
            await asyncio.to_thread(followers[0].start, store.nodes)
            await asyncio.to_thread(followers[1].kill)
            await it.mesh.applied(await changed(it, web="allow", orders="deny", batch="allow"))
            assert time.monotonic() - gone < 10.0
            assert load.failed() == []


@pytest.mark.parametrize("kind", KINDS)
async def test_fault_r2_a_store_that_lost_its_data_changes_nothing_and_gets_its_instances_back(kind):
    async with servers(kind) as store, shop(url=store.url) as it, Load(it.web, 4, RATE) as load:
        backup = f"sqlite://{it.mesh.directory}/backup.db"
        await meshagent("store", "copy", store.url, backup)
        revision = it.agent.status()["revision"]
        await store.kill()
        for node in store.nodes:
            shutil.rmtree(node.directory / "data")
        await store.start()
        back = time.monotonic()
        await eventually(lambda: KEYS.manifest in it.agent.status()["problems"], 15)
        await eventually(lambda: {"payments", "web", "orders"} <= set(offered(store.url)), 15)
        assert time.monotonic() - back < 20
        assert it.agent.status()["revision"] == revision
        assert (await get(it.orders)).status == 403
        await meshagent("store", "copy", backup, store.url)
        await eventually(lambda: KEYS.manifest not in it.agent.status()["problems"], 10)
        await it.mesh.applied(await changed(it, web="allow", orders="deny", batch="allow"))
        assert load.failed() == []


async def meshagent(*words):
    """One command of an operator."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "meshagent", *words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    said = (await process.communicate())[0].decode()
    assert process.returncode == 0, said
    return said


def offered(url):
    """The services that the catalog has, as a person lists them; nothing while there is no mesh."""
    words = (sys.executable, "-m", "meshagent", "services", "--all", "--store", url, "--output", "json")
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return [each["service"] for each in json.loads(done.stdout)] if done.returncode == 0 else []
