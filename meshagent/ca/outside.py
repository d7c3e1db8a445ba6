"""Certificates of public CAs for a gateway's names: what is asked for, and what is taken for an answer."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from meshagent.ca.ordering import Life
from meshagent.ca.x509 import MAX_ANSWER_BYTES, UNREADABLE, key_der, key_to_pem
from meshagent.errors import CertificateRefused

_BEGIN = b"-----BEGIN CERTIFICATE-----"


@dataclass(frozen=True, slots=True)
class Outside:
    """A certificate chain for names outside the mesh, with its key, both PEM."""

    chain_pem: bytes
    key_pem: bytes = field(repr=False)
    life: Life
    names: frozenset[str]


def request_for(key: ec.EllipticCurvePrivateKey, names: Collection[str]) -> bytes:
    """A CSR (PEM) for DNS names."""
    wanted = x509.SubjectAlternativeName([x509.DNSName(name) for name in names])
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).add_extension(wanted, critical=False)
    return request.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def accept_outside(chain_pem: bytes, key: ec.EllipticCurvePrivateKey, names: Collection[str], now: datetime) -> Outside:
    """The chain, where it is for our key and for all of the names, and lives. Raises CertificateRefused."""
    if len(chain_pem) > MAX_ANSWER_BYTES:
        raise _refused("it is larger than any chain")
    try:
        leaf = x509.load_pem_x509_certificates(chain_pem)[0]
        told = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        if key_der(leaf.public_key()) != key_der(key.public_key()):
            raise _refused("it is for another key")
        found = frozenset(told.get_values_for_type(x509.DNSName))
    except (*UNREADABLE, x509.ExtensionNotFound, x509.DuplicateExtension) as error:
        raise _refused(f"it cannot be read: {error}") from None
    if missing := sorted(set(names) - found):
        raise _refused(f"it is not for {', '.join(missing)}")
    if now >= leaf.not_valid_after_utc:
        raise _refused(f"it ended at {leaf.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}")
    return Outside(chain_pem, key_to_pem(key), Life(leaf.not_valid_before_utc, leaf.not_valid_after_utc), found)


def packed(held: Outside) -> bytes:
    """Key and chain as the content of one file."""
    return held.key_pem + held.chain_pem


def unpacked(data: bytes) -> Outside:
    """What `packed` made, also where it has ended. Raises CertificateRefused."""
    key_pem, begin, rest = data.partition(_BEGIN)
    try:
        key = serialization.load_pem_private_key(key_pem, password=None)
    except (*UNREADABLE, TypeError):
        raise _refused("its key cannot be read") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise _refused("its key is not ours")
    return accept_outside(begin + rest, key, (), datetime.min.replace(tzinfo=UTC))


def _refused(reason: str) -> CertificateRefused:
    return CertificateRefused(f"the certificate cannot be used: {reason}", next_step="ask whoever runs the CA")
