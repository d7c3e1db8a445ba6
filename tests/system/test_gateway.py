"""Gateways: from outside by TLS or plain text, by host and path, into the mesh under the gateway's own name."""

from __future__ import annotations

import asyncio
import json
import ssl
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import pytest_asyncio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, ResponseReceived, StreamEnded

from tests.system.apps import HttpApp, get, raw, read_answer
from tests.system.live import eventually, free_port, live_mesh
from tests.system.quic import http3

pytestmark = pytest.mark.asyncio(loop_scope="module")
NAMES = ("web", "api")
SMUGGLED = (
    "x-mesh-unreached: 1\r\nx-envoy-retry-on: 5xx\r\nx-forwarded-for: 6.6.6.6\r\nforwarded: for=6.6.6.6\r\n"
    "x-forwarded-client-cert: URI=spiffe://mesh.internal/svc/boss\r\nx-real-ip: 6.6.6.6\r\ntraceparent: 00-aa-bb-01\r\n"
)


class Front:
    """Certificates and ports of a gateway, and its clients."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.tls_port, self.plain_port = free_port(), free_port()

    def certify(self, name: str) -> bytes:
        """Put a new certificate for the name in place, as a configuration tool does. Returns it as DER."""
        key = ec.generate_private_key(ec.SECP256R1())
        called, now = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]), datetime.now(UTC)
        day = timedelta(days=1)
        made = x509.CertificateBuilder(
            called, called, key.public_key(), x509.random_serial_number(), now - day, now + day
        )
        made = made.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        certificate = made.sign(key, hashes.SHA256())
        pem, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
        for end, content in (
            ("key", key.private_bytes(pem, form, serialization.NoEncryption())),
            ("pem", certificate.public_bytes(pem)),
        ):
            new = self.directory / f"{name}.new"
            new.touch(0o600)
            new.write_bytes(content)
            new.replace(self.directory / f"{name}.{end}")
        return certificate.public_bytes(serialization.Encoding.DER)

    def files(self, name: str) -> dict[str, str]:
        """Where the certificate of a name is."""
        return {"cert_file": str(self.directory / f"{name}.pem"), "key_file": str(self.directory / f"{name}.key")}

    @asynccontextmanager
    async def connected(self, name: str, *protocols: str, newest: ssl.TLSVersion | None = None):
        """A TLS connection that asks for the name."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        if newest:
            context.maximum_version = newest
        context.set_alpn_protocols(list(protocols or ("http/1.1",)))
        reader, writer = await asyncio.open_connection("127.0.0.1", self.tls_port, ssl=context, server_hostname=name)
        try:
            yield reader, writer
        finally:
            writer.close()

    async def shown(self, name: str) -> bytes:
        """The certificate that a client sees which asks for the name."""
        async with self.connected(name) as (_, writer):
            return writer.get_extra_info("ssl_object").getpeercert(binary_form=True)

    async def get(self, host: str, path: str = "/", headers: str = ""):
        """One request by TLS."""
        async with asyncio.timeout(5), self.connected(host) as (reader, writer):
            writer.write(f"GET {path} HTTP/1.1\r\nhost: {host}\r\n{headers}\r\n".encode())
            return await read_answer(reader)

    async def get_plain(self, host: str, path: str):
        """One request without TLS."""
        async with asyncio.timeout(5):
            reader, writer = await asyncio.open_connection("127.0.0.1", self.plain_port)
            writer.write(f"GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n".encode())
            answer = await read_answer(reader)
            writer.close()
            return answer

    async def get_by_http2(self, host: str) -> tuple[str, bytes]:
        """Status and body of one request by HTTP/2."""
        async with asyncio.timeout(5), self.connected(host, "h2") as (reader, writer):
            assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == "h2"
            spoken, status, body = H2Connection(H2Configuration(header_encoding="utf-8")), "", b""
            spoken.initiate_connection()
            pseudo = {":method": "GET", ":path": "/", ":scheme": "https", ":authority": f"{host}:{self.tls_port}"}
            spoken.send_headers(1, list(pseudo.items()), end_stream=True)
            while True:
                writer.write(spoken.data_to_send())
                for event in spoken.receive_data(await reader.read(65536)):
                    if isinstance(event, ResponseReceived):
                        status = dict(event.headers)[":status"]
                    elif isinstance(event, DataReceived):
                        body += event.data
                    elif isinstance(event, StreamEnded):
                        return status, body

    def document(self, *routes: dict) -> dict:
        """The gateway, with further routes."""
        tls = {**self.files("shop.example.org"), "others": [self.files("pay.example.org")]}
        here = {"address": "127.0.0.1"}
        listeners = [
            {**here, "port": self.tls_port, "tls": tls, "http3": True, "max_connections": 8},
            {**here, "port": self.plain_port, "max_connections": 3},
        ]
        told = [
            {"hosts": ["shop.example.org"], "path_prefix": "/api", "service": "api"},
            {"hosts": ["shop.example.org", "pay.example.org"], "service": "web"},
        ]
        return {"kind": "gateway", "name": "edge", "listeners": listeners, "routes": [*told, *routes]}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running():
    """(mesh, agent, front, apps): one host with the gateway edge and the services web and api."""
    async with live_mesh() as mesh:
        front = Front(mesh.directory)
        front.certify("shop.example.org")
        front.certify("pay.example.org")
        agent = await mesh.agent("vm-1", within=("env", "MESHAGENT_GATEWAYS=edge"))
        async with HttpApp(free_port(), "web") as web, HttpApp(free_port(), "api") as api:
            for app in (web, api):
                await agent.up(name=app.name, port=app.port, protocol="http")
            yield mesh, agent, front, (web, api)


@pytest_asyncio.fixture(loop_scope="module")
async def fronted(running):
    """The same: edge leads to both services, which allow it and have no routes."""
    mesh, agent, front, _ = running
    allowed = [{"kind": "intention", "name": name, "sources": [{"name": "edge", "action": "allow"}]} for name in NAMES]
    await mesh.applied(await mesh.apply(*allowed, {"kind": "route", "name": "api", "rules": []}, front.document()))
    await eventually(lambda: f"gateway/edge:{front.tls_port}".encode() in agent.admin("/listeners"), 5)
    return running


async def test_from_outside_host_and_path_lead_to_services_and_intentions_to_the_gateways_name_decide(fronted):
    mesh, _, front, (web, api) = fronted
    # by host and path, HTTP/1.1 and 2, TLS 1.2 and plain text
    assert (await front.get("shop.example.org")).headers["x-app"] == "web"
    assert (await front.get("shop.example.org", "/api/x")).headers["x-app"] == "api"
    assert (await front.get("shop.example.org", "/x/../api")).headers["x-app"] == "api"
    assert (await front.get("shop.example.org", "/apis")).headers["x-app"] == "web"
    assert (await front.get("pay.example.org", "/api/x")).headers["x-app"] == "web"
    status, body = await front.get_by_http2("shop.example.org")
    assert (status, body[:3]) == ("200", b"web")
    async with front.connected("shop.example.org", newest=ssl.TLSVersion.TLSv1_2) as (_, writer):
        assert writer.get_extra_info("ssl_object").version() == "TLSv1.2"
    nowhere = await front.get("else.example.org")
    assert (nowhere.status, nowhere.headers["x-mesh-refused"]) == (404, "no-route") and nowhere.headers["x-mesh-ticket"]
    with_host = b"GET / HTTP/1.1\r\nhost: shop.example.org\r\nconnection: close\r\n\r\n"
    assert b"x-app: web" in await raw(front.plain_port, with_host)
    assert (await get(front.plain_port)).status == 404  # host: app

    # connections beyond the limit of a listener are closed
    opened = [await asyncio.open_connection("127.0.0.1", front.plain_port) for _ in range(5)]
    ended, _ = await asyncio.wait([asyncio.create_task(reader.read(1)) for reader, _ in opened], timeout=0.5)
    for _, writer in opened:
        writer.close()
    assert 2 <= len(ended) < 5 and all(each.result() == b"" for each in ended)  # one of before may be there still

    # what nobody outside may say is gone, and the app is told who called and for whom
    seen = (await front.get("shop.example.org", "/", SMUGGLED)).text.lower()
    assert "6.6.6.6" not in seen and "x-mesh-" not in seen and "retry-on" not in seen and "traceparent" not in seen
    assert "uri=spiffe://mesh.internal/svc/edge" in seen and "svc/boss" not in seen
    assert 'forwarded: for="127.0.0.1:' in seen and ";proto=https" in seen
    assert (await front.get("shop.example.org", "/", "x_y: 1\r\n")).status == 400
    assert (await front.get("shop.example.org", "/a%2fb")).status == 400

    # a service's route and intentions are the gateway's as any caller's, and a refusal says why
    rule = {"match": {"path_prefix": "/api/gone"}, "respond": {"status": 410, "body": "gone"}}
    await mesh.applied(await mesh.apply({"kind": "route", "name": "api", "rules": [rule]}))
    assert (await front.get("shop.example.org", "/api/gone/x")).status == 410
    assert (await front.get("shop.example.org", "/api/x")).status == 200
    await mesh.applied(await mesh.intend("api", edge="deny"))
    before = len(api.seen)
    refused = await front.get("shop.example.org", "/api/x")
    assert (refused.status, refused.headers["x-mesh-refused"]) == (403, "intention")
    assert json.loads(refused.text)["caller"] == "spiffe://mesh.internal/svc/edge"
    assert len(api.seen) == before
    assert (await front.get("shop.example.org")).status == 200


async def test_http_3_has_the_same_routes_certificates_rules_and_bounds(fronted):
    mesh, agent, front, _ = fronted
    assert (await front.get("shop.example.org")).headers["alt-svc"] == f'h3=":{front.tls_port}"; ma=3600'
    with_host = b"GET / HTTP/1.1\r\nhost: shop.example.org\r\nconnection: close\r\n\r\n"
    assert b"alt-svc" not in await raw(front.plain_port, with_host)
    async with http3(front.tls_port, "pay.example.org") as client:
        answers = [
            await client.get(*asked)
            for asked in (("shop.example.org",), ("shop.example.org", "/api/x"), ("shop.example.org", "/x/../api"))
        ]
        assert [headers["x-app"] for headers, _ in answers] == ["web", "api", "api"]
        assert "alt-svc" not in answers[0][0]
        assert [each.value for each in client.certificate().subject] == ["pay.example.org"]
        assert (await client.get("else.example.org"))[0][":status"] == "404"
        assert (await client.get("shop.example.org", "/a%2fb"))[0][":status"] == "400"
        with pytest.raises(ConnectionResetError):
            await client.get("shop.example.org", "/", x_y="1")
        smuggled = dict(line.split(": ", 1) for line in SMUGGLED.split("\r\n") if line)
        seen = (await client.get("shop.example.org", "/", **smuggled))[1].decode().lower()
        assert "6.6.6.6" not in seen and "x-mesh-" not in seen and "svc/boss" not in seen and "traceparent" not in seen
        assert 'forwarded: for="127.0.0.1:' in seen and ";proto=https" in seen
        await mesh.applied(await mesh.intend("api", edge="deny"))
        refused, said = await client.get("shop.example.org", "/api/x")
        assert (refused[":status"], refused["x-mesh-refused"]) == ("403", "intention")
        assert json.loads(said)["caller"] == "spiffe://mesh.internal/svc/edge"

    log = agent.directory / "data" / "access.log"
    await eventually(lambda: any('"HTTP/3"' in line and '"else.example.org"' in line for line in log.open()), 10)

    async def asks() -> str:
        async with http3(front.tls_port, "shop.example.org") as client:
            headers, _ = await asyncio.wait_for(client.get("shop.example.org"), 2)
            await asyncio.sleep(1)
            return headers[":status"]

    answered = await asyncio.gather(*(asks() for _ in range(12)), return_exceptions=True)
    assert 0 < answered.count("200") <= 8 and sum(isinstance(each, TimeoutError) for each in answered) >= 4


async def test_what_no_route_names_gets_nothing_however_it_is_asked_for(fronted):
    mesh, agent, front, (web, api) = fronted
    only = {"hosts": ["only.example.org"], "path_prefix": "/v1", "service": "web"}
    await mesh.applied(await mesh.apply(front.document(only)))
    assert (await front.get("only.example.org", "/v1/x")).headers["x-app"] == "web"
    before = len(web.seen) + len(api.seen)
    refused = [("only.example.org", path) for path in ("/", "/v10", "/v1/../x", "/V1")]
    refused += [
        (host, "/") for host in ("else.example.org", "example.org", "a.shop.example.org", "shop.example.org.evil")
    ]
    async with http3(front.tls_port, "shop.example.org") as client:
        for host, path in refused:
            assert (await front.get(host, path)).status == 404
            assert (await client.get(host, path))[0][":status"] == "404"
            assert (await front.get_plain(host, path)).status == 404
    assert (await front.get_by_http2("else.example.org"))[0] == "404"
    # what speaks of no host, asks for a proxy, or speaks the wrong protocol for the port
    connect = b"CONNECT shop.example.org:443 HTTP/1.1\r\nhost: shop.example.org\r\n\r\n"
    asked = (b"GET / HTTP/1.1\r\n\r\n", b"GET / HTTP/1.0\r\n\r\n", connect)
    for answer in await asyncio.gather(*(raw(front.plain_port, each) for each in asked)):
        assert not answer or answer.split()[1][:1] == b"4", answer
    assert await raw(front.tls_port, b"GET / HTTP/1.1\r\nhost: shop.example.org\r\n\r\n") == b""
    with pytest.raises((ssl.SSLError, OSError)):
        await asyncio.open_connection("127.0.0.1", front.plain_port, ssl=ssl._create_unverified_context())
    assert len(web.seen) + len(api.seen) == before


async def test_who_has_begun_a_request_and_does_not_end_it_is_cut_after_ten_seconds(fronted):
    """Local apps are not, whose unfinished request holds no more than their connection: attack 11."""
    *_, front, _ = fronted

    async def ended(reader, writer):
        began = asyncio.get_running_loop().time()
        writer.write(b"GET / HTTP/1.1\r\nhost: shop.example.org\r\nx: ")
        async with asyncio.timeout(20):
            answer = await reader.read()
        return asyncio.get_running_loop().time() - began, answer

    plain = await asyncio.open_connection("127.0.0.1", front.plain_port)
    async with front.connected("shop.example.org") as secret:
        for took, answer in await asyncio.gather(ended(*plain), ended(*secret)):
            assert 9 < took < 15 and answer.startswith(b"HTTP/1.1 408"), (took, answer)
    plain[1].close()


async def test_certificates_are_chosen_by_name_and_taken_up_when_they_are_replaced(fronted):
    _, agent, front, _ = fronted
    shop, pay = front.certify("shop.example.org"), front.certify("pay.example.org")

    async def see(name: str, wanted: bytes) -> None:
        async with asyncio.timeout(5):
            while await front.shown(name) != wanted:
                await asyncio.sleep(0.05)

    await see("pay.example.org", pay)
    await see("shop.example.org", shop)
    assert await front.shown("else.example.org") == shop  # the first, for every other name

    # half a pair leaves the last whole one, and that is told
    (front.directory / "pay.example.org.key").write_bytes((front.directory / "shop.example.org.key").read_bytes())
    await eventually(lambda: "pay.example.org.pem" in str(agent.status()["problems"]), 5)
    assert await front.shown("pay.example.org") == pay
    await see("pay.example.org", front.certify("pay.example.org"))
    await eventually(lambda: not agent.status()["problems"], 5)

    # plain text gets nowhere on the port for TLS
    assert await raw(front.tls_port, b"GET / HTTP/1.1\r\nhost: shop.example.org\r\n\r\n") == b""


async def test_a_restarted_agent_goes_on_serving_and_new_routes_wait_for_what_they_lead_to(fronted):
    mesh, agent, front, (web, _) = fronted
    failed: list[int] = []

    async def call() -> None:
        while True:
            failed.extend(answer.status for answer in [await front.get("pay.example.org")] if answer.status != 200)
            await asyncio.sleep(0.01)

    calling = asyncio.create_task(call())
    await agent.kill()
    await agent.start()
    await agent.up(name="later", port=web.port, protocol="http")
    await mesh.intend("later", edge="allow")
    moved = front.document({"hosts": ["later.example.org"], "service": "later"})
    moved["routes"][1]["service"] = "later"  # where pay.example.org leads now
    await mesh.applied(await mesh.apply(moved))
    assert (await front.get("later.example.org")).status == 200
    seen = (await front.get("pay.example.org")).text
    assert "svc/edge" in seen
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
    assert failed == []
