"""The way from a certificate to a pinned root, and every reason why there is none (attack tests 21, 22 and 43)."""

from __future__ import annotations

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from meshagent.errors import CertificateRefused
from meshagent.model.identity import TrustBundle
from tests.unit.ca.lying_ca import DOMAIN, MINUTE, ROOT, SECOND, Ca, Order, judge, root_ca, trusting, usage


def test_an_unknown_root_is_refused() -> None:
    with pytest.raises(CertificateRefused, match="does not lead to a pinned root of mesh.internal"):
        judge(root_ca().issue(Order()))


def test_a_root_that_comes_along_in_the_answer_is_not_trusted_for_that() -> None:
    stranger = root_ca()
    with pytest.raises(CertificateRefused, match="does not lead to a pinned root"):
        judge(stranger.issue(Order()), stranger.certificate)


def test_a_root_of_the_same_name_with_another_key_is_refused() -> None:
    with pytest.raises(CertificateRefused, match="signature"):
        judge(root_ca().issue(Order()), roots=trusting(ROOT))


def test_attack_22_a_root_pinned_for_another_trust_domain_does_not_count() -> None:
    other = root_ca()
    both = TrustBundle(((DOMAIN, (ROOT.pem,)), ("other.internal", (other.pem,))))
    with pytest.raises(CertificateRefused, match="does not lead to a pinned root of mesh.internal"):
        judge(other.issue(Order()), roots=both)


def test_attack_21_a_retired_root_is_refused() -> None:
    with pytest.raises(CertificateRefused, match="does not lead to a pinned root"):
        judge(ROOT.issue(Order()), roots=trusting(root_ca()))


def test_without_a_pinned_root_nothing_is_accepted() -> None:
    with pytest.raises(CertificateRefused, match="no root is pinned for mesh.internal"):
        judge(ROOT.issue(Order()), roots=TrustBundle())


def test_a_pinned_bundle_that_cannot_be_read_is_named() -> None:
    with pytest.raises(CertificateRefused, match="pinned roots of mesh.internal cannot be read"):
        judge(ROOT.issue(Order()), roots=TrustBundle(((DOMAIN, ("garbage",)),)))


def test_a_missing_intermediate_is_refused() -> None:
    with pytest.raises(CertificateRefused, match="does not lead to a pinned root"):
        judge(ROOT.intermediate().issue(Order()))


def test_a_service_cannot_act_as_a_ca_with_its_own_certificate() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    service = Ca(key, ROOT.issue(Order(key=key, subject="orders")))
    with pytest.raises(CertificateRefused, match="certificate 2 of the chain is not a CA's"):
        judge(service.issue(Order()), service.certificate)


@pytest.mark.parametrize(
    ("wishes", "reason"),
    [
        ({"usage": usage("digital_signature")}, "lacks keyCertSign"),
        ({"ends": -SECOND}, "not valid at validation time"),
        ({"begins": MINUTE}, "not valid at validation time"),
        ({"critical": x509.ObjectIdentifier("1.2.3.4")}, "critical extension"),
    ],
)
def test_an_intermediate_is_refused_that_may_not_sign_now(wishes: dict[str, object], reason: str) -> None:
    middle = ROOT.intermediate(**wishes)
    with pytest.raises(CertificateRefused, match=reason):
        judge(middle.issue(Order()), middle.certificate)


def test_a_chain_longer_than_its_ca_allows_is_refused() -> None:
    first = ROOT.intermediate(path_length=0)
    second = first.intermediate()
    with pytest.raises(CertificateRefused, match="path length"):
        judge(second.issue(Order()), second.certificate, first.certificate)


def line_of(intermediates: int) -> list[Ca]:
    line = [ROOT]
    for _ in range(intermediates):
        line.append(line[-1].intermediate())
    return line[1:]


def test_a_chain_of_four_intermediates_is_accepted_in_any_order() -> None:
    line = line_of(4)
    svid = judge(line[-1].issue(Order()), *(ca.certificate for ca in line))
    assert svid.chain_pem.count(b"BEGIN") == 5


def test_a_chain_of_more_than_four_intermediates_is_refused() -> None:
    line = line_of(5)
    with pytest.raises(CertificateRefused, match="max depth"):
        judge(line[-1].issue(Order()), *(ca.certificate for ca in line))


def test_a_root_with_a_weak_key_is_refused_even_when_pinned() -> None:
    weak = root_ca(rsa.generate_private_key(65537, 1024))
    with pytest.raises(CertificateRefused, match="too weak"):
        judge(weak.issue(Order()), roots=trusting(weak))
