"""Routes over hosts: a split whose subsets run on two of them, on Consul and etcd, changed from a third place under load."""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from tests.servers.either import KINDS, servers
from tests.system.apps import Caller, HttpApp
from tests.system.live import eventually, live_mesh
from tests.system.namespaces import hosts, listen_in, passed_on
from tests.system.test_two_hosts import command

pytestmark = pytest.mark.timeout(120)
INBOUND, APP, NATIVE = 21000, 8080, 8081
HOSTS = {"v1": "a", "v2": "b"}  # where each version of payments runs; web, which calls, is on a
POLICY = """\
kind: service
name: payments
protocol: http
mtls: {mtls}
subsets: {{v1: {{version: v1}}, v2: {{version: v2}}}}
---
kind: intention
name: payments
sources: [{{name: web, action: allow}}]
---
kind: route
name: payments
rules: [{{to: [{{subset: v1, weight: {v1}}}, {{subset: v2, weight: {v2}}}]}}]
"""


class Load:
    """Steady calls over kept connections. `answers`: (when, which app or what went wrong)."""

    def __init__(self, path, connections=8, rate=80.0):
        self._path, self._connections, self._rate = path, connections, rate
        self.answers = []

    async def __aenter__(self):
        self._tasks = [asyncio.create_task(self._run()) for _ in range(self._connections)]
        return self

    async def __aexit__(self, *_):
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _run(self):
        line = Caller(str(self._path))
        while True:
            began = time.monotonic()
            self.answers.append((began, await name_of(line)))
            await asyncio.sleep(self._connections / self._rate)

    def failed(self):
        return [name for _, name in self.answers if name not in {"v1", "v2", "native"}]


async def name_of(line):
    """Which app answers a call, or what went wrong."""
    try:
        answer = await line.get()
    except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
        line.close()
        return repr(error)
    return answer.headers.get("x-app") or f"{answer.status} {answer.text}"


class Placed:
    """The mesh over its hosts."""

    def __init__(self, store, mesh, made, path, apps, directory):
        self.store, self.mesh, self.made, self.path, self.apps = store, mesh, made, path, apps
        self._file = directory / "policy.yaml"

    async def apply(self, v1, v2, mtls="strict"):
        """An operator elsewhere applies the policy with these weights, and waits until all proxies have it."""
        self._file.write_text(POLICY.format(v1=v1, v2=v2, mtls=mtls))
        assert "revision" in await command(self.store.url, "policy", "apply", "-f", str(self._file), "--wait")

    async def many(self, count):
        """Which apps answered so many calls."""
        line = Caller(str(self.path))
        counts = Counter([await name_of(line) for _ in range(count)])
        line.close()
        return counts


@asynccontextmanager
async def listening(made, host, address, port, name):
    """An app of this process that listens on a host."""
    app = HttpApp(port, name)
    async with await asyncio.start_server(app._serve, sock=listen_in(made.namespace(host), address, port)):
        yield app


@asynccontextmanager
async def placed(kind, directory):
    """web on a, payments v1 on a and v2 on b, in a store of this kind."""
    async with (
        servers(kind) as store,
        live_mesh(url=store.url) as mesh,
        hosts("a", "b") as made,
        AsyncExitStack() as stack,
    ):
        (port,) = store.ports
        mesh.url = f"{kind}://{await stack.enter_async_context(passed_on(made, port))}"
        apps = {}
        for version, host in HOSTS.items():
            apps[version] = await stack.enter_async_context(listening(made, host, "127.0.0.1", APP, version))
            agent = await mesh.agent(f"vm-{host}", within=made.within(host), host_address=made.address(host))
            await agent.up(name="payments", port=APP, protocol="http", meta={"version": version})
        path = mesh.directory / "payments.sock"
        upstreams = [{"service": "payments", "local_socket": str(path)}]
        await mesh.agents[0].up(name="web", port=9, protocol="http", upstreams=upstreams)
        yield Placed(store, mesh, made, path, apps, directory)


def near(count, share, total):
    return abs(count - total * share) <= 4 * math.sqrt(total * share * (1 - share))


@pytest.mark.parametrize("kind", KINDS)
async def test_a_split_over_two_hosts_that_is_changed_from_a_third_place_fails_nothing(kind, tmp_path):
    async with placed(kind, tmp_path) as shop:
        await shop.apply(90, 10)
        counts = await shop.many(300)
        assert counts.keys() == {"v1", "v2"} and near(counts["v2"], 0.1, 300), counts
        async with Load(shop.path) as load:
            await shop.apply(20, 80)
            counts = await shop.many(300)
            assert counts.keys() == {"v1", "v2"} and near(counts["v2"], 0.8, 300), counts
            await shop.apply(0, 100)
            assert await shop.many(100) == {"v2": 100}
        assert load.failed() == []
        assert len(load.answers) > 40
        if kind == "consul":
            await in_one_split_with_what_others_registered(shop)


async def in_one_split_with_what_others_registered(shop):
    """v2 has another instance, which somebody registered in Consul without meshagent: plain text, where that is allowed."""
    address = shop.made.address("b")
    native = {"Name": "payments", "ID": "old", "Address": address, "Port": NATIVE, "Meta": {"version": "v2"}}
    async with listening(shop.made, "b", address, NATIVE, "native") as app, Load(shop.path) as load:
        shop.store.made.call("PUT", "/v1/agent/service/register", native)
        here = shop.mesh.agents[0]
        await eventually(lambda: "catalog/payments" in here.status()["problems"], 5)
        await shop.apply(50, 50)
        counts = await shop.many(100)
        assert counts.keys() == {"v1", "v2"} and not app.seen, counts
        await shop.apply(50, 50, mtls="permissive")
        counts = await shop.many(400)
        assert counts.keys() == {"v1", "v2", "native"}, counts
        assert near(counts["v1"], 0.5, 400) and near(counts["native"], 0.25, 400), counts
        assert load.failed() == []
    certified = [any("x-forwarded-client-cert" in head for head in each.seen) for each in (shop.apps["v2"], app)]
    assert certified == [True, False]
