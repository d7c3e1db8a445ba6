"""Each kind of probe against a small real server on loopback."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from meshagent.host.probes import probe
from meshagent.model.service import Check


async def answering(answer, requests=None, *, tls=None, silent_end=False):
    """A server that sends `answer` to each request (None: says nothing), and with `silent_end` never closes by itself."""

    async def serve(reader, writer):
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            if requests is not None:
                requests.append(head)
            writer.write(answer or b"")
            if answer is None or silent_end:
                await reader.read()
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    return server, server.sockets[0].getsockname()[1]


def unused_port():
    with socket.socket() as probe_socket:
        probe_socket.bind(("127.0.0.1", 0))
        return probe_socket.getsockname()[1]


def tls_server(directory):
    """(server context, file of its own root) for 127.0.0.1."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "an app")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    chain, secret = directory / "chain.pem", directory / "key.pem"
    chain.write_bytes(certificate.public_bytes(Encoding.PEM))
    secret.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain, secret)
    return context, chain


def check(**fields):
    return Check.model_validate({"timeout": "500ms", **fields})


@pytest.mark.parametrize(
    ("line", "passes"),
    [
        ("HTTP/1.1 200 OK", True),
        ("HTTP/1.1 204 No", True),
        ("HTTP/1.0 500 X", False),
        ("SSH-2.0-x", False),
        ("", False),
    ],
)
async def test_http_passes_on_2xx_alone(line, passes):
    server, port = await answering(f"{line}\r\n\r\n".encode())
    assert (await probe(check(http=f"http://127.0.0.1:{port}/health")))[0] is passes
    server.close()


async def test_http_does_not_follow_a_redirect():
    seen = []
    target, target_port = await answering(b"HTTP/1.1 200 OK\r\n\r\n", seen)
    location = f"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:{target_port}/\r\n\r\n"
    server, port = await answering(location.encode())
    assert (await probe(check(http=f"http://127.0.0.1:{port}/")))[0] is False
    assert seen == []
    server.close()
    target.close()


async def test_http_sends_one_plain_get_and_no_credentials():
    server, port = await answering(b"HTTP/1.1 200 OK\r\n\r\n", seen := [])
    assert (await probe(check(http=f"http://me:secret@127.0.0.1:{port}/health?deep=1")))[0]
    assert seen[0].startswith(b"GET /health?deep=1 HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n" % port)
    assert b"secret" not in seen[0]
    server.close()


@pytest.mark.parametrize(
    ("answer", "output"),
    [
        (
            b"HTTP/1.1 503 Busy\r\ncontent-length: 14\r\n\r\ndb is \x1b[31m\ndown",
            "HTTP/1.1 503 Busy: db is \x1b[31m down",
        ),
        (b"HTTP/1.1 500 No\r\nTransfer-Encoding: chunked\r\n\r\n4\r\ndown\r\n0\r\n\r\n", "HTTP/1.1 500 No: down"),
        (b"HTTP/1.1 500 No\r\n\r\n" + b"x" * 5000, "HTTP/1.1 500 No: " + "x" * 512),
        (b"HTTP/1.1 500 No", "HTTP/1.1 500 No"),
        (b"HTTP/1.1 2", "HTTP/1.1 2"),
    ],
)
async def test_a_refusing_answer_says_why_in_one_short_line(answer, output):
    server, port = await answering(answer)
    passed, said = await probe(check(http=f"http://127.0.0.1:{port}/"))
    assert (passed, said) == (False, output)
    server.close()


async def test_an_endless_first_line_is_cut_short():
    server, port = await answering(b"x" * 100_000)
    passed, said = await probe(check(http=f"http://127.0.0.1:{port}/"))
    assert not passed and set(said) <= set("x: ") and 200 <= len(said) < 1000
    server.close()


async def test_https_is_held_to_trusted_roots_and_needs_no_polite_goodbye(tmp_path, monkeypatch):
    context, roots = tls_server(tmp_path)
    server, port = await answering(b"HTTP/1.1 200 OK\r\n\r\n", tls=context, silent_end=True)
    url = f"https://127.0.0.1:{port}/"
    passed, output = await probe(check(http=url, timeout="3s"))
    assert not passed and "CERTIFICATE_VERIFY_FAILED" in output
    monkeypatch.setattr("meshagent.host.probes._tls", lambda: ssl.create_default_context(cafile=roots))
    assert await probe(check(http=url, timeout="3s")) == (True, "HTTP/1.1 200 OK")
    server.close()


async def test_a_silent_app_fails_within_the_timeout():
    server, port = await answering(None)
    began = time.monotonic()
    passed, output = await probe(check(http=f"http://127.0.0.1:{port}/", timeout="200ms"))
    assert not passed and "0.2 s" in output and time.monotonic() - began < 2
    server.close()


async def test_tcp_passes_when_somebody_listens():
    server, port = await answering(b"")
    assert (await probe(check(tcp=f"127.0.0.1:{port}")))[0]
    server.close()
    await server.wait_closed()
    passed, output = await probe(check(tcp=f"127.0.0.1:{port}"))
    assert not passed and output


@pytest.mark.parametrize(("answer", "passes"), [(b"\x08\x01", True), (b"\x08\x02", False)])
async def test_grpc_asks_the_standard_health_service(answer, passes):
    asked = []

    async def health(request, context):
        asked.append(request)
        return answer

    server = grpc.aio.server()
    handler = grpc.unary_unary_rpc_method_handler(health, None, None)
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": handler}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    assert (await probe(check(grpc=f"127.0.0.1:{port}/shop.Cart", timeout="3s")))[0] is passes
    assert asked == [b"\x0a\x09shop.Cart"]
    await server.stop(0)


async def test_grpc_without_a_server_or_with_a_long_name_is_an_answer():
    passed, output = await probe(check(grpc=f"127.0.0.1:{unused_port()}/{'x' * 300}", timeout="3s"))
    assert not passed and output.startswith("UNAVAILABLE")


async def test_grpc_is_asked_directly_whatever_proxy_the_environment_names(monkeypatch):
    server, port = await answering(b"HTTP/1.1 200 OK\r\n\r\n", requests := [])
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{port}")
    passed, _ = await probe(check(grpc=f"127.0.0.1:{unused_port()}", timeout="3s"))
    assert not passed and requests == []
    server.close()


async def test_exec_passes_on_exit_0():
    assert await probe(check(exec=["/bin/echo", "fine"], timeout="3s")) == (True, "fine")
    assert await probe(check(exec=["/bin/true"], timeout="3s")) == (True, "exit 0")
    assert await probe(check(exec=["/bin/sh", "-c", "echo no; exit 3"], timeout="3s")) == (False, "no")
    assert await probe(check(exec=["/bin/sh", "-c", "sleep 60"], timeout="200ms")) == (False, "no answer within 0.2 s")


@pytest.mark.parametrize(
    "fields",
    [
        {"http": "http://127.0.0.1:99999/"},
        {"http": "http://127.0.0.1:0/"},
        {"http": "http:///health"},
        {"http": "http://[::1/"},
        {"http": "http://a..b/"},
        {"http": "http://a\0b/"},
        {"tcp": "127.0.0.1:99999"},
        {"tcp": "a..b:80"},
        {"grpc": "127.0.0.1:99999"},
        {"exec": ["/nowhere/x"]},
        {"exec": ["/bin/echo", "a\0b"]},
        {"exec": [""]},
    ],
    ids=str,
)
async def test_what_can_never_be_probed_fails_and_ends_no_agent(fields):
    passed, output = await probe(check(**fields))
    assert not passed and output
