"""The CA providers that the suites are run against: a module `provided_<name>.py` for each, in this folder.

Such a module has `SIGNS`, whether the provider signs requests or hands out keys with certificates, and
`provided(request, tmp_path)`, an asynchronous context manager that gives a `Provided`. Servers come from fixtures of
the session (`request.getfixturevalue`).
"""

from __future__ import annotations

import importlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol

import pytest
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


class ProviderModule(Protocol):
    SIGNS: bool

    def provided(self, request: pytest.FixtureRequest, tmp_path: Path) -> AbstractAsyncContextManager[Provided]: ...


def _module(path: Path) -> ProviderModule:
    return importlib.import_module(f"tests.conformance.{path.stem}")  # type: ignore[return-value]


PROVIDERS = {path.stem.removeprefix("provided_"): _module(path) for path in Path(__file__).parent.glob("provided_*.py")}
SIGNERS = sorted(name for name, module in PROVIDERS.items() if module.SIGNS)
KEY_MAKERS = sorted(set(PROVIDERS) - set(SIGNERS))


async def opened(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Provided]:
    """The provider that the fixture's parameter names."""
    async with PROVIDERS[request.param].provided(request, tmp_path) as provided:
        yield provided
        await provided.authority.close()


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
