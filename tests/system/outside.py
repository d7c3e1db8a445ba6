"""Servers outside the mesh for tests: TLS with a CA of their own."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import RequestReceived

from tests.system.apps import HttpApp

_DAY = timedelta(days=1)


class OutsideCa:
    """A CA of somebody else, with its root in `root`."""

    def __init__(self, directory: Path, name: str) -> None:
        self.directory, self.name = directory, name
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.root = directory / f"{name}-root.pem"
        self.certificate = self._certify(name, self.key, (), ca=True)
        self.root.write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))

    def server(self, *names: str) -> ssl.SSLContext:
        """A server's side of TLS with a certificate for these names."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._certify(names[0], key, names, ca=False)
        path = self.directory / f"{self.name}-{names[0]}.pem"
        pem, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
        path.write_bytes(key.private_bytes(pem, form, serialization.NoEncryption()) + certificate.public_bytes(pem))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        return context

    def _certify(
        self, name: str, key: ec.EllipticCurvePrivateKey, names: tuple[str, ...], *, ca: bool
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self.name)])
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key.public_key())
        builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now - _DAY)
        builder = builder.not_valid_after(now + _DAY)
        builder = builder.add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName([_called(each) for each in names]), False)
        return builder.sign(self.key, hashes.SHA256())


def _called(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)


class TlsApp(HttpApp):
    """An HTTP/1.1 app that speaks TLS."""

    def __init__(self, port: int, name: str, tls: ssl.SSLContext) -> None:
        super().__init__(port, name)
        self._tls = tls

    async def __aenter__(self) -> TlsApp:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, ssl=self._tls)
        return self


class Http2App:
    """Answers every HTTP/2 request over TLS with its own request headers."""

    def __init__(self, port: int, tls: ssl.SSLContext) -> None:
        tls.set_alpn_protocols(["h2"])
        self.port, self._tls = port, tls
        self._server = None

    async def __aenter__(self) -> Http2App:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, ssl=self._tls)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))
        peer.initiate_connection()
        with suppress(ConnectionError, asyncio.CancelledError):
            writer.write(peer.data_to_send())
            while data := await reader.read(65536):
                for event in peer.receive_data(data):
                    if isinstance(event, RequestReceived):
                        said = "\n".join(f"{name}: {value}" for name, value in event.headers)
                        peer.send_headers(event.stream_id, [(":status", "200")])
                        peer.send_data(event.stream_id, said.encode(), end_stream=True)
                writer.write(peer.data_to_send())
                await writer.drain()
        writer.close()
