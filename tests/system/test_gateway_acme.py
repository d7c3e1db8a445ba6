"""A gateway's certificate from a real ACME CA: ordered, shown, renewed, and kept when the CA says no."""

from __future__ import annotations

import asyncio
import json
import ssl

import pytest
import pytest_asyncio
from cryptography import x509

from tests.servers.pebble import Pebble
from tests.system.apps import HttpApp, raw
from tests.system.live import eventually, free_port, live_mesh

pytestmark = pytest.mark.asyncio(loop_scope="module")
SHOP, PAY, BAD = "shop.example.org", "pay.example.org", "bad.example.org"
PLACE = f"acme/{SHOP}"


class Shop:
    """A host that serves the gateway edge, a CA beside it, and clients."""

    def __init__(self, mesh) -> None:
        self.mesh = mesh
        self.tls_port, self.plain_port = free_port(), free_port()
        self.pebble = Pebble(mesh.directory, self.plain_port)
        self.agent = None

    def document(self, *hosts: str) -> dict:
        """The gateway, with a certificate for these names."""
        acme = {
            "directory": self.pebble.url,
            "hosts": list(hosts),
            "terms_agreed": True,
            "email": "ops@example.org",
            "ca_file": str(self.pebble.root),
        }
        listeners = [{"port": self.tls_port, "tls": {"acme": acme}}, {"port": self.plain_port}]
        here = [{**each, "address": "127.0.0.1"} for each in listeners]
        return {"kind": "gateway", "name": "edge", "listeners": here, "routes": [{"hosts": [SHOP], "service": "web"}]}

    @property
    def problem(self) -> str:
        return self.agent.status()["problems"].get(f"gateway/{PLACE}", "")

    def issued(self) -> int:
        return len(self.agent.events("gateway_certificate_issued"))

    async def serial(self, name: str = SHOP) -> int:
        """Of the certificate that a client gets, which believes the CA alone and asks for the name."""
        trusted = ssl.create_default_context(cadata=await asyncio.to_thread(self.pebble.issuing_root))
        async with asyncio.timeout(15):
            _, writer = await asyncio.open_connection("127.0.0.1", self.tls_port, ssl=trusted, server_hostname=name)
        der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.close()
        return x509.load_der_x509_certificate(der).serial_number

    async def plain(self, path: str) -> bytes:
        return await raw(self.plain_port, f"GET {path} HTTP/1.1\r\nhost: {SHOP}\r\nconnection: close\r\n\r\n".encode())


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shop():
    """The gateway sends plain requests to https, and orders a certificate from a CA that does not run yet."""
    async with live_mesh() as mesh:
        made = Shop(mesh)
        made.agent = await mesh.agent("vm-1", within=("env", "MESHAGENT_GATEWAYS=edge"))
        to_https = {
            "match": {"headers": [{"name": "x-forwarded-proto", "exact": "http"}]},
            "redirect": {"scheme": "https", "port": made.tls_port, "status": 308},
        }
        async with HttpApp(free_port(), "web") as web:
            await made.agent.up(name="web", port=web.port, protocol="http")
            allowed = {"kind": "intention", "name": "web", "sources": [{"name": "edge", "action": "allow"}]}
            route = {"kind": "route", "name": "web", "rules": [to_https]}
            await mesh.applied(await mesh.apply(allowed, route, made.document(SHOP)))
            try:
                yield made
            finally:
                made.pebble.stop()


async def test_a_certificate_is_ordered_and_renewed_and_a_ca_that_refuses_leaves_the_last_one(shop):
    agent, pebble = shop.agent, shop.pebble
    # without a certificate nothing listens for TLS, and it is told why
    await eventually(lambda: "does not answer" in shop.problem, 15)
    assert "there is no certificate yet" in shop.problem
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", shop.tls_port)
    assert b" 308 " in await shop.plain("/")

    # the CA comes up, asks in plain text where all else is sent to https, and what it issues is shown and renewed
    await pebble.start(life=7, rejected_nonces=5)
    await eventually(lambda: shop.issued() >= 1 and not shop.problem, 30, agent.tail())
    await eventually(lambda: f"gateway/edge:{shop.tls_port}".encode() in agent.admin("/listeners"), 15)
    first = await shop.serial()
    assert b" 308 " in await shop.plain("/.well-known/acme-challenge/nothing")
    row = agent.status()["gateway_certificates"][PLACE]
    assert row["ordered"] and not row["overdue"] and row["expires_at"]
    async with asyncio.timeout(30):
        while await shop.serial() == first:
            await asyncio.sleep(0.1)

    # from a CA that lost its accounts, for one more name; and one that refuses a name leaves what there was
    pebble.stop()
    await pebble.start(refused=(BAD,))
    before = shop.issued()
    await shop.mesh.apply(shop.document(SHOP, PAY))
    await eventually(lambda: shop.issued() > before and not shop.problem, 30, agent.tail())
    async with asyncio.timeout(15):
        while (serial := await shop.serial(SHOP)) != await shop.serial(PAY):
            await asyncio.sleep(0.1)
    await shop.mesh.apply(shop.document(SHOP, BAD))
    await eventually(lambda: "does not certify" in shop.problem, 30, agent.tail())
    assert "rejectedIdentifier" in shop.problem and "the last good certificate stays in use" in shop.problem
    assert await shop.serial(SHOP) == serial

    await _keys_are_private_and_never_in_the_store(shop)

    # a restart shows the same at once, and asks the CA no sooner than it was to be asked
    kept = json.loads((agent.directory / f"data/acme/{SHOP}.json").read_text())
    await agent.kill()
    agent.log.unlink()
    await agent.start()
    assert await shop.serial(SHOP) == serial
    await eventually(lambda: "does not certify" in shop.problem, 15)
    assert agent.events("gateway_certificate_not_issued") == agent.events("gateway_certificate_issued") == []
    assert json.loads((agent.directory / f"data/acme/{SHOP}.json").read_text()) == kept


async def _keys_are_private_and_never_in_the_store(shop):
    directory = shop.agent.directory / "data/acme"
    assert directory.stat().st_mode & 0o777 == 0o700
    secrets = [path for path in directory.iterdir() if path.suffix in (".pem", ".key")]
    assert len(secrets) == 2 and {path.stat().st_mode & 0o777 for path in secrets} == {0o600}
    found = await shop.mesh.store.read("meshagent/")
    assert found.entries and not any(b"PRIVATE KEY" in entry.value for entry in found.entries.values())
