"""What every CA provider must do, whatever stands behind it. A provider joins by an entry in PROVIDERS.

A CA may refuse more than is asked here. What it must never do is to certify anything but what was asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from meshagent.ca import AUTHORITIES, open_authority
from meshagent.ca.base import Signer
from meshagent.ca.rotation import Keep, next_step
from meshagent.ca.x509 import accept, key_der, new_key_and_csr
from meshagent.errors import CertificateRefused
from meshagent.model.identity import Svid

pytestmark = pytest.mark.conformance

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
TTL = timedelta(minutes=10)


@dataclass(frozen=True)
class Provided:
    """A CA that may certify any service of `trust_domain`, and for how long at most."""

    authority: Signer
    trust_domain: str
    longest: timedelta

    def named(self, service: str) -> str:
        return f"spiffe://{self.trust_domain}/svc/{service}"

    async def accepted(self, chain: bytes, key_pem: bytes, identity: str, max_ttl: timedelta = TTL) -> Svid:
        bundle = await self.authority.bundle()
        return accept(chain, key_pem, identity, bundle, self.trust_domain, datetime.now(UTC), max_ttl)


@asynccontextmanager
async def builtin(tmp_path: Path) -> AsyncIterator[Provided]:
    domain = "mesh.internal"
    ca = open_authority("builtin", {}, trust_domain=domain, data_dir=tmp_path, clock=lambda: datetime.now(UTC))
    yield Provided(ca, domain, timedelta(hours=1))


PROVIDERS: dict[str, Callable[[Path], AbstractAsyncContextManager[Provided]]] = {"builtin": builtin}


@pytest.fixture(params=sorted(PROVIDERS))
async def ca(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Provided]:
    async with PROVIDERS[request.param](tmp_path) as provided:
        yield provided


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


def test_every_provider_of_our_own_is_held_to_this_suite() -> None:
    assert set(PROVIDERS) == set(AUTHORITIES)


async def test_it_certifies_our_key_for_exactly_the_service_asked(ca: Provided) -> None:
    web = ca.named("web")
    key_pem, csr_pem = new_key_and_csr(web)
    svid = await ca.accepted(await ca.authority.sign(csr_pem, web, TTL), key_pem, web)
    assert svid.spiffe_id == web
    assert svid.chain_pem.startswith(b"-----BEGIN CERTIFICATE-----")


async def test_a_fresh_certificate_is_not_due_for_renewal(ca: Provided) -> None:
    web = ca.named("web")
    key_pem, csr_pem = new_key_and_csr(web)
    svid = await ca.accepted(await ca.authority.sign(csr_pem, web, TTL), key_pem, web)
    step = next_step(datetime.now(UTC), svid, await ca.authority.bundle(), ca.trust_domain, 0.0)
    assert isinstance(step, Keep)


async def test_many_services_are_certified_at_once_each_with_its_own_serial(ca: Provided) -> None:
    names = [ca.named(f"service-{number}") for number in range(10)]
    requests = [new_key_and_csr(name) for name in names]
    chains = await asyncio.gather(
        *(ca.authority.sign(csr_pem, name, TTL) for name, (_, csr_pem) in zip(names, requests, strict=True))
    )
    svids = [
        await ca.accepted(chain, key_pem, name)
        for chain, name, (key_pem, _) in zip(chains, names, requests, strict=True)
    ]
    assert len({svid.serial for svid in svids}) == len(names)


async def test_a_renewal_has_a_new_serial_and_ends_no_earlier(ca: Provided) -> None:
    web = ca.named("web")
    key_pem, csr_pem = new_key_and_csr(web)
    first = await ca.accepted(await ca.authority.sign(csr_pem, web, TTL), key_pem, web)
    second = await ca.accepted(await ca.authority.sign(csr_pem, web, TTL), key_pem, web)
    assert first.serial != second.serial
    assert first.expires_at <= second.expires_at


async def test_a_year_is_never_granted(ca: Provided) -> None:
    web = ca.named("web")
    key_pem, csr_pem = new_key_and_csr(web)
    try:
        chain = await ca.authority.sign(csr_pem, web, timedelta(days=365))
    except CertificateRefused:
        return
    assert (await ca.accepted(chain, key_pem, web, ca.longest)).spiffe_id == web


@pytest.mark.parametrize(
    "more",
    [
        "another service",
        "a second service",
        "a DNS name",
        "to be a CA",
        "another common name",
    ],
)
async def test_what_else_a_request_asks_for_is_ignored_or_refused_but_never_granted(ca: Provided, more: str) -> None:
    web, orders = uri(ca.named("web")), uri(ca.named("orders"))
    wishes: dict[str, tuple[list[x509.ExtensionType], str]] = {
        "another service": ([san(orders)], ""),
        "a second service": ([san(web, orders)], ""),
        "a DNS name": ([san(web, x509.DNSName("orders"))], ""),
        "to be a CA": ([san(web), x509.BasicConstraints(ca=True, path_length=None)], ""),
        "another common name": ([san(web)], "orders"),
    }
    extensions, common_name = wishes[more]
    key = ec.generate_private_key(ec.SECP256R1())
    try:
        chain = await ca.authority.sign(csr(key, *extensions, common_name=common_name), web.value, TTL)
    except CertificateRefused:
        return
    assert (await ca.accepted(chain, pem_of(key), web.value)).spiffe_id == web.value
    assert "orders" not in x509.load_pem_x509_certificate(chain).subject.rfc4514_string()


@pytest.mark.parametrize(
    "identity",
    [
        "spiffe://other.internal/svc/web",
        "spiffe://{domain}.evil/svc/web",
        "spiffe://{domain}/svc/../web",
        "spiffe://{domain}/svc/Web",
        "spiffe://{domain}/svc/*",
        "spiffe://{domain}/svc/web\n",
        "spiffe://{domain}",
        "web",
        "",
    ],
)
async def test_a_name_that_is_not_a_service_of_the_trust_domain_is_refused(ca: Provided, identity: str) -> None:
    _, csr_pem = new_key_and_csr()
    with pytest.raises(CertificateRefused):
        await ca.authority.sign(csr_pem, identity.format(domain=ca.trust_domain), TTL)


@pytest.mark.parametrize(
    "make", [lambda: rsa.generate_private_key(65537, 1024), lambda: ec.generate_private_key(ec.SECP192R1())]
)
async def test_a_weak_key_is_refused(ca: Provided, make: Callable[[], Key]) -> None:
    with pytest.raises(CertificateRefused):
        await ca.authority.sign(csr(make(), san(uri(ca.named("web")))), ca.named("web"), TTL)


async def test_a_key_that_the_sender_does_not_hold_is_refused(ca: Provided) -> None:
    mine, theirs = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    request = x509.load_pem_x509_csr(csr(mine, san(uri(ca.named("web")))))
    stolen = request.public_bytes(serialization.Encoding.DER).replace(
        key_der(mine.public_key()), key_der(theirs.public_key())
    )
    forged = x509.load_der_x509_csr(stolen).public_bytes(serialization.Encoding.PEM)
    with pytest.raises(CertificateRefused):
        await ca.authority.sign(forged, ca.named("web"), TTL)


@pytest.mark.parametrize("garbage", [b"", b"\x00" * 64, b"-----BEGIN CERTIFICATE REQUEST-----\n", b"x" * 100_000])
async def test_what_is_not_a_request_is_refused(ca: Provided, garbage: bytes) -> None:
    with pytest.raises(CertificateRefused):
        await ca.authority.sign(garbage, ca.named("web"), TTL)


async def test_the_bundle_holds_ca_certificates_of_its_trust_domain_and_stays_the_same(ca: Provided) -> None:
    bundle = await ca.authority.bundle()
    roots = x509.load_pem_x509_certificates(bundle.pem(ca.trust_domain))
    assert all(root.extensions.get_extension_for_class(x509.BasicConstraints).value.ca for root in roots)
    assert b"PRIVATE" not in bundle.pem(ca.trust_domain)
    assert (await ca.authority.bundle()).digest() == bundle.digest()


async def test_a_ca_that_works_says_so(ca: Provided) -> None:
    health = await ca.authority.check()
    assert (health.ok, health.problems) == (True, ())
