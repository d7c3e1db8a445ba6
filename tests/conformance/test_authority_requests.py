"""What every CA that signs requests makes of a strange one: nothing of it counts but the key."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from meshagent.ca.x509 import key_der
from meshagent.errors import CertificateRefused
from tests.conformance.provided import Key, Provided, csr, pem_of, san, uri
from tests.conformance.providers import SIGNERS, opened

pytestmark = pytest.mark.conformance


@pytest.fixture(params=SIGNERS)
async def ca(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Provided]:
    async for provided in opened(request, tmp_path):
        yield provided


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
        chain = await ca.signer.sign(csr(key, *extensions, common_name=common_name), web.value, ca.ttl)
    except CertificateRefused:
        return
    assert (await ca.accepted(chain, pem_of(key), web.value)).spiffe_id == web.value
    assert "orders" not in x509.load_pem_x509_certificate(chain).subject.rfc4514_string()


@pytest.mark.parametrize(
    "make", [lambda: rsa.generate_private_key(65537, 1024), lambda: ec.generate_private_key(ec.SECP192R1())]
)
async def test_a_weak_key_is_refused(ca: Provided, make: Callable[[], Key]) -> None:
    with pytest.raises(CertificateRefused):
        await ca.signer.sign(csr(make(), san(uri(ca.named("web")))), ca.named("web"), ca.ttl)


async def test_a_key_that_the_sender_does_not_hold_is_refused(ca: Provided) -> None:
    mine, theirs = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    request = x509.load_pem_x509_csr(csr(mine, san(uri(ca.named("web")))))
    stolen = request.public_bytes(serialization.Encoding.DER).replace(
        key_der(mine.public_key()), key_der(theirs.public_key())
    )
    forged = x509.load_der_x509_csr(stolen).public_bytes(serialization.Encoding.PEM)
    with pytest.raises(CertificateRefused):
        await ca.signer.sign(forged, ca.named("web"), ca.ttl)


@pytest.mark.parametrize("garbage", [b"", b"\x00" * 64, b"-----BEGIN CERTIFICATE REQUEST-----\n", b"x" * 100_000])
async def test_what_is_not_a_request_is_refused(ca: Provided, garbage: bytes) -> None:
    with pytest.raises(CertificateRefused):
        await ca.signer.sign(garbage, ca.named("web"), ca.ttl)
