"""How we sign, wherever we are the CA: nothing of a CSR counts but its public key, everything else is ours to say.

The rules are those of the CSR policy that attack tests 38 and 39 hold us to: one name, of our own trust domain; an end
entity for both ends of a connection; a short life that never outlasts the issuer's.
"""

from __future__ import annotations

import ipaddress
import secrets
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from meshagent.ca.x509 import UNREADABLE, key_weakness
from meshagent.errors import AuthorityUnavailable, CertificateRefused
from meshagent.model.names import parse_spiffe_id, spiffe_id

DEFAULT_TTL = timedelta(hours=1)
LONGEST_TTL = timedelta(hours=24)
ROOT_LIFE = timedelta(days=3650)
SHORTEST_REST = timedelta(minutes=1)  # see `granted_ttl`
BACKDATED = timedelta(seconds=60)  # for hosts whose clock is behind
MAX_CSR_BYTES = 16 * 1024
INTERMEDIATE_LIFE = timedelta(days=365)
Uses = tuple[x509.ObjectIdentifier, ...]
BOTH_ENDS: Uses = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)
CLIENT_ONLY: Uses = (ExtendedKeyUsageOID.CLIENT_AUTH,)
SERVER_ONLY: Uses = (ExtendedKeyUsageOID.SERVER_AUTH,)


@dataclass(frozen=True, slots=True)
class Issuer:
    """A CA's certificate and the key that belongs to it."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey = field(repr=False)


def public_key_of(csr_pem: bytes) -> CertificatePublicKeyTypes:
    """The public key of a CSR whose sender has shown to hold the private one. Names and extensions in it are not read.

    Raises CertificateRefused when it is too large, not a CSR, not signed by its own key, or when the key is of no use.
    """
    if len(csr_pem) > MAX_CSR_BYTES:
        raise _refused(f"the CSR has {len(csr_pem)} bytes; at most {MAX_CSR_BYTES} are read")
    try:
        request = x509.load_pem_x509_csr(csr_pem)
        key = request.public_key()
        signed = request.is_signature_valid
    except UNREADABLE as error:
        raise _refused(f"the CSR cannot be read: {error}") from error
    if not signed:
        raise _refused("the CSR is not signed by its own key")
    if weakness := key_weakness(key):
        raise _refused(f"the CSR's key is not accepted: {weakness}")
    return key


def check_identity(asked: str, trust_domain: str) -> None:
    """Raises CertificateRefused unless `asked` is exactly `spiffe://<trust domain>/svc/<service name>`."""
    parsed = parse_spiffe_id(asked)
    if parsed is None or parsed[0] != trust_domain or asked != spiffe_id(*parsed):
        raise _refused(f"{asked[:300]!r} is not spiffe://{trust_domain}/svc/<service name>")


def granted_ttl(asked: timedelta, cap: timedelta, now: datetime, issuer_ends: datetime) -> timedelta:
    """How long a certificate may live: what was asked, at most `cap`, never past its issuer.

    Raises CertificateRefused when nothing sensible was asked and AuthorityUnavailable when the issuer is about to end:
    ever shorter certificates, each renewed at half of its life, would end in a storm of renewals.
    """
    if asked <= timedelta(0):
        raise _refused(f"a certificate cannot live for {asked}")
    granted = min(asked, cap, issuer_ends - now)
    if granted < min(asked, cap, SHORTEST_REST):
        raise AuthorityUnavailable(
            f"the CA's own certificate ends at {issuer_ends:%Y-%m-%dT%H:%M:%SZ}", next_step="give the CA a new root"
        )
    return granted


def issue(
    key: CertificatePublicKeyTypes,
    identity: str,
    ttl: timedelta,
    issuer: Issuer,
    now: datetime,
    uses: Uses = BOTH_ENDS,
    places: tuple[str, ...] = (),
) -> x509.Certificate:
    """A certificate for `key` and `identity`, both already checked, that ends `ttl` from `now`.

    It begins up to 60 s earlier, but no more than a tenth of `ttl`: else half of a short life would be over at birth.
    `places` are host names and IP addresses beside the identity: an authority's own certificate has them, no other.
    """
    builder = x509.CertificateBuilder(
        subject_name=x509.Name([]),
        issuer_name=issuer.certificate.subject,
        public_key=key,
        serial_number=_serial(),
        not_valid_before=max(now - min(BACKDATED, ttl / 10), issuer.certificate.not_valid_before_utc),
        not_valid_after=now + ttl,
    )
    for extension, critical in _leaf_extensions(identity, issuer, uses, places):
        builder = builder.add_extension(extension, critical)
    return builder.sign(issuer.key, hashes.SHA256())


def new_root(
    key: ec.EllipticCurvePrivateKey, trust_domain: str, now: datetime, path_length: int = 0
) -> x509.Certificate:
    """A self-signed root for one trust domain; of path length 0 it may sign end entities only, of 1 intermediates."""
    fingerprint = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    subject = _common_name(f"meshagent root {fingerprint.digest.hex()[:8]}")
    ends = now + ROOT_LIFE
    return _ca(key.public_key(), subject, subject, trust_domain, now, ends, path_length).sign(key, hashes.SHA256())


def new_intermediate(
    key: CertificatePublicKeyTypes, name: str, trust_domain: str, root: Issuer, now: datetime
) -> x509.Certificate:
    """A CA of the authority of this name below `root`: of path length 0, for a year, or until the root ends."""
    ends = min(now + INTERMEDIATE_LIFE, root.certificate.not_valid_after_utc)
    begins = max(now, root.certificate.not_valid_before_utc + timedelta(hours=1))
    subject = _common_name(f"meshagent authority {name}")
    builder = _ca(key, subject, root.certificate.subject, trust_domain, begins, ends, 0)
    issued_by = x509.AuthorityKeyIdentifier.from_issuer_public_key(root.key.public_key())
    return builder.add_extension(issued_by, critical=False).sign(root.key, hashes.SHA256())


def _common_name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _ca(
    key: CertificatePublicKeyTypes,
    subject: x509.Name,
    issuer: x509.Name,
    trust_domain: str,
    now: datetime,
    ends: datetime,
    path_length: int,
) -> x509.CertificateBuilder:
    domain = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(f"spiffe://{trust_domain}")])
    return (
        x509.CertificateBuilder(
            subject_name=subject,
            issuer_name=issuer,
            public_key=key,
            serial_number=_serial(),
            not_valid_before=now - timedelta(hours=1),
            not_valid_after=ends,
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(domain, critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def trust_domain_of(root: x509.Certificate) -> str:
    """The trust domain that a root made by `new_root` is for; "" when it names none."""
    try:
        names = root.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ""
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    return uris[0].removeprefix("spiffe://") if len(uris) == 1 else ""


def to_pem(certificate: x509.Certificate) -> bytes:
    """The certificate as PEM."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def _leaf_extensions(
    identity: str, issuer: Issuer, uses: Uses, places: tuple[str, ...]
) -> tuple[tuple[x509.ExtensionType, bool], ...]:
    """With an empty subject the name must be critical (RFC 5280, 4.2.1.6)."""
    issued_by = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key())
    names = [x509.UniformResourceIdentifier(identity), *map(_place, places)]
    return (
        (x509.SubjectAlternativeName(names), True),
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (_usage(signs_certificates=False), True),
        (x509.ExtendedKeyUsage(uses), False),
        (issued_by, False),
    )


def _place(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _serial() -> int:
    """128 random bits, positive and never zero (RFC 5280, 4.1.2.2)."""
    return secrets.randbits(128) + 1


def _refused(reason: str) -> CertificateRefused:
    return CertificateRefused(reason, next_step="see the CA's audit log for what was asked")
