"""A real Prometheus watches a mesh of three hosts on Consul, while all happens that its dashboards and alarms tell of."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from contextlib import AsyncExitStack, asynccontextmanager, closing, contextmanager, suppress

import dns.asyncquery
import dns.message
import pytest
import yaml

from tests.servers import consul, prometheus
from tests.servers.programs import program
from tests.system.apps import Caller, HttpApp, Load, TcpApp, get
from tests.system.live import eventually, free_port, live_mesh
from tests.system.test_faults_ca import ca_away
from tests.system.watched import DOCS, RULES, Asked

pytestmark = pytest.mark.timeout(240)
SVID_LIFE = "20s"
EVERY = "3s"  # a page of a host whose Envoy hangs takes 2 s
NO_EDGES = {"metrics_edges": "0"}  # of vm-c, so that it has some to leave out
DIVIDED = {"v1": {"version": "1"}, "v2": {"version": "2"}}
BETA = {"name": "beta", "match": {"path_prefix": "/beta"}, "to": [{"subset": "v2"}]}


class Watched:
    """The mesh: web, evil and batch on vm-a call payments, queue and ledger on vm-b; idle is on vm-c."""

    def __init__(self, servers, mesh, hosts, ports, apps):
        self.servers, self.mesh, self.hosts, self.ports, self.apps = servers, mesh, hosts, ports, apps


@asynccontextmanager
async def watched():
    async with consul.one_node() as servers, live_mesh(ttl=SVID_LIFE, url=servers.url) as mesh:
        names = free_port()
        a = await host(mesh, "vm-a", dns=f"127.0.0.1:{names}")
        b = await host(mesh, "vm-b")
        free_port()  # the next one is for its second instance of payments
        c = await host(mesh, "vm-c", **NO_EDGES)
        async with AsyncExitStack() as stack:
            apps = [await stack.enter_async_context(HttpApp(free_port(), name)) for name in ("v1", "v2", "ledger")]
            queue = await stack.enter_async_context(TcpApp(free_port()))
            apps[1].status, apps[2].delay = 500, 6.0
            await define(mesh)
            await b.up(name="payments", port=apps[0].port, protocol="http", meta={"version": "1"})
            await b.up(name="payments", id="two", port=apps[1].port, protocol="http", meta={"version": "2"})
            await b.up(name="ledger", port=apps[2].port, protocol="http")
            await b.up(name="queue", port=queue.port, protocol="tcp")
            ports = {name: free_port() for name in ("payments", "queue", "ledger", "evil", "idle")} | {"names": names}
            await up(c, "idle", queue=ports["idle"])
            await up(a, "web", payments=ports["payments"], queue=ports["queue"])
            await up(a, "evil", payments=ports["evil"])
            await up(a, "batch", ledger=ports["ledger"])
            yield Watched(servers, mesh, (a, b, c), ports, apps)


@contextmanager
def told(**settings):
    """Settings that have no option on the command line, for agents that are started within."""
    variables = {f"MESHAGENT_{key.upper()}": value for key, value in settings.items()}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in variables:
            del os.environ[name]


async def host(mesh, name, **settings):
    with told(**settings):
        return await mesh.agent(name, host_address="127.0.0.1", metrics=f"127.0.0.1:{free_port()}")


async def up(agent, name, **upstreams):
    called = [{"service": service, "local_port": port} for service, port in upstreams.items()]
    await agent.up(name=name, port=free_port(), protocol="http", upstreams=called)


async def define(mesh):
    sources = [{"name": "web", "action": "allow"}, {"name": "web", "action": "deny", "shadow": True}]
    await mesh.apply(
        {"kind": "service", "name": "payments", "protocol": "http", "subsets": DIVIDED},
        {"kind": "route", "name": "payments", "rules": [BETA]},
        {"kind": "service", "name": "ledger", "protocol": "http", "connection_pool": {"max_requests": 1}},
        {"kind": "intention", "name": "payments", "sources": sources},
        {"kind": "intention", "name": "queue", "sources": [{"name": "web", "action": "allow"}]},
        {"kind": "intention", "name": "ledger", "sources": [{"name": "batch", "action": "allow"}]},
    )


@asynccontextmanager
async def targets_of(it):
    """The command that tells Prometheus where the hosts are, as it runs beside it. Gives its file."""
    file = it.mesh.directory / "targets.json"
    command = [sys.executable, "-m", "meshagent", "metrics", "targets", "--out", str(file), "--follow"]
    process = subprocess.Popen(
        command, env=os.environ | {"MESHAGENT_STORE": it.mesh.url}, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        await eventually(lambda: file.exists() and len(json.loads(file.read_text())) == 3, 15)
        yield file
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(10)


def configuration(file):
    """The documented one, asking more often."""
    config = yaml.safe_load((DOCS / "prometheus/targets.yaml").read_text())
    config["global"] = {"scrape_interval": EVERY, "scrape_timeout": EVERY, "evaluation_interval": EVERY}
    config["scrape_configs"][0]["file_sd_configs"][0]["files"] = [str(file)]
    return config | {"rule_files": [str(RULES)]}


@asynccontextmanager
async def traffic(it):
    """Calls of every kind, until the block ends. Gives the load of web's calls, which counts its answers."""

    async def again(call, pause):
        while True:
            with suppress(OSError, asyncio.IncompleteReadError, TimeoutError):
                await call()
            await asyncio.sleep(pause)

    async def bytes_through():
        _, writer = await asyncio.open_connection("127.0.0.1", it.ports["queue"])
        writer.write(b"some bytes")
        await writer.drain()
        writer.close()

    async def name():
        asked = dns.message.make_query("payments.mesh", "A")
        await dns.asyncquery.udp(asked, "127.0.0.1", port=it.ports["names"], timeout=2)

    calls = (
        (lambda: get(it.ports["payments"], "/beta"), 0.3),
        (lambda: get(it.ports["evil"]), 0.3),
        (lambda: Caller(it.ports["ledger"]).get(timeout=9), 0.7),
        (lambda: Caller(it.ports["ledger"]).get(timeout=9), 0.7),
        (bytes_through, 0.5),
        (name, 1.0),
    )
    async with Load(it.ports["payments"], 2, 20) as load:
        going = [asyncio.create_task(again(*each)) for each in calls]
        try:
            yield load
        finally:
            for each in going:
                each.cancel()
            await asyncio.gather(*going, return_exceptions=True)


def page(agent):
    with urllib.request.urlopen(f"http://{agent.settings['metrics']}/metrics", timeout=10) as answer:
        return answer.read()


@asynccontextmanager
async def squatted(it):
    """The Envoy of vm-c dies, and before the next one is there somebody else has a port of its."""
    with closing(socket.socket()) as squatter:
        squatter.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        async with replaced(it.hosts[2]):
            await eventually(lambda: bound(squatter, it.ports["idle"]), 2)
            squatter.listen()
        yield


def bound(squatter, port):
    """Whether the socket has the port now."""
    with suppress(OSError):
        squatter.bind(("127.0.0.1", port))
        return True
    return False


@asynccontextmanager
async def replaced(agent):
    """Another Envoy, after the one before was killed; the block runs between the two."""
    before = agent.envoy_pid()
    os.kill(before, signal.SIGKILL)
    yield
    await eventually(lambda: agent.envoy_pid() not in (0, before), 20, agent.tail())


async def hang(it, asked):
    """The Envoy of vm-c hangs while policy comes for it."""
    envoy = it.hosts[2].envoy_pid()
    os.kill(envoy, signal.SIGSTOP)
    try:
        await it.mesh.intend("idle", web="allow")
        await asked.until("MeshagentPolicyBehind")
    finally:
        os.kill(envoy, signal.SIGCONT)


async def die(it, asked):
    """The Envoy of vm-b dies twice."""
    for _ in range(2):
        async with replaced(it.hosts[1]):
            pass
    await asked.until("MeshagentEnvoyRestarts")


async def test_every_query_of_the_dashboards_and_every_alarm_tells_of_what_happens():
    async with watched() as it, targets_of(it) as file:
        with prometheus.server(configuration(file)) as watching:
            hosts = tuple(agent.settings["metrics"] for agent in it.hosts)
            asked = Asked(watching, ("payments", "web", "batch"), hosts)
            await eventually(lambda: watching.targets() == dict.fromkeys(hosts, "up"), 20)
            async with traffic(it) as load:
                checked = subprocess.run(
                    [program("promtool"), "check", "metrics"], input=page(it.hosts[0]), capture_output=True, check=False
                )
                assert (checked.returncode, checked.stdout + checked.stderr) == (0, b"")
                async with squatted(it):
                    with ca_away(it.mesh):
                        await hang(it, asked)
                        await die(it, asked)
                        await asked.until(
                            "MeshagentPolicyRejected", "MeshagentPolicySlow", "MeshagentSvidOverdue", "MeshagentSlow"
                        )
            await counts_agree(watching, load)
            it.servers.kill()
            await asked.until("MeshagentStoreLost")
            await it.hosts[2].kill()
            await asked.until("MeshagentHostSilent")
            assert not asked.untold, sorted(asked.untold)


async def counts_agree(watching, load):
    """What Prometheus counts of web's calls is what web was answered, besides its calls of the rule `beta`."""
    edge = 'side="outbound", source="web", destination="payments"'
    whole = f'sum(meshagent_requests_total{{{edge}, route="", response!="failed"}})'
    beta = f'sum(meshagent_requests_total{{{edge}, route="beta"}})'
    wanted = len([status for _, status in load.answers if isinstance(status, int)])

    def told():
        (row,) = watching.query(f"{whole} - {beta}")
        return abs(float(row["value"][1]) - wanted) <= 2  # what ended with the load was not answered to it

    await eventually(told, 12, f"{wanted} answers")
