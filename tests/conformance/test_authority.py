"""What every CA provider must do, whatever stands behind it: `providers.py` says how one joins.

A CA may refuse more than is asked here. What it must never do is to certify anything but what was asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from meshagent.ca import AUTHORITIES
from meshagent.ca.base import KeyMaker, Signer, obtain
from meshagent.ca.rotation import Keep, next_step
from meshagent.errors import CertificateRefused
from tests.conformance.provided import Provided
from tests.conformance.providers import KEY_MAKERS, PROVIDERS, opened

pytestmark = pytest.mark.conformance


@pytest.fixture(params=sorted(PROVIDERS))
async def ca(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Provided]:
    async for provided in opened(request, tmp_path):
        yield provided


def test_every_provider_of_our_own_is_held_to_this_suite() -> None:
    assert set(PROVIDERS) == set(AUTHORITIES)


async def test_it_signs_or_makes_keys_and_never_both(ca: Provided, request: pytest.FixtureRequest) -> None:
    makes_keys = request.node.callspec.params["ca"] in KEY_MAKERS
    assert isinstance(ca.authority, KeyMaker) == makes_keys
    assert isinstance(ca.authority, Signer) != makes_keys


async def test_it_certifies_exactly_the_service_asked(ca: Provided) -> None:
    svid = await ca.obtained("web")
    assert svid.spiffe_id == ca.named("web")
    assert svid.chain_pem.startswith(b"-----BEGIN CERTIFICATE-----")


async def test_a_fresh_certificate_is_not_due_for_renewal(ca: Provided) -> None:
    svid = await ca.obtained("web")
    step = next_step(datetime.now(UTC), svid, await ca.authority.bundle(), ca.trust_domain, 0.0)
    assert isinstance(step, Keep)


async def test_many_services_are_certified_at_once_each_with_its_own_serial_and_key(ca: Provided) -> None:
    svids = await asyncio.gather(*(ca.obtained(f"service-{number}") for number in range(10)))
    assert len({svid.serial for svid in svids}) == len({svid.key_pem for svid in svids}) == 10


async def test_a_renewal_has_a_new_serial_and_key_and_ends_no_earlier(ca: Provided) -> None:
    first = await ca.obtained("web")
    await ca.replace("web")
    second = await ca.obtained("web")
    assert first.serial != second.serial
    assert first.key_pem != second.key_pem
    assert first.expires_at <= second.expires_at


async def test_a_year_is_never_granted(ca: Provided) -> None:
    web = ca.named("web")
    try:
        issued = await obtain(ca.authority, web, timedelta(days=365))
    except CertificateRefused:
        return
    assert (await ca.accepted(issued.chain_pem, issued.key_pem, web, ca.longest)).spiffe_id == web


@pytest.mark.parametrize(
    "identity",
    [
        "spiffe://other.internal/svc/web",
        "spiffe://{domain}.evil/svc/web",
        "spiffe://{domain}/svc/../web",
        "spiffe://{domain}/svc/Web",
        "spiffe://{domain}/svc/*",
        "spiffe://{domain}/svc/web\n",
        "spiffe://{domain}/host/web",
        "spiffe://{domain}",
        "web",
        "",
    ],
)
async def test_a_name_that_is_not_a_service_of_the_trust_domain_is_refused(ca: Provided, identity: str) -> None:
    asked = identity.format(domain=ca.trust_domain)
    with pytest.raises(CertificateRefused):
        await obtain(ca.authority, asked, ca.ttl)


async def test_the_bundle_holds_ca_certificates_of_its_trust_domain_and_stays_the_same(ca: Provided) -> None:
    bundle = await ca.authority.bundle()
    roots = x509.load_pem_x509_certificates(bundle.pem(ca.trust_domain))
    assert all(root.extensions.get_extension_for_class(x509.BasicConstraints).value.ca for root in roots)
    assert b"PRIVATE" not in bundle.pem(ca.trust_domain)
    assert (await ca.authority.bundle()).digest() == bundle.digest()


async def test_a_ca_that_works_says_so(ca: Provided) -> None:
    health = await ca.authority.check()
    assert (health.ok, health.problems) == (True, ())
