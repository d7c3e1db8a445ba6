"""A CA that signs whatever it is told to, to play every mistake and every lie of a real one."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from meshagent.ca.keys import new_key_and_csr
from meshagent.ca.x509 import accept
from meshagent.model.identity import Svid, TrustBundle

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey
NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
NUMBERS = itertools.count(1)  # two CAs of one name confuse the search for a path
HOUR, MINUTE, SECOND = timedelta(hours=1), timedelta(minutes=1), timedelta(seconds=1)
DOMAIN, WEB = "mesh.internal", "spiffe://mesh.internal/svc/web"
KEY_PEM, CSR_PEM = new_key_and_csr(WEB)
OUR_KEY = x509.load_pem_x509_csr(CSR_PEM).public_key()
BOTH = (ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH)
USAGES = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)


def usage(*names: str) -> x509.KeyUsage:
    return x509.KeyUsage(**{name: name in names for name in USAGES})


def uri(text: str) -> x509.UniformResourceIdentifier:
    """Without the library's own check, so that a lying CA can be played."""
    return x509.UniformResourceIdentifier._init_without_validation(text)


@dataclass(frozen=True)
class Order:
    """What a certificate shall say; the defaults are what a good CA answers. None leaves an extension out."""

    names: Sequence[x509.GeneralName] | None = (uri(WEB),)
    subject: str = ""
    key: Key | None = None  # None: our key
    ca: bool | None = False
    path_length: int | None = None
    usage: x509.KeyUsage | None = field(default_factory=lambda: usage("digital_signature"))
    extended: Sequence[x509.ObjectIdentifier] | None = BOTH
    begins: timedelta = -MINUTE
    ends: timedelta = HOUR
    critical: x509.ObjectIdentifier | None = None

    def extensions(self) -> list[tuple[x509.ExtensionType, bool]]:
        chosen: list[tuple[x509.ExtensionType, bool]] = []
        if self.names is not None:
            chosen.append((x509.SubjectAlternativeName(self.names), not self.subject))
        if self.ca is not None:
            chosen.append((x509.BasicConstraints(self.ca, self.path_length), True))
        if self.usage is not None:
            chosen.append((self.usage, True))
        if self.extended is not None:
            chosen.append((x509.ExtendedKeyUsage(self.extended), False))
        if self.critical is not None:
            chosen.append((x509.UnrecognizedExtension(self.critical, b"\x05\x00"), True))
        return chosen


def subject(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)] if common_name else [])


@dataclass(frozen=True)
class Ca:
    """A CA that signs whatever it is told to."""

    key: Key
    certificate: x509.Certificate

    @property
    def pem(self) -> str:
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode()

    def issue(self, order: Order) -> x509.Certificate:
        return build(order, order.key.public_key() if order.key else OUR_KEY, self.certificate.subject, self.key)

    def intermediate(self, **wishes: object) -> Ca:
        key = ec.generate_private_key(ec.SECP256R1())
        return Ca(key, self.issue(replace(CA_ORDER, subject=f"intermediate {next(NUMBERS)}", key=key, **wishes)))  # type: ignore[arg-type]


CA_ORDER = Order(
    names=None, subject="root", ca=True, usage=usage("key_cert_sign"), extended=None, begins=-HOUR, ends=1000 * HOUR
)


def build(order: Order, key: object, issuer: x509.Name, signer: Key) -> x509.Certificate:
    builder = x509.CertificateBuilder(
        subject_name=subject(order.subject),
        issuer_name=issuer,
        public_key=key,  # type: ignore[arg-type]
        serial_number=x509.random_serial_number(),
        not_valid_before=NOW + order.begins,
        not_valid_after=NOW + order.ends,
    )
    for extension, critical in order.extensions():
        builder = builder.add_extension(extension, critical)
    return builder.sign(signer, None if isinstance(signer, ed25519.Ed25519PrivateKey) else hashes.SHA256())


def root_ca(key: Key | None = None, order: Order = CA_ORDER) -> Ca:
    key = key or ec.generate_private_key(ec.SECP256R1())
    return Ca(key, build(order, key.public_key(), subject(order.subject), key))


ROOT = root_ca()


def pem_of(*certificates: x509.Certificate) -> bytes:
    return b"".join(one.public_bytes(serialization.Encoding.PEM) for one in certificates)


def judge(
    *chain: x509.Certificate | bytes,
    roots: TrustBundle | None = None,
    asked: str = WEB,
    now: datetime = NOW,
    max_ttl: timedelta = HOUR,
    key_pem: bytes = KEY_PEM,
) -> Svid:
    text = b"".join(one if isinstance(one, bytes) else pem_of(one) for one in chain)
    return accept(text, key_pem, asked, trusting(ROOT) if roots is None else roots, DOMAIN, now, max_ttl)


def trusting(*cas: Ca) -> TrustBundle:
    return TrustBundle(((DOMAIN, tuple(ca.pem for ca in cas)),))


def private_pem(key: Key) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
