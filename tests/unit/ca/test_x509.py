"""Every reason to refuse a certificate, one test each (attack tests 13, 14, 15 and 43), and what is accepted."""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Callable
from dataclasses import replace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given, settings
from hypothesis import strategies as st

from meshagent.ca.keys import new_key_and_csr
from meshagent.ca.x509 import MAX_ANSWER_BYTES, key_der
from meshagent.errors import CertificateRefused
from meshagent.model.identity import Svid, TrustBundle
from tests.unit.ca.lying_ca import (
    BOTH,
    CA_ORDER,
    CSR_PEM,
    HOUR,
    KEY_PEM,
    MINUTE,
    NOW,
    ROOT,
    SECOND,
    WEB,
    Key,
    Order,
    judge,
    pem_of,
    private_pem,
    root_ca,
    subject,
    trusting,
    uri,
    usage,
)

# === what is accepted


def test_a_good_answer_becomes_an_svid_with_the_facts_of_its_leaf() -> None:
    leaf = ROOT.issue(Order())
    svid = judge(leaf)
    assert svid == Svid(
        spiffe_id=WEB,
        chain_pem=pem_of(leaf),
        key_pem=KEY_PEM,
        serial=f"{leaf.serial_number:x}",
        not_before=NOW - MINUTE,
        expires_at=NOW + HOUR,
        root_digest=ROOT.certificate.fingerprint(hashes.SHA256()).hex(),
    )
    assert "PRIVATE" not in repr(svid)


def test_an_intermediate_is_kept_while_the_root_and_the_rest_of_the_text_are_dropped() -> None:
    middle = ROOT.intermediate()
    leaf = middle.issue(Order())
    svid = judge(b"words before\n", leaf, KEY_PEM, middle.certificate, ROOT.certificate)
    assert svid.chain_pem == pem_of(leaf, middle.certificate)
    assert svid.root_digest == ROOT.certificate.fingerprint(hashes.SHA256()).hex()


def test_an_svid_ends_when_the_first_certificate_of_its_chain_ends() -> None:
    middle = ROOT.intermediate(ends=10 * MINUTE)
    assert judge(middle.issue(Order()), middle.certificate).expires_at == NOW + 10 * MINUTE


@pytest.mark.parametrize(
    "order",
    [
        Order(ca=None),
        Order(usage=None),
        Order(usage=usage("digital_signature", "key_encipherment", "key_agreement")),
        Order(extended=(*BOTH, ExtendedKeyUsageOID.CODE_SIGNING)),
        Order(subject="any text"),
        Order(begins=60 * SECOND, ends=30 * MINUTE),
        Order(ends=HOUR + 300 * SECOND),
    ],
    ids=lambda order: "",
)
def test_differences_between_honest_cas_are_accepted(order: Order) -> None:
    assert judge(ROOT.issue(order)).spiffe_id == WEB


def test_a_root_as_openssl_makes_it_without_key_usage_is_accepted() -> None:
    bare = root_ca(order=replace(CA_ORDER, usage=None))
    assert judge(bare.issue(Order()), roots=trusting(bare)).spiffe_id == WEB


def test_during_a_root_rotation_the_new_and_the_old_root_both_count() -> None:
    new = root_ca()
    assert (
        judge(ROOT.issue(Order()), roots=trusting(ROOT, new)).root_digest
        != judge(new.issue(Order()), roots=trusting(ROOT, new)).root_digest
    )


def test_consuls_form_of_the_id_is_understood() -> None:
    consul = "spiffe://mesh.internal/ns/default/dc/dc1/svc/web"
    assert judge(ROOT.issue(Order(names=[uri(consul)])), asked=consul).spiffe_id == consul


@pytest.mark.parametrize("key", [ec.generate_private_key(ec.SECP384R1()), rsa.generate_private_key(65537, 2048)])
def test_stronger_and_rsa_keys_are_accepted(key: Key) -> None:
    assert judge(ROOT.issue(Order(key=key)), key_pem=private_pem(key)).spiffe_id == WEB


def test_a_request_is_signed_by_its_own_key_and_carries_the_name_only_when_told() -> None:
    key_pem, csr_pem = new_key_and_csr()
    request = x509.load_pem_x509_csr(csr_pem)
    key = serialization.load_pem_private_key(key_pem, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP256R1)
    assert request.is_signature_valid and key_der(request.public_key()) == key_der(key.public_key())
    assert (len(request.extensions), len(request.subject)) == (0, 0)
    named = x509.load_pem_x509_csr(new_key_and_csr(WEB)[1]).extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    assert list(named.value) == [uri(WEB)]


# === names


def named(*texts: str) -> Order:
    return Order(names=[uri(text) for text in texts])


NAMES: dict[str, tuple[Order, str]] = {
    "another service": (named("spiffe://mesh.internal/svc/orders"), "is for .*svc/orders"),
    "a longer name": (named(WEB + "2"), "is for .*web2"),
    "a shorter name": (named(WEB[:-1]), "is for .*svc/we'"),
    "a path below it": (named(WEB + "/x"), "is for"),
    "dot-dot": (named("spiffe://mesh.internal/svc/orders/../web"), "is for"),
    "a trailing slash": (named(WEB + "/"), "is for"),
    "a trailing blank": (named(WEB + " "), "is for"),
    "an upper-case trust domain": (named("spiffe://MESH.internal/svc/web"), "is for"),
    "an upper-case scheme": (named("SPIFFE://mesh.internal/svc/web"), "is for"),
    "another trust domain": (named("spiffe://evil.internal/svc/web"), "is for"),
    "a longer trust domain": (named("spiffe://mesh.internal.evil/svc/web"), "is for"),
    "a NUL after the name": (named(WEB + "\x00.evil"), r"is for .*\\x00"),
    "a percent-encoded letter": (named("spiffe://mesh.internal/svc/%77eb"), "is for"),
    "a query": (named(WEB + "?x=1"), "is for"),
    "two names": (named(WEB, "spiffe://mesh.internal/svc/orders"), "one name.* has 2"),
    "the right name twice": (named(WEB, WEB), "one name.* has 2"),
    "a DNS name besides": (Order(names=[uri(WEB), x509.DNSName("web")]), "one name.* has 2: .*DNSName 'web'"),
    "the text in a DNS name": (Order(names=[x509.DNSName(WEB)]), "must be a URI and is DNSName"),
    "the text in an e-mail name": (
        Order(names=[x509.RFC822Name._init_without_validation(WEB)]),
        "must be a URI and is RFC822Name",
    ),
    "an IP address": (
        Order(names=[x509.IPAddress(ipaddress.ip_address("10.0.0.1"))]),
        "must be a URI and is IPAddress",
    ),
    "a directory name": (Order(names=[x509.DirectoryName(subject(WEB))]), "must be a URI and is DirectoryName"),
    "no names": (Order(names=[]), "one name"),
    "the text in the common name only": (Order(names=None, subject=WEB), "names nobody"),
}


@pytest.mark.parametrize("case", NAMES)
def test_a_certificate_is_refused_that_has(case: str) -> None:
    order, reason = NAMES[case]
    with pytest.raises(CertificateRefused, match=reason):
        judge(ROOT.issue(order))


@given(st.text(max_size=40))
@settings(max_examples=100, deadline=None)
def test_no_other_text_passes_for_the_name(text: str) -> None:
    try:
        leaf = ROOT.issue(named(text))
    except ValueError:  # a URI in a certificate is ASCII
        return
    if text != WEB:
        with pytest.raises(CertificateRefused):
            judge(leaf)


@pytest.mark.parametrize("asked", ["spiffe://other.internal/svc/web", "spiffe://mesh.internal/svc/../web", "web", ""])
def test_a_name_that_is_not_of_the_trust_domain_is_never_accepted_even_when_asked(asked: str) -> None:
    with pytest.raises(CertificateRefused, match="is not a SPIFFE ID of mesh.internal"):
        judge(ROOT.issue(named(asked)), asked=asked)


# === what it may be used for, and when

USES: dict[str, tuple[Order, str]] = {
    "a CA's certificate": (Order(ca=True), "CA:TRUE"),
    "no digitalSignature": (Order(usage=usage("key_encipherment")), "lacks digitalSignature"),
    "keyCertSign": (Order(usage=usage("digital_signature", "key_cert_sign")), "keyUsage is a CA's"),
    "cRLSign": (Order(usage=usage("digital_signature", "crl_sign")), "keyUsage is a CA's"),
    "no extendedKeyUsage": (Order(extended=None), "clientAuth and serverAuth"),
    "no clientAuth": (Order(extended=[ExtendedKeyUsageOID.SERVER_AUTH]), "clientAuth and serverAuth"),
    "no serverAuth": (Order(extended=[ExtendedKeyUsageOID.CLIENT_AUTH]), "clientAuth and serverAuth"),
    "any use instead": (Order(extended=[ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE]), "clientAuth and serverAuth"),
    "a critical extension nobody knows": (Order(critical=x509.ObjectIdentifier("1.2.3.4")), "critical extension"),
    "ended": (Order(begins=-2 * HOUR, ends=-SECOND), "ended at 2026-11-21T11:59:59Z"),
    "ends this moment": (Order(begins=-2 * HOUR, ends=0 * SECOND), "ended at"),
    "begins too far ahead": (Order(begins=61 * SECOND), "begins at 2026-11-21T12:01:01Z.*compare the clocks"),
    "longer than asked": (Order(ends=HOUR + 301 * SECOND), "later than the 1:00:00 asked"),
    "a year": (Order(ends=8766 * HOUR), "later than"),
}


@pytest.mark.parametrize("case", USES)
def test_a_certificate_is_refused_for(case: str) -> None:
    order, reason = USES[case]
    with pytest.raises(CertificateRefused, match=reason) as refused:
        judge(ROOT.issue(order))
    assert refused.value.next_step


# === keys


def test_a_certificate_for_another_key_is_refused() -> None:
    with pytest.raises(CertificateRefused, match="for another key than ours"):
        judge(ROOT.issue(Order(key=ec.generate_private_key(ec.SECP256R1()))))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: ec.generate_private_key(ec.SECP192R1()), "curve secp192r1"),
        (lambda: ec.generate_private_key(ec.SECP224R1()), "curve secp224r1"),
        (lambda: ec.generate_private_key(ec.SECP256K1()), "curve secp256k1"),
        (lambda: ec.generate_private_key(ec.SECP521R1()), "curve secp521r1"),
        (lambda: rsa.generate_private_key(65537, 1024), "RSA of 1024 bits"),
        (ed25519.Ed25519PrivateKey.generate, "Ed25519"),
    ],
)
def test_a_key_that_is_weak_or_that_envoy_cannot_use_is_refused(make: Callable[[], Key], reason: str) -> None:
    key = make()
    with pytest.raises(CertificateRefused, match=f"key is not accepted: {reason}"):
        judge(ROOT.issue(Order(key=key)), key_pem=private_pem(key))


# === garbage


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\x00" * 100,
        b'{"error": "permission denied"}',
        b"-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n",
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        CSR_PEM,
        KEY_PEM,
    ],
)
def test_an_answer_that_holds_no_certificate_is_refused(answer: bytes) -> None:
    with pytest.raises(CertificateRefused, match="not a chain of PEM certificates"):
        judge(answer)


def test_an_answer_larger_than_the_bound_is_refused_unread() -> None:
    with pytest.raises(CertificateRefused, match="has 65537 bytes; at most 65536 are read"):
        judge(b"x" * (MAX_ANSWER_BYTES + 1))


def test_an_answer_of_too_many_certificates_is_refused() -> None:
    with pytest.raises(CertificateRefused, match="holds 11 certificates"):
        judge(*[ROOT.issue(Order())] * 11)


LEAF = ROOT.issue(Order())
LEAF_DER = LEAF.public_bytes(serialization.Encoding.DER)


@pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")  # a serial made negative
@given(place=st.integers(0, len(LEAF_DER) - 1), flipped=st.integers(1, 255))
@settings(max_examples=200, deadline=None)
def test_a_damaged_certificate_is_refused_and_nothing_else_happens(place: int, flipped: int) -> None:
    der = bytearray(LEAF_DER)
    der[place] ^= flipped
    try:
        svid = judge(ssl.DER_cert_to_PEM_cert(bytes(der)).encode())
    except CertificateRefused:
        return
    # The count of unused bits before the signature may be wrong without harm; nothing that was signed may.
    assert x509.load_pem_x509_certificate(svid.chain_pem).tbs_certificate_bytes == LEAF.tbs_certificate_bytes


def test_beside_another_trust_domain_a_certificate_without_key_usage_is_refused_as_envoy_does() -> None:
    certificate = ROOT.issue(Order(usage=None))
    assert judge(certificate).spiffe_id == WEB
    two = TrustBundle((*trusting(ROOT).roots, ("other.internal", (root_ca().pem,))))
    with pytest.raises(CertificateRefused, match="keyUsage"):
        judge(certificate, roots=two)
    assert judge(ROOT.issue(Order()), roots=two).spiffe_id == WEB
