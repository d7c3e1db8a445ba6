"""Private keys in files, and the requests that are signed with them. The one place that makes either."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from meshagent.ca.x509 import UNREADABLE, key_to_pem
from meshagent.errors import MeshError, NotFound
from meshagent.private import read_private, write_private

Unusable = Callable[[str], MeshError]  # the error for a key file of which this is wrong: "cannot be read"


def new_key() -> ec.EllipticCurvePrivateKey:
    """A new ECDSA P-256 key."""
    return ec.generate_private_key(ec.SECP256R1())


def load_key(path: Path, unusable: Unusable) -> ec.EllipticCurvePrivateKey:
    """The ECDSA key (PEM) in a private file. Raises NotFound, what private files raise, and `unusable`.

    The parser's own words are left out of the error: they are about a secret.
    """
    try:
        key = serialization.load_pem_private_key(read_private(path), password=None)
    except (*UNREADABLE, TypeError):  # TypeError: it is encrypted
        raise unusable("cannot be read") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise unusable("is not an ECDSA key")
    return key


def kept_key(path: Path, unusable: Unusable) -> ec.EllipticCurvePrivateKey:
    """As `load_key`; made and kept where there is none."""
    try:
        return load_key(path, unusable)
    except NotFound:
        key = new_key()
        write_private(path, key_to_pem(key))
        return key


def request_with(key: ec.EllipticCurvePrivateKey, *, common_name: str = "", uri: str = "") -> bytes:
    """A CSR (PEM) signed with the key, which names nobody unless told whom."""
    attributes = [x509.NameAttribute(x509.NameOID.COMMON_NAME, common_name)] if common_name else []
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(attributes))
    if uri:
        names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)])
        request = request.add_extension(names, critical=True)
    return request.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def new_key_and_csr(spiffe_id: str = "") -> tuple[bytes, bytes]:
    """A new key (PKCS #8) and a CSR signed with it, both PEM.

    Our own CAs take nothing but the public key of a CSR. Some others copy the names, so `spiffe_id`, when given, stands
    in it as the only one.
    """
    key = new_key()
    return key_to_pem(key), request_with(key, uri=spiffe_id)


def signed_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Whether the issuer names itself and signed it; what else a chain must be, `x509.accept` judges."""
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True
