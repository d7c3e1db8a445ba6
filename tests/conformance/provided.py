"""A CA as the suites see it, and what they ask one for. `providers.py` says how a provider joins."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from meshagent.ca.base import Authority, Signer, obtain
from meshagent.ca.x509 import accept
from meshagent.model.identity import Svid

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
TTL = timedelta(minutes=10)
SERVICES = ("web", "orders", *(f"service-{number}" for number in range(10)))
"""The services that the suites ask certificates for."""


async def _nothing(_: str) -> None:
    """A signer gives a new certificate whenever it is asked."""


@dataclass(frozen=True)
class Provided:
    """A CA that may certify each of SERVICES in `trust_domain`, for `longest` at most when more is asked."""

    authority: Authority
    trust_domain: str
    longest: timedelta
    ttl: timedelta = TTL
    """What is asked for. Some CAs choose themselves, and then this is what they choose."""
    path: str = "svc"
    """What stands between the trust domain and the service in a SPIFFE ID."""
    replace: Callable[[str], Awaitable[None]] = field(default=_nothing)
    """Makes a provider that hands out keys have a new certificate for this service."""

    @property
    def signer(self) -> Signer:
        assert isinstance(self.authority, Signer)
        return self.authority

    def named(self, service: str) -> str:
        return f"spiffe://{self.trust_domain}/{self.path}/{service}"

    async def obtained(self, service: str) -> Svid:
        """A certificate for the service, with whoever's key, that passed every check."""
        issued = await obtain(self.authority, self.named(service), self.ttl)
        return await self.accepted(issued.chain_pem, issued.key_pem, self.named(service))

    async def accepted(self, chain: bytes, key_pem: bytes, identity: str, max_ttl: timedelta | None = None) -> Svid:
        bundle = await self.authority.bundle()
        return accept(chain, key_pem, identity, bundle, self.trust_domain, datetime.now(UTC), max_ttl or self.ttl)


def csr(key: Key, *extensions: x509.ExtensionType, common_name: str = "") -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)] if common_name else [])
    builder = x509.CertificateSigningRequestBuilder().subject_name(name)
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def pem_of(key: Key) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def san(*names: x509.GeneralName) -> x509.SubjectAlternativeName:
    return x509.SubjectAlternativeName(names)


def uri(text: str) -> x509.UniformResourceIdentifier:
    return x509.UniformResourceIdentifier(text)
