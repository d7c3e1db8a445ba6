"""A key and its certificate chain as two files that somebody else writes: a whole pair or none."""

from __future__ import annotations

import stat
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from meshagent.ca.base import Issued
from meshagent.ca.roots import read_trusted
from meshagent.ca.x509 import MAX_ANSWER_BYTES, UNREADABLE, key_der, key_weakness
from meshagent.errors import AuthorityUnavailable, CertificateRefused, DataDirUnusable, NotFound, UnsafeFile
from meshagent.private import read_private

_KEY_STEP = "write it as PEM, without a password"
_CHAIN_STEP = "write it as PEM, the service's own certificate first"

Stamp = tuple[str, int, int, int]  # where the path leads, inode, time of change in ns, size


def stamp(path: Path) -> Stamp:
    """What a file looks like from outside; another one where it was replaced. Raises AuthorityUnavailable."""
    try:
        place = path.resolve(strict=True)
        found = place.stat()
    except OSError as error:
        raise _unreadable(path, error.strerror or "a loop of links") from None
    except RuntimeError:  # what Python says to a loop of links before 3.13
        raise _unreadable(path, "a loop of links") from None
    if not stat.S_ISREG(found.st_mode):  # opening a FIFO would wait for whoever writes into it
        raise _unreadable(path, "it is not a regular file")
    return str(place), found.st_ino, found.st_mtime_ns, found.st_size


def read_pair(cert: Path, key: Path) -> Issued:
    """The two files, when they belong together. The key becomes plain PKCS #8, whatever else is in its file.

    Raises AuthorityUnavailable, CertificateRefused.
    """
    key_pem, chain_pem = _private(key), read_trusted(cert, "chain")
    try:
        ours = serialization.load_pem_private_key(key_pem, password=None)
        key_pem = ours.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    except (*UNREADABLE, TypeError):  # the parser's own words are left out: they are about a secret
        raise CertificateRefused(f"{key} holds no key that can be read", next_step=_KEY_STEP) from None
    try:
        theirs = x509.load_pem_x509_certificates(chain_pem)[0].public_key()
    except UNREADABLE as error:
        raise CertificateRefused(f"{cert} is not a chain of certificates: {error}", next_step=_CHAIN_STEP) from error
    if key_der(ours.public_key()) != key_der(theirs):
        raise AuthorityUnavailable(
            f"{cert} is not for the key in {key} (yet)", next_step="wait until both are written, or correct the paths"
        )
    return Issued(key_pem, chain_pem)


def read_server_pair(cert: Path, key: Path) -> tuple[Issued, datetime]:
    """A pair that Envoy can show to clients of any kind, and when its certificate ends.

    Raises AuthorityUnavailable, CertificateRefused.
    """
    pair = read_pair(cert, key)
    leaf = x509.load_pem_x509_certificates(pair.chain_pem)[0]
    if weakness := key_weakness(leaf.public_key()):
        raise CertificateRefused(f"{cert} is for a key of no use here: {weakness}", next_step=_KEY_STEP)
    return pair, leaf.not_valid_after_utc


def _private(path: Path) -> bytes:
    """A link is fine, for that is how whole directories are swapped; what it leads to must be private."""
    try:
        return read_private(path.resolve(strict=True), MAX_ANSWER_BYTES)
    except (UnsafeFile, DataDirUnusable, NotFound) as error:
        raise AuthorityUnavailable(str(error), next_step=error.next_step) from None
    except (OSError, RuntimeError):
        raise _unreadable(path, "it is gone again") from None


def _unreadable(path: Path, why: str) -> AuthorityUnavailable:
    return AuthorityUnavailable(
        f"{path} cannot be read: {why}", next_step="have it written there, readable by the agent's user"
    )
