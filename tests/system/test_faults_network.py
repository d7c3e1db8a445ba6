"""Faults of facts/security.md 3.3 between hosts: bad lines, and hosts that change behind them. Needs root."""

from __future__ import annotations

import asyncio
import resource
import signal
import socket
import time
from collections import Counter
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import pytest
import pytest_asyncio

from tests.servers.either import servers
from tests.system.apps import Load
from tests.system.cgroups import group
from tests.system.counting import counting
from tests.system.lines import line
from tests.system.live import eventually, live_mesh, passing_hosts
from tests.system.namespaces import hosts, passed_on
from tests.system.test_faults_partition import endpoints
from tests.system.test_two_hosts import APP, app
from tests.system.upgrades import VERSION, another_envoy, another_version

SLOW_SECONDS = 14.0  # more than a lease lives
pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]


class Wide:
    """payments on other hosts than web, which may call it, and orders, which may not."""

    def __init__(self, mesh, way, url):
        self.mesh, self.way, self.url = mesh, way, url
        self.here, *self.there = mesh.agents

    def socket(self, name):
        return str(self.mesh.directory / f"{name}.sock")

    @asynccontextmanager
    async def calls(self):
        """web calls, and orders tries all the while. Nothing may fail, and nothing be let through."""
        async with Load(self.socket("web"), 4, 40) as load, Load(self.socket("orders"), 1, 10) as denied:
            yield load
        assert load.failed() == [], (Counter(load.failed()), set(load.reasons))
        assert len(load.answers) > 60
        assert 403 in {status for _, status in denied.answers}
        assert not [status for _, status in denied.answers if isinstance(status, int) and status < 300]

    async def listed(self):
        """The hosts of payments that callers are sent to, as the store has them that is not far away from here."""
        return await passing_hosts(self.url, self.mesh.access, "payments")

    async def all_serve(self):
        """Wait until web knows every instance."""
        await eventually(lambda: list(endpoints(self.here).values()) == ["healthy"] * len(self.there), 15)


@asynccontextmanager
async def wide(made, kind, *callees):
    """web and orders on a, payments on the callees, the store on s."""
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(servers(kind))
        way = await stack.enter_async_context(counting(store.ports[0]))
        mesh = await stack.enter_async_context(live_mesh(url=store.url))
        mesh.url = f"{kind}://{await stack.enter_async_context(passed_on(made, way.port, 's'))}"
        for name in ("a", *callees):
            await mesh.agent(f"{kind}-{name}", within=made.within(name), host_address=made.address(name))
        it = Wide(mesh, way, store.url)
        for name in ("web", "orders"):
            upstreams = [{"service": "payments", "local_socket": it.socket(name)}]
            await it.here.up(name=name, port=APP, protocol="http", upstreams=upstreams)
        for agent in it.there:
            await agent.up(name="payments", port=APP, protocol="http")
        await mesh.applied(await mesh.intend("payments", web="allow", orders="deny"))
        await it.all_serve()
        yield it


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def network():
    """Hosts for agents, with payments' app on b and c, and one for stores."""
    async with hosts("a", "b", "c", "s") as made, app(made, "b", "b", APP), app(made, "c", "c", APP):
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def mesh(network):
    """A mesh in etcd on all hosts; each test leaves it as it was."""
    async with wide(network, "etcd", "b", "c") as it:
        yield it


async def kept_in(it, until):
    """How often some host of payments was missing in the catalog, of how many looks, until then."""
    seen = Counter()
    while time.monotonic() < until:
        seen[len(await it.listed()) == len(it.there)] += 1
        await asyncio.sleep(0.25)
    return seen


async def test_fault_r5_a_store_that_is_2_s_away_and_loses_a_fifth_costs_no_request_no_place_and_is_not_stormed(
    network, mesh
):
    async with wide(network, "consul", "b") as other, mesh.calls(), other.calls():
        both = (mesh, other)
        async with line(network, "s", delay=1.0, loss=0.2):
            began = time.monotonic()
            looking = [asyncio.create_task(kept_in(it, began + SLOW_SECONDS)) for it in both]
            await asyncio.sleep(2)
            revisions = [await it.mesh.intend("payments", web="allow", orders="deny", batch="allow") for it in both]
            seen = await asyncio.gather(*looking)
        asked = [it.way.most(4.0, since=began) / 4 for it in both]
        for it, revision, looks, rate in zip(both, revisions, seen, asked, strict=True):
            await it.mesh.applied(revision)
            assert looks[False] == 0, looks
            assert looks[True] > 10
            assert rate < 20
            assert [agent.events("lease_lost") for agent in it.there] == [[]] * len(it.there)


async def test_fault_r11_agents_of_another_version_take_over_under_load_and_hand_back(network, mesh):
    version = another_version(mesh.mesh.directory)
    async with line(network, "s", delay=0.1), mesh.calls():  # so that all is not known at once
        for newer in (True, False):
            for agent in (mesh.here, mesh.there[0]):
                before, ignored = agent.envoy_pid(), len(agent.events("snapshot_ignored"))
                await agent.kill()
                own = network.within(agent.name[-1])
                agent.within = (*own, "env", "-C", str(version)) if newer else own
                await agent.start()
                assert agent.envoy_pid() == before
                assert (agent.status()["agent_version"] == VERSION) == newer
                assert len(agent.events("snapshot_ignored")) == ignored + 1
            await mesh.mesh.applied(await mesh.mesh.intend("payments", web="allow", orders="deny", batch="allow"))


async def test_fault_r12_another_envoy_takes_over_on_every_host_and_no_request_fails_there_or_elsewhere(mesh):
    """On the callee's hosts and on the caller's own: kept connections and, with every request, a new one."""
    binary = another_envoy(mesh.mesh.directory)
    async with mesh.calls(), Load(mesh.socket("web"), 4, 60, fresh=True) as fresh:
        for agent in (mesh.here, mesh.there[0]):
            before, there = agent.envoy_pid(), await mesh.listed()
            await agent.kill()
            agent.settings["envoy_path"] = binary
            await agent.start()
            await eventually(lambda agent=agent: agent.events("envoy_retired"), 40)
            assert agent.envoy_pid() not in {0, before}
            assert Path(f"/proc/{agent.envoy_pid()}/exe").readlink() == binary
            assert await mesh.listed() == there
        await mesh.all_serve()
    assert fresh.failed() == [] and len(fresh.answers) > 100, Counter(fresh.failed())


async def test_fault_r29_all_instances_are_restarted_one_by_one_behind_a_line_of_100_ms_that_loses_packets(
    network, mesh
):
    async with line(network, "a", delay=0.05, loss=0.01), mesh.calls():
        for agent in mesh.there:
            before = agent.envoy_pid()
            assert await agent.stop() == 0
            await agent.start()
            await mesh.all_serve()
            assert agent.envoy_pid() not in {0, before}


async def test_fault_r33_an_agent_without_files_or_threads_refuses_new_work_and_goes_on_with_the_old(mesh):
    agent = mesh.there[0]
    pid, envoy = agent.process.pid, agent.envoy_pid()
    said = agent.log.stat().st_size
    async with mesh.calls():
        with group("pids", pid) as limits, few_files(pid):
            (limits / "pids.max").write_text("1")
            revision = await mesh.mesh.intend("payments", web="allow", orders="deny", report="allow")
            with pytest.raises(TimeoutError):
                await asyncio.to_thread(asked, agent)
            await asyncio.sleep(2)
            assert agent.events("snapshot_not_written")
            lines = [line for line in agent.log.read_bytes()[said:].splitlines() if b"Too many open files" in line]
            assert 1 < len(lines) < 20
        await mesh.mesh.applied(revision)
    assert (agent.process.returncode, agent.process.pid, agent.envoy_pid()) == (None, pid, envoy)


async def test_fault_r33_an_agent_that_is_killed_for_its_memory_takes_no_envoy_along_and_comes_back(mesh):
    agent = mesh.there[0]
    envoy = agent.envoy_pid()
    async with mesh.calls():
        with group("memory", agent.process.pid) as limits:
            (limits / "memory.limit_in_bytes").write_text(str(64 << 10))  # of what it takes from now on
            for number in range(100):
                await mesh.mesh.intend("payments", web="allow", orders="deny", **{f"source-{number}": "allow"})
                if agent.process.returncode is not None:
                    break
                await asyncio.sleep(0.1)
            assert agent.process.returncode == -signal.SIGKILL
        await agent.start()
        assert agent.envoy_pid() == envoy
        await mesh.all_serve()


@contextmanager
def few_files(pid):
    """The process may open no more files than it has open."""
    soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    most = max(int(each.name) for each in Path(f"/proc/{pid}/fd").iterdir())
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (most + 1, hard))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))


def asked(agent):
    """A call of the agent's API, on as many connections as there may be free places for files below its limit."""
    with ExitStack() as stack:
        for _ in range(40):
            caller = stack.enter_context(socket.socket(socket.AF_UNIX))
            caller.settimeout(1)
            caller.connect(agent.api.removeprefix("unix://"))
        caller.sendall(b"GET /v1/status HTTP/1.1\r\nhost: agent\r\n\r\n")
        return caller.recv(64)
