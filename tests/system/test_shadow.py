"""From a mesh that allows everything to one that denies, by way of shadow: nothing that is used is lost on the way."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import AsyncExitStack, asynccontextmanager
from types import SimpleNamespace

import grpc
import pytest
import pytest_asyncio
from click.testing import CliRunner

from meshagent.cli.main import cli
from tests.system.apps import Caller, HttpApp, TcpApp, get, raw
from tests.system.clock import Clock
from tests.system.live import eventually, free_port, live_mesh

pytestmark = pytest.mark.asyncio(loop_scope="module")
MESH = {"kind": "mesh", "name": "mesh"}
# Who calls what: everything that web does, one path of batch, and nothing that nightly could do.
UPSTREAMS = {"web": ("payments", "clock", "db"), "batch": ("payments", "db"), "nightly": ("payments", "clock", "db")}
USED = {("web", "payments"), ("web", "clock"), ("web", "db"), ("batch", "payments")}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def there():
    """payments (http), clock (grpc) and db (tcp) on vm-2, their callers on vm-1, in a mesh that allows everything."""
    async with AsyncExitStack() as stack:
        mesh = await stack.enter_async_context(live_mesh())
        callers, called = await mesh.agent("vm-1"), await mesh.agent("vm-2")
        apps = {
            "payments": (HttpApp(free_port()), "http"),
            "clock": (Clock(), "grpc"),
            "db": (TcpApp(free_port()), "tcp"),
        }
        for name, (app, protocol) in apps.items():
            await stack.enter_async_context(app)
            await called.up(name=name, port=app.port, protocol=protocol)
        ports = {(source, name): free_port() for source, names in UPSTREAMS.items() for name in names}
        for source, names in UPSTREAMS.items():
            local = [{"service": name, "local_port": ports[source, name]} for name in names]
            await callers.up(name=source, port=free_port(), protocol="http", upstreams=local)
        yield SimpleNamespace(mesh=mesh, ports=ports, apps=apps)


async def begin(there, **mesh):
    """Everything is allowed and nothing is said."""
    nothing = ({"kind": "intention", "name": name, "sources": []} for name in there.apps)
    await there.mesh.applied(await there.mesh.apply(MESH | {"default_action": "allow"} | mesh, *nothing))


class Requests:
    """What is used, over and over, on connections that stay; `lost` is what did not come back as it should."""

    def __init__(self, ports):
        self.ports = ports
        self.rounds = 0
        self.lost = []
        self._web, self._batch = Caller(ports["web", "payments"]), Caller(ports["batch", "payments"])

    async def run(self):
        """For ever."""
        async with grpc.aio.insecure_channel(f"127.0.0.1:{self.ports['web', 'clock']}") as channel:
            echo = channel.unary_unary("/shop.Clock/Echo")
            while True:
                self._note((await self._web.get(f"/orders/{1000 + self.rounds}")).status, 200)
                self._note((await self._web.get("/orders", "POST")).status, 200)
                self._note((await self._batch.get("/reports")).status, 200)
                self._note(await echo(b"hello", timeout=5), b"hello")
                self.rounds += 1
                await asyncio.sleep(0.02)

    def _note(self, came, wanted):
        if came != wanted:
            self.lost.append(came)

    async def more(self, rounds=10):
        """Wait for so many rounds more, all well."""
        wanted = self.rounds + rounds
        await eventually(lambda: self.rounds >= wanted or self.lost, 30, f"{self.rounds} rounds")
        assert not self.lost


@asynccontextmanager
async def lasting(ports):
    """A stream and a connection that are open for as long. Gives a function that waits until both have carried something."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{ports['web', 'clock']}") as channel:
        ticks = channel.unary_stream("/shop.Clock/Ticks")(b"go")
        reader, writer = await asyncio.open_connection("127.0.0.1", ports["web", "db"])

        async def carry():
            assert await asyncio.wait_for(ticks.read(), 5) == b"tick"
            writer.write(b"hello")
            assert await asyncio.wait_for(reader.readexactly(5), 5) == b"hello"

        await carry()
        yield carry
        writer.close()


async def command(shop, *words, stdin=""):
    """(stdout, stderr) of one `meshagent` command of an operator, which must end well."""
    result = await asyncio.to_thread(CliRunner().invoke, cli, [*words, "--store", shop.mesh.url], input=stdin)
    assert result.exit_code == 0, result.output
    return result.stdout, result.stderr


async def suggested(shop, *words):
    """The pairs that are suggested."""
    told = json.loads((await command(shop, "intention", "suggest", *words, "--output", "json"))[0])
    return {(each["source"], each["destination"]) for each in told["suggestions"]}


async def until_suggested(shop, wanted, *words):
    """Wait until exactly these pairs are suggested: hosts look every 5 s."""
    end = time.monotonic() + 30
    while (found := await suggested(shop, *words)) != wanted:
        assert found <= wanted and time.monotonic() < end, found
        await asyncio.sleep(0.3)


async def logged(shop, path):
    """What `suggest --l7` says of web, once it has this path."""
    end = time.monotonic() + 30
    while path not in (told := await command(shop, "intention", "suggest", "--l7", "--service", "web"))[0]:
        assert time.monotonic() < end, told
        await asyncio.sleep(0.3)
    return told


async def refused(port, path="/", method="GET"):
    """Whether the destination's proxy says that no intention lets the request through."""
    answer = await get(port, path, method)
    return answer.status == 403 and answer.headers["x-mesh-refused"] == "intention"


async def test_a_shadow_deny_counts_logs_and_refuses_nothing_and_an_enforced_one_stays(there):
    row = {"kind": "intention", "name": "payments"}
    denied = {"name": "batch", "action": "deny"}
    shadow = {"name": "*", "permissions": [{"action": "allow", "http": {"methods": ["GET"]}}], "shadow": True}
    over = {"name": "batch", "action": "allow", "shadow": True}
    await begin(there, access_log={"only": "none"})
    await there.mesh.applied(await there.mesh.apply(row | {"sources": [denied, over, shadow]}))
    before = shadow_denied(there)
    for method in ("GET", "POST"):
        assert (await get(there.ports["web", "payments"], "/pay", method)).status == 200
    assert await refused(there.ports["batch", "payments"])
    log = there.mesh.agents[1].directory / "data" / "access.log"
    await eventually(lambda: lines(log, "/pay"), 15)  # Envoy writes them a moment after the answer
    told = [(each["method"], each["shadow"], each["status"]) for each in lines(log, "/pay")]
    assert told == [("POST", "denied", 200)]
    assert shadow_denied(there) - before == 1
    for percent, path in ((0, "/unlogged"), (100, "/logged")):
        there.mesh.agents[1].admin(f"/runtime_modify?meshagent.shadow_log_percent={percent}", "POST")
        assert (await get(there.ports["web", "payments"], path, "POST")).status == 200
    await eventually(lambda: lines(log, "/logged"), 15)
    assert not lines(log, "/unlogged")


def shadow_denied(there):
    """How many requests to payments shadow would have refused, as Envoy counted them."""
    rules = there.mesh.agents[1].call("GET", "/v1/traffic")["rules"]
    return sum(each["shadow_denied"] for each in rules if each["service"] == "payments")


def lines(log, path):
    """The lines of an access log that are about this path."""
    return [found for line in log.read_text().splitlines() if (found := json.loads(line)).get("path") == path]


async def test_shadow_then_suggest_then_deny_loses_nothing_that_is_used_and_refuses_all_else(there):
    await begin(there)
    async with asyncio.TaskGroup() as group:
        requests = Requests(there.ports)
        running = group.create_task(requests.run())
        async with lasting(there.ports) as carry:
            await requests.more()
            await there.mesh.applied(await there.mesh.apply(MESH | {"default_action": "shadow-deny"}))
            await until_suggested(there, USED)  # takes seconds: what a change cuts is gone by then
            await carry()
            await requests.more()
        async with lasting(there.ports):
            pass  # a stream is judged when it begins, and logged when it ends
        documents, said = await logged(there, "/shop.Clock/Ticks")
        assert "seen by vm-1" in documents and "seen by vm-2" in documents
        assert "path_regex: /orders/[^/]+" in documents and "in shadow: web gains db: allow" in said
        assert "no request of it was logged" not in said
        await command(there, "policy", "apply", "-f", "-", stdin=documents)
        await until_suggested(there, {("batch", "payments")})
        documents, _ = await command(there, "intention", "suggest", "--l7")
        await command(there, "policy", "apply", "-f", "-", stdin=documents)
        denying = json.dumps(MESH | {"default_action": "deny"})
        planned, _ = await command(there, "policy", "plan", "-f", "-", stdin=denying)
        assert "loses" in planned and "what was seen" not in planned
        await command(there, "policy", "apply", "-f", "-", "--wait", stdin=denying)
        await requests.more(30)
        assert not await suggested(there, "--l7")
        await everything_else_is_refused(there)
        async with lasting(there.ports):
            await requests.more()
        running.cancel()


async def everything_else_is_refused(there):
    ports, (database, _) = there.ports, there.apps["db"]
    assert await refused(ports["web", "payments"], "/admin")
    assert await refused(ports["web", "payments"], "/orders/1000", "DELETE")
    assert await refused(ports["web", "payments"], "/orders/1000/lines")
    assert await refused(ports["batch", "payments"], "/orders/1000")
    assert await refused(ports["nightly", "payments"])
    taken = database.connections
    for source in ("batch", "nightly"):
        assert await raw(ports[source, "db"], b"hello", 0.5) == b""
    assert database.connections == taken
    async with grpc.aio.insecure_channel(f"127.0.0.1:{ports['nightly', 'clock']}") as channel:
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await channel.unary_unary("/shop.Clock/Echo")(b"hello", timeout=5)
        assert refusal.value.code() == grpc.StatusCode.PERMISSION_DENIED
