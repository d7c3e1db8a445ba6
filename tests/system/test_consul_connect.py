"""With Consul's CA a mesh of ours and Consul's own are one: calls both ways, and both sides' intentions hold."""

from __future__ import annotations

import asyncio
import os
import subprocess
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

from meshagent.ca import open_authority
from meshagent.state.changes import Author
from meshagent.state.roots import Vault, read_roots, retire
from meshagent.state.signing import UNSIGNED, Trust
from tests.servers import consul
from tests.servers.programs import program
from tests.system.apps import HttpApp, TcpApp, get
from tests.system.forged import Identity, Peer
from tests.system.live import KEYS, TRUST_DOMAIN, eventually, free_port, live_mesh
from tests.system.load import Calls
from tests.system.shop import until_status
from tests.system.test_rotation import reach, started

FORM = "ns/default/dc/dc1/svc"


@asynccontextmanager
async def connected():
    """A Consul with Connect on, and a mesh whose certificates are Consul's. Gives servers, trust domain and mesh."""
    context = consul.servers(settings={"connect": {"enabled": True}})
    servers = await asyncio.to_thread(context.__enter__)
    settings = {"address": servers.url}
    authority = open_authority("consul", settings, trust_domain="", data_dir=Path(), clock=lambda: datetime.now(UTC))
    try:
        trust_domain = await asyncio.to_thread(consul.wait_for_roots, servers)
        async with live_mesh("72h", servers.url, authority=authority) as mesh:
            mesh.ca_settings = "provider: consul"
            yield servers, trust_domain, mesh
    finally:
        await authority.close()
        await asyncio.to_thread(context.__exit__, None, None, None)


async def an_agent(mesh, name="vm-a"):
    agent = await mesh.agent(name, host_address="127.0.0.1")
    while free_port() < agent.inbound_port + 8:  # each of its services takes mTLS on a port of its own
        pass
    return agent


@asynccontextmanager
async def native(servers, name, port, **upstreams):
    """A service behind a proxy of Consul's own, which calls the upstreams by these local ports."""
    wanted = [{"DestinationName": to, "LocalBindPort": at} for to, at in upstreams.items()]
    sidecar = {
        "Port": free_port(),
        "Proxy": {"Upstreams": wanted},
        "Checks": [{"Name": "the service", "AliasService": name}],  # Consul's own looks only every 10 s
    }
    body = {"Name": name, "Port": port, "Connect": {"SidecarService": sidecar}}
    await asyncio.to_thread(servers.call, "PUT", "/v1/agent/service/register", body)
    environment = os.environ | {"CONSUL_HTTP_ADDR": servers.nodes[0].place}
    command = [program("consul"), "connect", "proxy", "-sidecar-for", name]
    with Path(os.devnull).open("wb") as nowhere:
        process = subprocess.Popen(command, env=environment, stdout=nowhere, stderr=nowhere)
    try:
        yield
    finally:
        process.terminate()
        process.wait()


class Intention:
    """One of Consul's."""

    def __init__(self, servers, source, destination):
        self.servers = servers
        self.body = {"SourceName": source, "DestinationName": destination, "SourceType": "consul"}
        self.place = ""

    async def say(self, action):
        method, path = ("PUT", f"/{self.place}") if self.place else ("POST", "")
        body = self.body | {"Action": action}
        made = await asyncio.to_thread(self.servers.call, method, f"/v1/connect/intentions{path}", body)
        self.place = self.place or made["ID"]

    async def forget(self):
        await asyncio.to_thread(self.servers.call, "DELETE", f"/v1/connect/intentions/{self.place}")


async def until_through(port, wait=8.0):
    """Until a connection carries a byte there and back."""
    await eventually(lambda: asyncio.run(passes(port)), wait, f"nothing gets through {port}")


async def passes(port):
    """Whether a new connection carries a byte there and back."""
    writer = None
    try:
        async with asyncio.timeout(2):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"x")
            return await reader.read(1) == b"x"
    except (OSError, TimeoutError):
        return False
    finally:
        if writer:
            writer.close()


async def status(port):
    """What a request by Consul's proxy is answered, 0 where the connection is cut."""
    try:
        return (await get(port)).status
    except (OSError, EOFError, asyncio.IncompleteReadError):
        return 0


async def until(port, wanted, wait=8.0):
    await eventually(lambda: asyncio.run(status(port)) == wanted, wait, f"not {wanted} at {port}")


async def test_http_both_ways_and_the_stricter_of_both_sides_intentions_wins():
    async with connected() as (servers, trust_domain, mesh):
        agent = await an_agent(mesh)
        payments, legacy, out, into, inside = (free_port() for _ in range(5))
        async with (
            HttpApp(payments, "payments") as app,
            HttpApp(legacy, "legacy"),
            native(servers, "legacy", legacy),
            native(servers, "oldie", free_port(), payments=into),
        ):
            await agent.up(name="payments", port=payments, protocol="http")
            upstreams = [{"service": "legacy", "local_port": out}, {"service": "payments", "local_port": inside}]
            await agent.up(name="web", port=free_port(), protocol="http", upstreams=upstreams)
            await mesh.apply({"kind": "service", "name": "legacy", "protocol": "http"})
            await mesh.applied(await mesh.intend("payments", web="allow"))

            # ours calls theirs, as Consul's intentions say
            theirs = Intention(servers, "web", "legacy")
            await theirs.say("deny")
            assert (await get(out)).status == 503
            await theirs.say("allow")
            await until_status(out, 200, 8)
            assert (await get(out)).headers["x-app"] == "legacy"

            # theirs calls ours, as our intentions say
            await until(into, 0)
            await mesh.applied(await mesh.intend("payments", web="allow", oldie="allow"))
            await until(into, 200)
            assert f"URI=spiffe://{trust_domain}/{FORM}/oldie" in (await get(into)).text
            assert (await get(inside)).status == 200
            assert f"URI=spiffe://{trust_domain}/{FORM}/web" in (await get(inside)).text

            # and as Consul's say, whoever calls
            for source, port in (("oldie", into), ("web", inside)):
                veto = Intention(servers, source, "payments")
                await veto.say("deny")
                await eventually(lambda port=port: asyncio.run(status(port)) in (0, 403), 8)
                other = inside if port == into else into
                assert await status(other) == 200
                await veto.forget()
                await until(port, 200)
            everybody = Intention(servers, "*", "payments")
            await everybody.say("deny")
            await eventually(lambda: asyncio.run(status(inside)) == 403 and asyncio.run(status(into)) == 0, 8)
            seen = len(app.seen)
            await mesh.applied(await mesh.intend("payments", anyone="allow"))
            assert (await status(inside), await status(into), len(app.seen)) == (403, 0, seen)
            await everybody.forget()
            await until(into, 200)
            await mesh.applied(await mesh.intend("payments", anyone="allow", oldie="deny"))
            await until(into, 403)
            assert (await get(inside)).status == 200


async def test_tcp_both_ways_and_a_restart_without_consul_opens_nothing_that_consul_had_denied():
    async with connected() as (servers, _, mesh):
        agent = await an_agent(mesh)
        ledger, queue, out, into, inside = (free_port() for _ in range(5))
        async with (
            TcpApp(ledger) as app,
            TcpApp(queue),
            native(servers, "queue", queue),
            native(servers, "oldie", free_port(), ledger=into),
        ):
            await agent.up(name="ledger", port=ledger, protocol="tcp")
            upstreams = [{"service": "queue", "local_port": out}, {"service": "ledger", "local_port": inside}]
            await agent.up(name="worker", port=free_port(), protocol="tcp", upstreams=upstreams)
            await mesh.applied(await mesh.intend("ledger", worker="allow", oldie="allow"))
            for port in (out, into, inside):
                await until_through(port)
            veto = Intention(servers, "oldie", "ledger")
            await veto.say("deny")
            await eventually(lambda: not asyncio.run(passes(into)), 8)
            assert await passes(inside)
            met = app.connections

            await agent.kill()
            await asyncio.to_thread(servers.nodes[0].freeze)
            await agent.start()
            servers.nodes[0].thaw()
            await until_through(inside)
            met = app.connections
            assert not await passes(into) and app.connections == met
            await veto.forget()
            await until_through(into)


async def test_away_from_consuls_ca_under_load_and_its_certificates_are_refused_afterwards():
    rates = {"http kept": 40, "http new": 10, "tcp new": 10}  # open TCP connections end once when a trust domain comes
    async with connected() as (servers, trust_domain, mesh):
        called, here = await an_agent(mesh, "vm-b"), await an_agent(mesh, "vm-a")
        payments, ledger, http, tcp = (free_port() for _ in range(4))
        async with HttpApp(payments, "payments"), TcpApp(ledger):
            await called.up(name="payments", port=payments, protocol="http")
            await called.up(name="ledger", port=ledger, protocol="tcp")
            upstreams = [{"service": "payments", "local_port": http}, {"service": "ledger", "local_port": tcp}]
            await here.up(name="web", port=free_port(), protocol="http", upstreams=upstreams)
            await mesh.intend("ledger", web="allow")
            await mesh.applied(await mesh.intend("payments", web="allow"))
            await until_status(http, 200)
            await until_through(tcp)
            leaf = await asyncio.to_thread(servers.call, "GET", "/v1/agent/connect/ca/leaf/web")
            old = Identity(mesh.directory / "old.pem")
            old.path.write_text(leaf["PrivateKeyPEM"] + leaf["CertPEM"])
            peer = Peer(called.inbound_port, old, f"web.payments.{TRUST_DOMAIN}")
            assert (await peer.get()).status == 200
            settings = mesh.directory / "other.yaml"
            mesh.ca_settings = f"provider: builtin, path: {mesh.directory}/other"
            settings.write_text(f"ca: {{{mesh.ca_settings}, ttl: 1h}}\n")
            async with Calls(http, tcp, rates) as calls:
                going = await started(here, "--to", str(settings))
                await reach(here, "activate")
                for agent in (called, here):
                    await agent.kill()
                    await agent.start()
                own = f"spiffe://{TRUST_DOMAIN}/svc/"
                for agent, service in ((called, "payments"), (called, "ledger"), (here, "web")):
                    await eventually(lambda a=agent, s=service: f"{own}{s}" in a.admin("/certs").decode(), 35)
                assert (await peer.get()).status == 200, "Consul's certificates are good until its roots are retired"
                assert not calls.failed() and calls.count() > 300
            going.terminate()  # it would wait for the end of the last of them, and of what they opened, for three days
            await going.wait()
            record = (await read_roots(mesh.store, KEYS, Trust())).rotation
            assert record.kind == "provider" and record.stage == "activate"
            vault = Vault(mesh.store, KEYS, UNSIGNED, lambda why: Author("test", datetime.now(UTC), why))
            await retire(vault, record)
            await eventually(lambda: trust_domain not in called.admin("/certs").decode(), 10)
            assert isinstance(await peer.get(), str)
            await until_status(http, 200)
