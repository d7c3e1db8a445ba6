"""Attacks on identity (attack tests 12 to 18): forged, foreign and missing certificates against a live mTLS port."""

from __future__ import annotations

import asyncio
import json
import ssl
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
import pytest_asyncio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from meshagent.ca.builtin import open_builtin
from meshagent.ca.keys import new_key_and_csr
from meshagent.ca.x509 import accept
from meshagent.errors import CertificateRefused, MeshError
from meshagent.model.intention import Intention
from meshagent.model.service import Instance
from meshagent.state.catalog import put_instance
from tests.system.apps import HttpApp, TcpApp, get
from tests.system.forged import DNS, DOMAIN, URI, Forger, Peer, uri
from tests.system.live import KEYS, eventually, free_port, live_mesh

pytestmark = pytest.mark.asyncio(loop_scope="module")
WEB = f"spiffe://{DOMAIN}/svc/web"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shop():
    """payments (http) and ledger (tcp, speaks first); web is allowed, orders is denied, nobody else is named."""
    async with live_mesh() as mesh:
        agent = await mesh.agent()
        ports = {name: free_port() for name in ("payments", "ledger", "web", "orders")}
        local = {name: free_port() for name in ("payments", "ghost")}
        async with HttpApp(ports["payments"], "payments") as payments, TcpApp(ports["ledger"], b"HELLO\n") as ledger:
            await agent.up(name="payments", port=ports["payments"], protocol="http")
            await agent.up(name="ledger", port=ports["ledger"], protocol="tcp")
            upstreams = [{"service": name, "local_port": port} for name, port in local.items()]
            await agent.up(name="web", port=ports["web"], protocol="http", upstreams=upstreams)
            await agent.up(name="orders", port=ports["orders"], protocol="http")
            await mesh.intend("ledger", web="allow", orders="deny")
            await mesh.applied(await mesh.intend("payments", web="allow", orders="deny"))
            yield SimpleNamespace(
                mesh=mesh,
                agent=agent,
                local=local,
                payments=payments,
                ledger=ledger,
                forger=Forger(mesh.directory, mesh.directory / "ca"),
                stranger=Forger(mesh.directory),
            )


def name(source, destination="payments"):
    return f"{source}.{destination}.{DOMAIN}"


async def refused_everywhere(shop, identity):
    """With every server name that could help it: nothing but 403 or a broken handshake, and no byte at either app."""
    seen, received, met = len(shop.payments.seen), shop.ledger.received, shop.ledger.connections
    for source in ("web", "orders", "stranger"):
        answer = await Peer(shop.agent.inbound_port, identity, name(source)).get()
        assert isinstance(answer, str) or answer.status == 403, (source, answer.status)
        got = await Peer(shop.agent.inbound_port, identity, name(source, "ledger")).everything(b"steal", "", 0.3)
        assert got == b"", source
    assert len(shop.payments.seen) == seen
    assert (shop.ledger.received, shop.ledger.connections) == (received, met)


async def test_attack_12_another_service_of_the_right_ca_is_refused_and_the_refusal_is_logged(shop):
    web = Peer(shop.agent.inbound_port, shop.forger.service("web"), name("web"))
    assert (await web.get()).status == 200
    assert await Peer(web.port, web.identity, name("web", "ledger")).everything(b"", "", 0.3) == b"HELLO\n"
    for service in ("orders", "payments", "unheard-of"):
        await refused_everywhere(shop, shop.forger.service(service))
    orders = Peer(shop.agent.inbound_port, shop.forger.service("orders"), name("orders"))
    answer = await orders.get("/logged-refusal")
    assert answer.status == 403 and json.loads(answer.body)["caller"] == f"spiffe://{DOMAIN}/svc/orders"
    assert "/logged-refusal" not in answer.text and "web" not in answer.text  # a stranger learns no rule
    log = shop.agent.directory / "data" / "access.log"
    await eventually(lambda: "/logged-refusal" in log.read_text(), 12)
    line = json.loads(next(line for line in log.read_text().splitlines() if "/logged-refusal" in line))
    assert line["status"] == 403 and line["source"] == f"spiffe://{DOMAIN}/svc/orders"


async def test_attack_12_a_server_name_does_not_make_anybody_somebody_else(shop):
    answer = await Peer(shop.agent.inbound_port, shop.forger.service("orders"), name("web")).get()
    assert answer.startswith("refused") if isinstance(answer, str) else answer.status == 403
    lying = await Peer(shop.agent.inbound_port, shop.forger.service("web"), name("orders")).get()
    assert lying.status == 200 and f"URI={WEB}" in lying.text  # web is web under any name that it gives
    for odd in (DOMAIN, "payments", f"payments.{DOMAIN}", f"web.payments.{DOMAIN}.evil", f"a.b.payments.{DOMAIN}.x"):
        answer = await Peer(shop.agent.inbound_port, shop.forger.service("orders"), odd).get()
        assert isinstance(answer, str) or answer.status == 403, odd


NEAR_WEB = {
    "suffix": f"{WEB}2",
    "prefix": f"spiffe://{DOMAIN}/svc/we",
    "below": f"{WEB}/x",
    "dot-dot": f"spiffe://{DOMAIN}/svc/orders/../web",
    "dot-dot behind": f"{WEB}/../web",
    "upper case name": f"spiffe://{DOMAIN}/svc/WEB",
    "upper case domain": f"spiffe://{DOMAIN.upper()}/svc/web",
    "upper case scheme": f"SPIFFE://{DOMAIN}/svc/web",
    "other domain": "spiffe://mesh.example/svc/web",
    "domain as prefix": f"spiffe://{DOMAIN}.evil/svc/web",
    "user part": f"spiffe://{DOMAIN}@evil/svc/web",
    "nul": f"{WEB}\x00.evil",
    "nul and slash": f"{WEB}\x00/x",
    "trailing slash": f"{WEB}/",
    "double slash": f"spiffe://{DOMAIN}//svc/web",
    "query": f"{WEB}?x",
    "fragment": f"{WEB}#x",
    "escaped": f"spiffe://{DOMAIN}/svc/%77eb",
    "space": f"{WEB} ",
    "newline": f"{WEB}\n",
    "empty": "",
}


@pytest.mark.parametrize("kind", NEAR_WEB)
async def test_attack_13_a_uri_that_is_nearly_an_allowed_one_is_refused(shop, kind):
    await refused_everywhere(shop, shop.forger.sign(URI(NEAR_WEB[kind])))


@pytest.mark.parametrize(
    "names",
    [
        {"names": [DNS(WEB)]},
        {"names": [x509.RFC822Name(WEB)]},
        {"names": [DNS("web")], "cn": WEB},
        {"names": [], "cn": WEB},
        {"names": [], "cn": "web"},
        {"names": [x509.RegisteredID(x509.ObjectIdentifier("1.2.3"))], "cn": WEB},
        {"names": [uri("orders"), DNS(WEB)], "cn": WEB},
    ],
    ids=["dns", "e-mail", "dns and cn", "cn", "cn of the name", "registered id and cn", "orders with web in a dns"],
)
async def test_attack_14_the_uri_text_anywhere_but_in_a_uri_is_refused(shop, names):
    await refused_everywhere(shop, shop.forger.sign(*names["names"], cn=names.get("cn", "")))


async def test_attack_15_the_ca_writes_one_uri_whatever_a_csr_asks_for_and_the_agent_takes_no_other(shop):
    """The CSR's names are not read: the certificate carries the one identity that was asked for beside it.

    A forged certificate with two is not accepted by the agent, and at a peer it is worth what the allowed one of its
    names may do, never more: no rule can be escaped by adding a name, since a denied name in it is still denied where
    anyone else is allowed.
    """

    def clock():
        return datetime.now(UTC)

    key = ec.generate_private_key(ec.SECP256R1())
    names = x509.SubjectAlternativeName([uri("orders"), uri("web")])
    csr = x509.CertificateSigningRequestBuilder(x509.Name([])).add_extension(names, critical=True)
    csr_pem = csr.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    authority = open_builtin(shop.mesh.directory / "ca", DOMAIN, clock=clock)
    chain = await authority.sign(csr_pem, f"spiffe://{DOMAIN}/svc/orders", timedelta(minutes=5))
    signed = x509.load_pem_x509_certificate(chain).extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert list(signed.value) == [uri("orders")]

    forged = shop.forger.sign(uri("orders"), uri("web"))
    pem = forged.path.read_bytes()
    start = pem.index(b"-----BEGIN CERTIFICATE-----")
    bundle = await authority.bundle()
    for wanted in ("orders", "web"):
        with pytest.raises(CertificateRefused):
            accept(
                pem[start:], pem[:start], f"spiffe://{DOMAIN}/svc/{wanted}", bundle, DOMAIN, clock(), timedelta(hours=2)
            )


@pytest.mark.parametrize("order", [("orders", "web"), ("web", "orders")])
async def test_attack_15_a_forged_pair_of_names_may_at_most_what_the_allowed_one_may(shop, order):
    """Envoy judges a certificate by any of its URIs. Only somebody with the CA's key can make one with two."""
    pair = shop.forger.sign(*(uri(each) for each in order))
    neither = shop.forger.sign(uri("orders"), uri("stranger"))
    await refused_everywhere(shop, neither)
    mesh = shop.mesh
    try:
        read = {"action": "allow", "http": {"path_prefix": "/reports"}}
        await mesh.applied(await mesh.intend("payments", web=[read], orders="deny"))
        for source in ("web", "orders", "stranger"):
            peer = Peer(shop.agent.inbound_port, pair, name(source))
            assert (await peer.get("/reports")).status == 200, source  # as documented above: it is web's
            assert (await peer.get("/other")).status == 403, source
    finally:
        await mesh.applied(await mesh.intend("payments", web="allow", orders="deny"))
    try:  # anyone but orders: a second name does not hide that it is orders
        await mesh.applied(await mesh.intend("payments", anyone="allow", orders="deny"))
        for source in ("web", "orders", "stranger"):
            allowed = await Peer(shop.agent.inbound_port, shop.forger.service("stranger"), name(source)).get()
            assert allowed.status == 200
            assert (await Peer(shop.agent.inbound_port, pair, name(source)).get()).status == 403
    finally:
        await mesh.applied(await mesh.intend("payments", web="allow", orders="deny"))


async def test_attack_16_no_certificate_plain_text_self_signed_and_other_roots_never_reach_the_app(shop):
    await refused_everywhere(shop, None)
    await refused_everywhere(shop, shop.forger.self_signed(uri("web")))
    await refused_everywhere(shop, shop.stranger.service("web"))

    await refused_everywhere(shop, shop.forger.sign(uri("web"), ends=timedelta(seconds=-5)))
    seen, met = len(shop.payments.seen), shop.ledger.connections
    for data in (
        b"GET / HTTP/1.1\r\nhost: payments\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\0" * 64,
        b"\x16\x03",
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", shop.agent.inbound_port)
        writer.write(data)
        received = b""
        try:
            async with asyncio.timeout(0.5):
                received = await reader.read(4096)
        except (TimeoutError, ConnectionError):
            pass
        writer.transport.abort()
        assert b"200" not in received and b"HELLO" not in received, received
    assert (len(shop.payments.seen), shop.ledger.connections) == (seen, met)


async def test_attack_16_older_tls_is_refused(shop):
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname = False
    made.verify_mode = ssl.CERT_NONE
    made.maximum_version = ssl.TLSVersion.TLSv1_2
    made.load_cert_chain(shop.forger.service("web").path)
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await asyncio.open_connection("127.0.0.1", shop.agent.inbound_port, ssl=made, server_hostname=name("web"))


@pytest.mark.parametrize("odd", ["a.b", "a+", "[a]", "a*", "a|b", "^a$", "(a)", "a\\d", ".*"])
async def test_attack_17_a_name_is_never_a_pattern_and_no_such_name_gets_in(shop, odd):

    with pytest.raises(ValueError, match="must be 1 to 63"):
        Intention.model_validate({"name": "payments", "sources": [{"name": odd, "action": "allow"}]})
    answer = await asyncio.to_thread(shop.agent.call, "PUT", "/v1/services", {"name": odd, "port": 1234})
    assert answer["http"] == 422
    await refused_everywhere(shop, shop.forger.sign(URI(f"spiffe://{DOMAIN}/svc/{odd}")))


async def test_attack_17_rules_match_their_own_name_alone(shop):
    mesh = shop.mesh
    try:
        await mesh.applied(await mesh.intend("payments", **{"a-b": "allow"}))
        port = shop.agent.inbound_port
        assert (await Peer(port, shop.forger.service("a-b"), name("a-b")).get()).status == 200
        for near in ("axb", "ab", "a-bb", "a-b-c", "xa-b"):
            await refused_everywhere(shop, shop.forger.service(near))
            answer = await Peer(port, shop.forger.service(near), name("a-b")).get()
            assert isinstance(answer, str), near
        await refused_everywhere(shop, shop.forger.sign(URI(f"spiffe://{DOMAIN}/svc/a.b")))
    finally:
        await mesh.applied(await mesh.intend("payments", web="allow", orders="deny"))


async def test_attack_18_an_upstream_that_has_another_services_certificate_is_not_spoken_to(shop):
    """ghost is registered at an attacker's port, whose valid certificate is that of orders, then of a foreign ghost."""
    stolen: list[bytes] = []

    async def answer(reader, writer):
        stolen.append(await reader.read(65536))
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nSTOLEN")
        writer.close()

    await shop.mesh.applied(await shop.mesh.apply({"kind": "service", "name": "ghost", "protocol": "http"}))
    lease = await shop.mesh.store.lease(timedelta(seconds=30))
    identities = {
        "orders": (shop.forger.service("orders"), False),
        "self-signed": (shop.forger.self_signed(uri("ghost")), False),
        "other root": (shop.stranger.service("ghost"), False),
        "dns": (shop.forger.sign(DNS(f"spiffe://{DOMAIN}/svc/ghost")), False),
        "its own": (shop.forger.service("ghost"), True),  # the control: with this one the caller does speak to it
    }
    for kind, (identity, spoken_to) in identities.items():
        stolen.clear()
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        made.load_cert_chain(identity.path)
        made.set_alpn_protocols(["h2", "http/1.1"])
        port = free_port()
        server = await asyncio.start_server(answer, "127.0.0.1", port, ssl=made)
        instance = Instance(service="ghost", host="evil", id="ghost", address="127.0.0.1", port=port, protocol="http")
        await shop.mesh.store.commit([put_instance(KEYS, instance, lease.id)])
        await eventually(lambda wanted=f"127.0.0.1:{port}": wanted in shop.agent.admin("/clusters").decode(), 5, kind)
        reply = await get(shop.local["ghost"], headers="x-secret: for-ghost-only\r\n")
        assert reply.status in (502, 503) and "STOLEN" not in reply.text, kind
        assert bool(stolen) == spoken_to, kind
        server.close()
    await lease.revoke()


async def test_attack_18_the_honest_upstream_is_still_called(shop):
    reply = await get(shop.local["payments"])
    assert reply.status == 200 and reply.headers["x-app"] == "payments"


async def test_attack_13_a_name_that_is_no_service_name_is_not_signed(shop):

    authority = open_builtin(shop.mesh.directory / "ca", DOMAIN, clock=lambda: datetime.now(UTC))
    _, csr = new_key_and_csr(WEB)
    for wrong in NEAR_WEB.values():
        if wrong in (f"{WEB}2", f"spiffe://{DOMAIN}/svc/we"):
            continue  # names of other services
        with pytest.raises(MeshError):
            await authority.sign(csr, wrong, timedelta(minutes=5))
