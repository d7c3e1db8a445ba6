"""Attack test 22: two trust domains in one bundle. Each one's roots vouch for its own SPIFFE IDs and for no others."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from cryptography.hazmat.primitives import serialization

from meshagent.model.identity import TrustBundle
from meshagent.state.foundation import add_roots
from tests.system.apps import HttpApp, TcpApp, get
from tests.system.forged import DOMAIN, URI, Forger, Peer
from tests.system.live import KEYS, eventually, free_port, live_mesh
from tests.system.shop import until_status

OTHER = "0b2f3c5e-6d1c-4c0e-9a53-3d2f6c1b7a10.consul"
FORM = "ns/default/dc/dc1/svc"
OURS = f"spiffe://{DOMAIN}/svc/web"
THEIRS = f"spiffe://{OTHER}/{FORM}/web"
REFUSED = {
    "our ID by their root": ("theirs", OURS),
    "their ID by our root": ("ours", THEIRS),
    "our domain in their form by our root": ("ours", f"spiffe://{DOMAIN}/{FORM}/web"),
    "their domain in our form by their root": ("theirs", f"spiffe://{OTHER}/svc/web"),
    "their other datacenter": ("theirs", f"spiffe://{OTHER}/ns/default/dc/dc2/svc/web"),
    "their other namespace": ("theirs", f"spiffe://{OTHER}/ns/evil/dc/dc1/svc/web"),
    "a third domain by our root": ("ours", "spiffe://third.example/svc/web"),
    "a third domain by their root": ("theirs", "spiffe://third.example/svc/web"),
    "our ID by a root of nobody": ("nobody", OURS),
    "their ID by a root of nobody": ("nobody", THEIRS),
}


def others(port, identity):
    return [Peer(port, identity, f"{source}.payments.{DOMAIN}") for source in ("web", "stranger")]


def status_of(answer):
    return answer if isinstance(answer, str) else answer.status


async def call_all_the_time(local):
    found = []
    try:
        while True:
            found.append((await get(local)).status)
            await asyncio.sleep(0.01)
    except asyncio.CancelledError:
        return found


async def believe(mesh, forger):
    pem = forger.root.public_bytes(serialization.Encoding.PEM).decode()
    assert await add_roots(mesh.store, KEYS, TrustBundle(((OTHER, (pem,)),), forms=((OTHER, FORM),)))


async def test_attack_22_a_trust_domains_root_vouches_for_its_own_ids_alone():
    async with live_mesh() as mesh:
        agent = await mesh.agent()
        app, ledger_port, local = free_port(), free_port(), free_port()
        async with HttpApp(app, "payments") as payments, TcpApp(ledger_port, b"HELLO\n") as ledger:
            await agent.up(name="payments", port=app, protocol="http")
            await agent.up(name="ledger", port=ledger_port, protocol="tcp")
            upstreams = [{"service": "payments", "local_port": local}]
            await agent.up(name="web", port=free_port(), protocol="http", upstreams=upstreams)
            await mesh.intend("ledger", web="allow")
            await mesh.applied(await mesh.intend("payments", web="allow"))
            await until_status(local, 200)
            forgers = {
                "ours": Forger(mesh.directory, mesh.directory / "ca"),
                "theirs": Forger(mesh.directory),
                "nobody": Forger(mesh.directory),
            }
            port = agent.inbound_port
            good = [forgers["ours"].sign(URI(OURS)), forgers["theirs"].sign(URI(THEIRS))]
            for peer in others(port, good[1]):
                assert isinstance(await peer.get(), str), "their root is not in the bundle yet"
            calling = asyncio.create_task(call_all_the_time(local))

            await believe(mesh, forgers["theirs"])
            await eventually(lambda: f"{OTHER}: " in agent.admin("/certs").decode(), 5)
            for identity in good:
                assert status_of(await others(port, identity)[0].get()) == 200, identity
                greeted = await Peer(port, identity, f"web.ledger.{DOMAIN}").everything(b"", "", 0.5)
                assert greeted == b"HELLO\n"
            calling.cancel()
            called = await calling
            assert len(called) > 20 and set(called) == {200}  # nobody noticed the change
            seen, greeted = len(payments.seen), ledger.connections
            forged = {kind: forgers[by].sign(URI(name)) for kind, (by, name) in REFUSED.items()}
            forged["their ID, for any use"] = forgers["theirs"].sign(URI(THEIRS), usage=False)
            forged["their ID, ended"] = forgers["theirs"].sign(URI(THEIRS), ends=timedelta(seconds=-5))
            for kind, identity in forged.items():
                for peer in others(port, identity):
                    answer = await peer.get()
                    assert isinstance(answer, str) or answer.status == 403, kind
                assert await Peer(port, identity, f"web.ledger.{DOMAIN}").everything(b"x", "", 0.3) == b"", kind
            assert (len(payments.seen), ledger.connections) == (seen, greeted)
