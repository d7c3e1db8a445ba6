"""An authority's own certificate: a CA below a root of the mesh, and the key that never leaves this machine."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from meshagent.ca.issuance import INTERMEDIATE_LIFE, Issuer, new_intermediate, to_pem
from meshagent.ca.keys import kept_key, request_with, signed_by
from meshagent.ca.root_files import digest_of
from meshagent.ca.x509 import UNREADABLE, key_der
from meshagent.errors import AuthorityUnavailable, CertificateRefused, NotFound
from meshagent.private import read_private, write_private

KEY_FILE, CHAIN_FILE = "intermediate.key", "intermediate.pem"
WARN_BEFORE_END = timedelta(days=30)
_MOST_ABOVE = 4


@dataclass(frozen=True, slots=True)
class Intermediate:
    """What signs. `chain_pem` is its certificate and those between it and the root, which `root_digest` names."""

    issuer: Issuer
    chain_pem: bytes
    root_digest: str

    @property
    def ends(self) -> datetime:
        """When it ends."""
        return self.issuer.certificate.not_valid_after_utc

    @property
    def fingerprint(self) -> str:
        """Hex SHA-256 of its certificate (DER)."""
        return digest_of(self.issuer.certificate)


def intermediate_key(directory: Path) -> ec.EllipticCurvePrivateKey:
    """The authority's key, made when there is none. Raises AuthorityUnavailable, and what private files raise."""
    path = directory / KEY_FILE
    restore = f"restore it from a backup; or rm {directory}/intermediate.* for a new one"
    return kept_key(path, lambda what: AuthorityUnavailable(f"{path} {what}", next_step=restore))


def request_of(key: ec.EllipticCurvePrivateKey, name: str) -> str:
    """The CSR (PEM) of the authority of this name."""
    return request_with(key, common_name=f"meshagent authority {name}").decode()


def kept_chain(directory: Path) -> bytes:
    """The chain as it was kept, b"" for none."""
    try:
        return read_private(directory / CHAIN_FILE)
    except NotFound:
        return b""


def keep_chain(directory: Path, intermediate: Intermediate) -> None:
    """Keep it for the next start."""
    write_private(directory / CHAIN_FILE, intermediate.chain_pem)


def cut(key: ec.EllipticCurvePrivateKey, name: str, trust_domain: str, root: Issuer, now: datetime) -> Intermediate:
    """An intermediate of our own below a root that this machine holds. Raises AuthorityUnavailable."""
    try:
        depth = root.certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length
    except (*UNREADABLE, x509.ExtensionNotFound):
        depth = 0
    if depth == 0:
        raise AuthorityUnavailable(
            "the root in the data directory may sign no intermediates: it was made for one machine",
            next_step="make one that may: meshagent init in a new store, or meshagent ca rotate",
        )
    made = new_intermediate(key.public_key(), name, trust_domain, root, now)
    return Intermediate(Issuer(made, key), to_pem(made), digest_of(root.certificate))


def adopted(chain_pem: bytes, key: ec.EllipticCurvePrivateKey, roots: Iterable[str], now: datetime) -> Intermediate:
    """The intermediate in a chain, after every check; raises CertificateRefused with the first reason against it.

    It must be a CA for our key, valid now, and lead through valid CAs to one of the mesh's roots (PEM).
    """
    trusted = [each for pem in roots for each in _parsed(pem.encode())]
    chain = [each for each in _parsed(chain_pem) if each not in trusted]
    if not chain or len(chain) > 1 + _MOST_ABOVE:
        raise _refused("is not a chain of one to five certificates")
    if key_der(chain[0].public_key()) != key_der(key.public_key()):
        raise _refused("is for another key than this authority's")
    for depth, each in enumerate(chain):
        _check_ca(each, depth, now)
        if depth + 1 < len(chain) and not signed_by(each, chain[depth + 1]):
            raise _refused(f"is broken: certificate {depth + 2} did not sign certificate {depth + 1}")
    for root in trusted:
        if signed_by(chain[-1], root):
            _check_ca(root, len(chain), now)
            return Intermediate(Issuer(chain[0], key), b"".join(map(to_pem, chain)), digest_of(root))
    raise _refused("does not lead to a root of the mesh's trust bundle")


def due(now: datetime, current: Intermediate | None, root: Issuer | None, leaving: Sequence[str]) -> bool:
    """Whether it is time for another intermediate: none, another root signs now, or two thirds of its life are over."""
    if current is None or current.root_digest in leaving:
        return True
    if root is not None and current.root_digest != digest_of(root.certificate):
        return True
    return current.ends - now < min(INTERMEDIATE_LIFE, _life(current)) / 3


def _life(intermediate: Intermediate) -> timedelta:
    certificate = intermediate.issuer.certificate
    return certificate.not_valid_after_utc - certificate.not_valid_before_utc


def _parsed(pem: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except UNREADABLE as error:
        raise _refused(f"cannot be read: {error}") from None


def _check_ca(certificate: x509.Certificate, below: int, now: datetime) -> None:
    """`below`: how many CAs stand below it."""
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except (x509.ExtensionNotFound, *UNREADABLE):
        raise _refused("is not a CA's") from None
    if not constraints.ca:
        raise _refused("is not a CA's")
    if constraints.path_length is not None and constraints.path_length < below:
        raise _refused("hangs below a CA that may sign no further CAs")
    if not certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc:
        raise _refused(f"holds a certificate that ended, or has not begun, at {now:%Y-%m-%dT%H:%M:%SZ}")


def _refused(reason: str) -> CertificateRefused:
    return CertificateRefused(
        f"the authority's intermediate {reason}", next_step="meshagent ca root sign NAME, where the mesh's root is"
    )
