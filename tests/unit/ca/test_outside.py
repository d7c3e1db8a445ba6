"""What a public CA answers is taken only where it is for our key and for the names that were asked for."""

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from meshagent.ca.acme_calls import retry_after
from meshagent.ca.outside import accept_outside, packed, request_for, unpacked
from meshagent.errors import CertificateRefused

NOW = datetime(2026, 11, 21, tzinfo=UTC)
NAMES = ("shop.example.org", "pay.example.org")
KEY = ec.generate_private_key(ec.SECP256R1())
CA = ec.generate_private_key(ec.SECP256R1())


def chain(*names, key=KEY, ends=NOW + timedelta(days=90)):
    csr = x509.load_pem_x509_csr(request_for(key, NAMES))
    issuer = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "CA")])
    made = x509.CertificateBuilder(issuer, csr.subject, csr.public_key(), 7, NOW - timedelta(days=1), ends)
    if names:
        made = made.add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=True)
    return made.sign(CA, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def test_a_request_names_all_hosts_and_is_signed_with_the_key():
    csr = x509.load_pem_x509_csr(request_for(KEY, NAMES))
    told = csr.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert csr.is_signature_valid and tuple(told.get_values_for_type(x509.DNSName)) == NAMES


def test_a_chain_for_our_key_and_names_is_taken_and_comes_back_from_disk():
    taken = accept_outside(chain(*NAMES, "more.example.org"), KEY, NAMES, NOW)
    assert taken.names == {*NAMES, "more.example.org"}
    assert (taken.life.not_before, taken.life.expires_at) == (NOW - timedelta(days=1), NOW + timedelta(days=90))
    assert unpacked(packed(taken)) == taken
    assert b"PRIVATE" not in repr(taken).encode()


def test_one_that_has_ended_comes_back_from_disk_but_not_from_a_ca():
    ended = chain(*NAMES, ends=NOW - timedelta(hours=1))
    with pytest.raises(CertificateRefused, match="it ended at 2026-11-20T23:00:00Z"):
        accept_outside(ended, KEY, NAMES, NOW)
    kept = accept_outside(ended, KEY, NAMES, NOW - timedelta(hours=2))
    assert unpacked(packed(kept)) == kept


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda: chain(*NAMES, key=ec.generate_private_key(ec.SECP256R1())), "for another key"),
        (lambda: chain("shop.example.org"), "not for pay.example.org"),
        (chain, "cannot be read"),
        (lambda: b"", "cannot be read"),
        (lambda: b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "cannot be read"),
        (lambda: chain(*NAMES) * 5000, "larger than any chain"),
    ],
)
def test_anything_else_is_refused(answer, words):
    with pytest.raises(CertificateRefused, match=words):
        accept_outside(answer(), KEY, NAMES, NOW)


@pytest.mark.parametrize("data", [b"", b"nonsense", chain(*NAMES)])
def test_a_file_without_a_key_is_refused(data):
    with pytest.raises(CertificateRefused, match="its key cannot be read"):
        unpacked(data)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("120", 120),
        ("Sat, 21 Nov 2026 00:01:00 GMT", 60),
        ("Fri, 20 Nov 2026 00:01:00 GMT", 0),
        ("", 0),
        ("soon", 0),
        ("-5", 0),
        ("9" * 30, 0),
    ],
)
def test_a_ca_may_say_when_to_come_back(text, seconds):
    assert retry_after(text, NOW) == timedelta(seconds=seconds)
