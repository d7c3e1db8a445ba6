"""The CSR policy: what of a request counts, what is ignored, what is refused (attack tests 30, 38 and 39)."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given
from hypothesis import strategies as st

from meshagent.ca.issuance import (
    LONGEST_TTL,
    ROOT_LIFE,
    Issuer,
    check_identity,
    granted_ttl,
    issue,
    new_root,
    public_key_of,
    to_pem,
    trust_domain_of,
)
from meshagent.ca.keys import new_key_and_csr
from meshagent.ca.x509 import accept, key_der
from meshagent.errors import AuthorityUnavailable, CertificateRefused
from meshagent.model.identity import TrustBundle
from tests.unit.ca.lying_ca import DOMAIN, HOUR, KEY_PEM, MINUTE, NOW, OUR_KEY, SECOND, WEB, Key, subject, uri

DAY = 24 * HOUR
ROOT_KEY = ec.generate_private_key(ec.SECP256R1())
ISSUER = Issuer(new_root(ROOT_KEY, DOMAIN, NOW), ROOT_KEY)
PINNED = TrustBundle(((DOMAIN, (to_pem(ISSUER.certificate).decode(),)),))


def csr(key: Key, *extensions: x509.ExtensionType, name: str = "") -> bytes:
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject(name))
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    signed = builder.sign(key, None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256())
    return signed.public_bytes(serialization.Encoding.PEM)


# === the request


@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP256R1()),
        ec.generate_private_key(ec.SECP384R1()),
        rsa.generate_private_key(65537, 2048),
    ],
)
def test_the_public_key_of_a_request_is_taken_whatever_else_stands_in_it(key: Key) -> None:
    names = x509.SubjectAlternativeName([uri("spiffe://mesh.internal/svc/orders"), x509.DNSName("orders")])
    request = csr(key, names, x509.BasicConstraints(True, 9), name="orders")
    assert key_der(public_key_of(request)) == key_der(key.public_key())


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: ec.generate_private_key(ec.SECP192R1()), "curve secp192r1"),
        (lambda: ec.generate_private_key(ec.SECP224R1()), "curve secp224r1"),
        (lambda: ec.generate_private_key(ec.SECP521R1()), "curve secp521r1"),
        (lambda: rsa.generate_private_key(65537, 1024), "RSA of 1024 bits"),
        (ed25519.Ed25519PrivateKey.generate, "Ed25519"),
    ],
)
def test_a_request_is_refused_whose_key_is_weak_or_of_no_use_to_envoy(make: Callable[[], Key], reason: str) -> None:
    with pytest.raises(CertificateRefused, match=f"CSR's key is not accepted: {reason}"):
        public_key_of(csr(make()))


def test_a_request_for_a_key_that_the_sender_does_not_hold_is_refused() -> None:
    mine, theirs = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    der = x509.load_pem_x509_csr(csr(mine)).public_bytes(serialization.Encoding.DER)
    stolen = der.replace(key_der(mine.public_key()), key_der(theirs.public_key()))
    forged = x509.load_der_x509_csr(stolen).public_bytes(serialization.Encoding.PEM)
    with pytest.raises(CertificateRefused, match="not signed by its own key"):
        public_key_of(forged)


@pytest.mark.parametrize("text", [b"", b"garbage", KEY_PEM, to_pem(ISSUER.certificate)])
def test_what_is_not_a_request_is_refused(text: bytes) -> None:
    with pytest.raises(CertificateRefused, match="cannot be read"):
        public_key_of(text)


def test_a_request_that_is_too_large_is_refused_unread() -> None:
    with pytest.raises(CertificateRefused, match="has 16385 bytes"):
        public_key_of(b"x" * 16385)


@given(st.binary(max_size=200))
def test_no_garbage_raises_anything_but_a_refusal(garbage: bytes) -> None:
    with pytest.raises(CertificateRefused):
        public_key_of(b"-----BEGIN CERTIFICATE REQUEST-----\n" + garbage + b"\n-----END CERTIFICATE REQUEST-----\n")


# === the name


def test_a_service_of_the_own_trust_domain_may_be_named() -> None:
    check_identity(WEB, DOMAIN)
    check_identity("spiffe://mesh.internal/svc/a-1", DOMAIN)


@pytest.mark.parametrize(
    "asked",
    [
        "spiffe://other.internal/svc/web",
        "spiffe://mesh.internal.evil/svc/web",
        "spiffe://MESH.internal/svc/web",
        "SPIFFE://mesh.internal/svc/web",
        "spiffe://mesh.internal/svc/web\n",
        "spiffe://mesh.internal/svc/web\x00",
        "spiffe://mesh.internal/svc/Web",
        "spiffe://mesh.internal/svc/../x",
        "spiffe://mesh.internal/svc/a/b",
        "spiffe://mesh.internal/svc/*",
        "spiffe://mesh.internal/svc/",
        "spiffe://mesh.internal/svc/web/",
        "spiffe://mesh.internal/svc/w.b",
        "spiffe://mesh.internal/svc/" + "a" * 300,
        "spiffe://mesh.internal/svc/wéb",
        "spiffe://mesh.internal/ns/default/dc/dc1/svc/web",
        "spiffe://mesh.internal",
        "spiffe://user@mesh.internal/svc/web",
        "spiffe://mesh.internal:80/svc/web",
        "https://mesh.internal/svc/web",
        "",
    ],
)
def test_any_other_name_is_refused(asked: str) -> None:
    with pytest.raises(CertificateRefused, match=r"is not spiffe://mesh\.internal/svc/<service name>"):
        check_identity(asked, DOMAIN)


@given(st.text(max_size=80))
def test_whatever_name_is_accepted_is_exactly_of_the_own_form(asked: str) -> None:
    try:
        check_identity(f"spiffe://{DOMAIN}/svc/{asked}", DOMAIN)
    except CertificateRefused:
        return
    assert re.fullmatch("[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", asked)


# === the life


@pytest.mark.parametrize(
    ("asked", "cap", "left", "granted"),
    [
        (HOUR, HOUR, DAY, HOUR),
        (10 * MINUTE, HOUR, DAY, 10 * MINUTE),
        (365 * DAY, HOUR, 900 * DAY, HOUR),
        (365 * DAY, LONGEST_TTL, 900 * DAY, DAY),
        (HOUR, HOUR, 20 * MINUTE, 20 * MINUTE),
        (HOUR, HOUR, MINUTE, MINUTE),
        (5 * SECOND, HOUR, 5 * SECOND, 5 * SECOND),
    ],
)
def test_a_life_is_what_was_asked_capped_and_never_past_the_issuer(
    asked: timedelta, cap: timedelta, left: timedelta, granted: timedelta
) -> None:
    assert granted_ttl(asked, cap, NOW, NOW + left) == granted


@pytest.mark.parametrize("left", [59 * SECOND, 0 * SECOND, -HOUR])
def test_an_issuer_that_is_about_to_end_signs_nothing_rather_than_causing_a_storm_of_renewals(left: timedelta) -> None:
    with pytest.raises(AuthorityUnavailable, match="own certificate ends at"):
        granted_ttl(HOUR, HOUR, NOW, NOW + left)


@pytest.mark.parametrize("asked", [0 * SECOND, -HOUR])
def test_a_life_of_nothing_is_refused(asked: timedelta) -> None:
    with pytest.raises(CertificateRefused, match="cannot live for"):
        granted_ttl(asked, HOUR, NOW, NOW + DAY)


# === the certificate


def test_a_certificate_says_exactly_what_the_policy_says() -> None:
    leaf = issue(OUR_KEY, WEB, HOUR, ISSUER, NOW)
    found = {type(extension.value).__name__: extension for extension in leaf.extensions}
    assert sorted(found) == [
        "AuthorityKeyIdentifier",
        "BasicConstraints",
        "ExtendedKeyUsage",
        "KeyUsage",
        "SubjectAlternativeName",
    ]
    assert list(found["SubjectAlternativeName"].value) == [uri(WEB)]
    assert found["BasicConstraints"].value == x509.BasicConstraints(ca=False, path_length=None)
    assert sorted(use.dotted_string for use in found["ExtendedKeyUsage"].value) == [
        "1.3.6.1.5.5.7.3.1",
        "1.3.6.1.5.5.7.3.2",
    ]
    assert leaf.subject == subject("")
    assert (leaf.not_valid_before_utc, leaf.not_valid_after_utc) == (NOW - MINUTE, NOW + HOUR)


def test_what_we_issue_passes_our_own_acceptance() -> None:
    leaf = to_pem(issue(OUR_KEY, WEB, HOUR, ISSUER, NOW))
    assert accept(leaf, KEY_PEM, WEB, PINNED, DOMAIN, NOW, HOUR).expires_at == NOW + HOUR


@pytest.mark.parametrize(("ttl", "before"), [(60 * SECOND, 6 * SECOND), (10 * MINUTE, MINUTE), (DAY, MINUTE)])
def test_a_certificate_begins_up_to_a_minute_early_but_at_most_a_tenth_of_its_life(
    ttl: timedelta, before: timedelta
) -> None:
    assert issue(OUR_KEY, WEB, ttl, ISSUER, NOW).not_valid_before_utc == NOW - before


def test_serials_are_random_and_never_repeat() -> None:
    serials = {issue(OUR_KEY, WEB, HOUR, ISSUER, NOW).serial_number for _ in range(50)}
    assert len(serials) == 50
    assert max(serials).bit_length() > 120


def test_a_root_is_for_one_trust_domain_and_may_sign_end_entities_only() -> None:
    root = ISSUER.certificate
    assert trust_domain_of(root) == DOMAIN
    assert root.extensions.get_extension_for_class(x509.BasicConstraints).value == x509.BasicConstraints(True, 0)
    usage = root.extensions.get_extension_for_class(x509.KeyUsage).value
    assert (usage.key_cert_sign, usage.digital_signature) == (True, False)
    assert root.not_valid_after_utc == NOW + ROOT_LIFE


def test_a_certificate_without_a_trust_domain_names_none() -> None:
    key_pem, csr_pem = new_key_and_csr()
    assert key_pem != csr_pem
    bare = x509.CertificateBuilder(subject("x"), subject("x"), ROOT_KEY.public_key(), 1, NOW, NOW + HOUR).sign(
        ROOT_KEY, hashes.SHA256()
    )
    assert trust_domain_of(bare) == ""


def test_nothing_is_valid_before_its_root() -> None:
    young = Issuer(new_root(ROOT_KEY, DOMAIN, datetime(2026, 1, 1, tzinfo=UTC)), ROOT_KEY)
    born = young.certificate.not_valid_before_utc
    assert issue(OUR_KEY, WEB, HOUR, young, born).not_valid_before_utc == born
