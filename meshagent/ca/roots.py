"""The roots that an authority's certificates chain to, out of PEM that somebody else wrote."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from datetime import datetime
from functools import lru_cache
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from meshagent.ca.issuance import to_pem
from meshagent.ca.keys import signed_by
from meshagent.ca.x509 import MAX_ANSWER_BYTES, UNREADABLE
from meshagent.errors import AuthorityUnavailable, CertificateRefused
from meshagent.model.identity import TrustBundle


def bundle_of(pem: bytes, trust_domain: str, source: str) -> TrustBundle:
    """The self-signed CA certificates in `pem`, each once, in its order; intermediates are left out.

    Raises CertificateRefused when there is none, or when `pem` is too long or not PEM; `source` says in it whose it is.
    """
    if len(pem) > MAX_ANSWER_BYTES:
        raise _refused(f"{source} has {len(pem)} bytes; at most {MAX_ANSWER_BYTES} are read")
    try:
        roots = [one for one in x509.load_pem_x509_certificates(pem) if _is_root(one)]
    except UNREADABLE as error:
        raise _refused(f"{source} cannot be read: {error}") from error
    if not roots:
        raise _refused(f"{source} holds no root: no CA's certificate that is signed by itself")
    return TrustBundle(((trust_domain, tuple(dict.fromkeys(to_pem(one).decode() for one in roots))),))


@lru_cache(maxsize=8)
def ends_of(pems: tuple[str, ...]) -> tuple[tuple[str, datetime], ...]:
    """Hex SHA-256 and end of every certificate in these texts; what cannot be read is left out."""
    found: list[tuple[str, datetime]] = []
    for pem in pems:
        with suppress(*UNREADABLE):
            certificates = x509.load_pem_x509_certificates(pem.encode())
            found += [(one.fingerprint(hashes.SHA256()).hex(), one.not_valid_after_utc) for one in certificates]
    return tuple(found)


def read_trusted(path: Path, what: str) -> bytes:
    """The content of a file with certificates (`what` says which), which is no secret but decides who is believed.

    Raises AuthorityUnavailable when it is not there (yet) or when anybody but root and us may write it.
    """
    try:
        with path.open("rb") as file:
            found = os.fstat(file.fileno())
            if found.st_uid not in (os.geteuid(), 0) or found.st_mode & (stat.S_IWOTH | stat.S_IWGRP):
                raise AuthorityUnavailable(
                    f"{path} can be written by other users, so its {what} cannot be believed",
                    next_step=f"chown root {path}; chmod go-w {path}",
                )
            return file.read(MAX_ANSWER_BYTES + 1)
    except OSError as error:
        raise AuthorityUnavailable(
            f"the {what} in {path} cannot be read: {error.strerror}", next_step=f"write the {what} (PEM) into {path}"
        ) from error


def _is_root(certificate: x509.Certificate) -> bool:
    """Whether it is a CA's and signed by its own key."""
    try:
        return signed_by(certificate, certificate) and bool(
            certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        )
    except (ValueError, x509.ExtensionNotFound):
        return False


def _refused(reason: str) -> CertificateRefused:
    return CertificateRefused(reason, next_step="give the CA's self-signed root certificates, as PEM")
