"""Certificates that no honest CA would sign, made with the mesh's own root key or another; and peers that use them."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import h2.config
import h2.connection
import h2.events
import h2.exceptions
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.system.apps import Answer, read_answer

URI = x509.UniformResourceIdentifier
DNS = x509.DNSName
HOUR = timedelta(hours=1)
DOMAIN = "mesh.internal"
_SIGNS = x509.KeyUsage(True, *[False] * 8)  # digitalSignature


def uri(service: str) -> x509.GeneralName:
    """The SAN of a service."""
    return URI(f"spiffe://{DOMAIN}/svc/{service}")


@dataclass
class Identity:
    """A certificate and its key, in one file."""

    path: Path


class Forger:
    """Signs whatever it is told to, with the root of the CA in a directory, or with one of its own."""

    def __init__(self, directory: Path, ca: Path | None = None) -> None:
        self.directory = directory
        if ca:
            self.key = serialization.load_pem_private_key((ca / "root.key").read_bytes(), None)
            self.root = x509.load_pem_x509_certificate((ca / "root.pem").read_bytes())
        else:
            self.key, self.root = _own_root()
        self._count = 0

    def sign(self, *names: x509.GeneralName, cn: str = "", ends: timedelta = HOUR, usage: bool = True) -> Identity:
        """A leaf with these names; `usage`: with the key usage that every honest CA sets."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, cn)] if cn else [])
        builder = _begun(subject, self.root.subject, key, ends)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=not cn)
        if usage:
            builder = builder.add_extension(_SIGNS, critical=True)
        return self._kept(key, builder.sign(self.key, hashes.SHA256()))

    def self_signed(self, *names: x509.GeneralName) -> Identity:
        """A leaf that vouches for itself."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "self")])
        builder = _begun(subject, subject, key, HOUR).add_extension(x509.SubjectAlternativeName(names), critical=False)
        return self._kept(key, builder.sign(key, hashes.SHA256()))

    def service(self, name: str) -> Identity:
        """What an honest CA would give the service."""
        return self.sign(uri(name))

    def _kept(self, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> Identity:
        self._count += 1
        path = self.directory / f"forged-{id(self)}-{self._count}.pem"
        path.write_bytes(_pem(key) + certificate.public_bytes(serialization.Encoding.PEM))
        path.chmod(0o600)
        return Identity(path)


def _begun(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, ends: timedelta
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return x509.CertificateBuilder(
        issuer, subject, key.public_key(), x509.random_serial_number(), now - HOUR, now + ends
    )


def _own_root() -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{DOMAIN} root")])
    builder = _begun(name, name, key, HOUR).add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
    return key, builder.sign(key, hashes.SHA256())


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def context(identity: Identity | None, alpn: str = "http/1.1") -> ssl.SSLContext:
    """TLS 1.3 as a sidecar speaks it, believing any server. `alpn`: what is offered, with commas between."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname = False
    made.verify_mode = ssl.CERT_NONE
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    if alpn:
        made.set_alpn_protocols(alpn.split(","))
    if identity:
        made.load_cert_chain(identity.path)
    return made


@dataclass
class Peer:
    """Someone who speaks straight to an mTLS port. `server_name` is `<source>.<destination>.<trust domain>`."""

    port: int
    identity: Identity | None
    server_name: str

    async def get(self, path: str = "/", headers: str = "", method: str = "GET") -> Answer | str:
        """One HTTP/1.1 request; or how it was refused below HTTP."""
        return await self.send(f"{method} {path} HTTP/1.1\r\nhost: app\r\n{headers}\r\n".encode("latin-1"))

    async def send(self, data: bytes) -> Answer | str:
        """Bytes, and the first answer to them; or how they were refused below HTTP. An answer too late is an error."""
        async with asyncio.timeout(5):
            try:
                reader, writer = await self._open("http/1.1")
            except (ConnectionError, ssl.SSLError) as error:
                return f"refused: {type(error).__name__}"
            try:
                writer.write(data)
                return await read_answer(reader)
            except (ConnectionError, ssl.SSLError, asyncio.IncompleteReadError) as error:
                return f"refused: {type(error).__name__}"
            finally:
                writer.transport.abort()

    async def everything(self, data: bytes, alpn: str = "http/1.1", wait: float = 1.0) -> bytes:
        """Bytes, and all that comes back within `wait` seconds or until the other side ends."""
        received = b""
        with suppress(ConnectionError, ssl.SSLError, TimeoutError):
            async with asyncio.timeout(wait):
                reader, writer = await self._open(alpn)
                try:
                    writer.write(data)
                    while chunk := await reader.read(65536):
                        received += chunk
                finally:
                    writer.transport.abort()
        return received

    async def http2(self, headers: list[tuple[str, str]], body: bytes = b"") -> Answer | str:
        """One HTTP/2 request with exactly these header fields; or how the stream or connection was refused."""
        async with asyncio.timeout(5):
            try:
                reader, writer = await self._open("h2")
            except (ConnectionError, ssl.SSLError) as error:
                return f"refused: {type(error).__name__}"
            try:
                return await _exchange(reader, writer, headers, body)
            except (ConnectionError, ssl.SSLError, h2.exceptions.ProtocolError) as error:
                return f"refused: {type(error).__name__}"  # the last: an answer after the connection's end was said
            finally:
                writer.transport.abort()

    async def _open(self, alpn: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        made = context(self.identity, alpn)
        return await asyncio.open_connection("127.0.0.1", self.port, ssl=made, server_hostname=self.server_name)


async def _exchange(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, headers: list[tuple[str, str]], body: bytes
) -> Answer | str:
    """The library's own checks are off: what travels is what the test wrote."""
    config = h2.config.H2Configuration(
        validate_outbound_headers=False, normalize_outbound_headers=False, header_encoding="latin-1"
    )
    connection = h2.connection.H2Connection(config)
    connection.initiate_connection()
    connection.send_headers(1, headers, end_stream=not body)
    if body:
        connection.send_data(1, body, end_stream=True)
    writer.write(connection.data_to_send())
    found: dict[str, str] = {}
    received = b""
    while data := await reader.read(65536):
        for event in connection.receive_data(data):
            if isinstance(event, h2.events.ResponseReceived):
                found = dict(event.headers)
            elif isinstance(event, h2.events.DataReceived):
                received += event.data
            elif isinstance(event, h2.events.StreamEnded):
                return Answer(int(found[":status"]), found, received)
            elif isinstance(event, h2.events.StreamReset | h2.events.ConnectionTerminated):
                return f"refused: {type(event).__name__}"
        writer.write(connection.data_to_send())
    return "refused: end"
