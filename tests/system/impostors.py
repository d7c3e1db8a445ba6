"""HTTPS servers that stand where an authority should: with any certificate, and a record of all that they were sent."""

from __future__ import annotations

import asyncio
import json
import ssl
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

DOMAIN = "mesh.internal"


@dataclass
class Root:
    """A root that signs whatever it is asked to."""

    name: str = "root"
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    certificate: x509.Certificate = field(init=False)

    def __post_init__(self) -> None:
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self.name)])
        built = _builder(subject, subject, self.key.public_key(), timedelta(days=1))
        built = built.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        self.certificate = built.sign(self.key, hashes.SHA256())

    @property
    def pem(self) -> str:
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode()

    @property
    def fingerprint(self) -> str:
        return f"sha256:{self.certificate.fingerprint(hashes.SHA256()).hex()}"

    def certify(
        self, key: ec.EllipticCurvePublicKey, *uris: str, client: bool = True, life: timedelta = timedelta(hours=1)
    ) -> str:
        """A certificate (PEM) with these names, for a server, and for a client unless told."""
        built = _builder(x509.Name([]), self.certificate.subject, key, life)
        names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri) for uri in uris])
        uses = [ExtendedKeyUsageOID.SERVER_AUTH, *([ExtendedKeyUsageOID.CLIENT_AUTH] if client else [])]
        built = built.add_extension(names, critical=True).add_extension(x509.ExtendedKeyUsage(uses), critical=False)
        return built.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, life: timedelta
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder(subject_name=subject, issuer_name=issuer, public_key=key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(seconds=30))
        .not_valid_after(now + life)
    )


@dataclass
class Impostor:
    """What it was asked, and what it answers by path: a value, a status with one, or a function of what was asked."""

    address: str
    answers: dict[str, object]
    asked: list[tuple[str, bytes]] = field(default_factory=list)
    heads: list[str] = field(default_factory=list)

    @property
    def paths(self) -> list[str]:
        return [path for path, _ in self.asked]


@asynccontextmanager
async def standing(directory: Path, issuer: Root, *uris: str, newest: ssl.TLSVersion | None = None, **answers: object):
    """A server with a certificate of `issuer` for these names. `answers`: roots={...} answers /v1/roots."""
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    file = directory / f"server-{id(key)}.pem"
    file.write_text(pem + issuer.certify(key.public_key(), *uris))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    if newest:
        context.maximum_version = newest

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            length = next(
                (int(line.split(":")[1]) for line in head.splitlines() if line.lower().startswith("content-length")), 0
            )
            body = await reader.readexactly(length)
            path = head.split()[1]
            made.asked.append((path, body))
            made.heads.append(head)
            answer = made.answers.get(path.removeprefix("/v1/"))
            value = answer(json.loads(body or b"{}")) if callable(answer) else answer
            status, value = (404, {"message": "no"}) if value is None else (200, value)
            if isinstance(value, tuple):
                status, value = value
            text = value if isinstance(value, bytes) else json.dumps(value).encode()
            writer.write(f"HTTP/1.1 {status} X\r\nContent-Length: {len(text)}\r\nConnection: close\r\n\r\n".encode())
            writer.write(text)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    made = Impostor(f"127.0.0.1:{server.sockets[0].getsockname()[1]}", dict(answers))
    async with server:
        yield made
