"""The roots in a CA's private directory: the one that signs (`root.key`, `root.pem`), and spares beside it.

A spare (`spare-<16 hex of its digest>.key` and `.pem`) is a root that is about to sign, or that signed before. Which one
signs is what `root.pem` says, which is replaced in one step; its key is found by what it belongs to, so a crash between
any two of the files leaves a CA that works. The file names of `root.*` are those that `ca root export` moves.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from meshagent.ca.issuance import Issuer, new_root, to_pem, trust_domain_of
from meshagent.ca.keys import kept_key, load_key, new_key
from meshagent.ca.x509 import UNREADABLE, key_der, key_to_pem
from meshagent.errors import AuthorityUnavailable, DataDirUnusable, NotFound
from meshagent.private import locked, read_private, write_private

KEY_FILE, ROOT_FILE, LOCK_FILE = "root.key", "root.pem", "lock"
_SPARE, _RETIRED = "spare-", "retired-"
_NAME_DIGITS = 16


def digest_of(certificate: x509.Certificate) -> str:
    """Hex SHA-256 of the DER: what a root is called everywhere."""
    return certificate.fingerprint(hashes.SHA256()).hex()


def load_root(path: Path) -> Issuer | None:
    """The root that signs; None when none was ever made to its end (the key is written first, the certificate last).

    Raises AuthorityUnavailable when it is damaged, and what private files raise.
    """
    try:
        certificate_pem = read_private(path / ROOT_FILE)
    except NotFound:
        return None
    certificate = _certificate(path, ROOT_FILE, certificate_pem)
    try:
        key = _load_key(path / KEY_FILE)
    except NotFound as error:
        if spare := _spare(path, digest_of(certificate)):
            return spare
        raise _broken(path, f"{KEY_FILE} is missing") from error
    if key_der(key.public_key()) == key_der(certificate.public_key()):
        return Issuer(certificate, key)
    if spare := _spare(path, digest_of(certificate)):  # a change of roots is under way, or was interrupted
        return spare
    raise _broken(path, f"{KEY_FILE} does not belong to {ROOT_FILE}")


def create_root(path: Path, trust_domain: str, now: datetime, path_length: int = 0) -> Issuer:
    """The root that signs, made where there is none; several processes at once agree on one."""
    with locked(path / LOCK_FILE):
        if made_meanwhile := load_root(path):
            return made_meanwhile
        # Where there is a key, a crash came between the two files; no certificate was ever signed with it.
        key = kept_key(path / KEY_FILE, lambda what: _broken(path, f"{KEY_FILE} {what}"))
        certificate = new_root(key, trust_domain, now, path_length)
        write_private(path / ROOT_FILE, to_pem(certificate))
        return Issuer(certificate, key)


def prepare_next(path: Path, now: datetime, retired: frozenset[str] = frozenset()) -> x509.Certificate:
    """A root beside the one that signs, for the same trust domain and depth; one that an interrupted start left is taken.

    `retired`: digests that must never come again. Raises AuthorityUnavailable when the directory holds no root.
    """
    with locked(path / LOCK_FILE):
        current = _required(path)
        for digest in spare_digests(path) - retired:
            if spare := _spare(path, digest):
                return spare.certificate
        key = new_key()
        certificate = new_root(key, trust_domain_of(current.certificate), now, depth_of(current.certificate))
        _keep_spare(path, Issuer(certificate, key))
        return certificate


def make_active(path: Path, digest: str) -> bool:
    """Let the root of this digest sign; the one that did becomes a spare. Returns whether anything had to be done.

    Raises NotFound when the directory holds no such root with its key.
    """
    with locked(path / LOCK_FILE):
        current = _required(path)
        if digest_of(current.certificate) == digest:
            if digest not in spare_digests(path):
                return False
            write_private(path / KEY_FILE, key_to_pem(current.key))  # an interrupted change left another one's
            _remove(_spare_file(path, digest, ".pem"), _spare_file(path, digest, ".key"))
            return True
        wanted = _spare(path, digest)
        if wanted is None:
            raise NotFound(f"{path} holds no root {digest[:_NAME_DIGITS]} with its key")
        _keep_spare(path, current)
        write_private(path / KEY_FILE, key_to_pem(wanted.key))
        write_private(path / ROOT_FILE, to_pem(wanted.certificate))  # from here on it signs
        _remove(_spare_file(path, digest, ".pem"), _spare_file(path, digest, ".key"))
        return True


def destroy_spare(path: Path, digest: str) -> None:
    """Delete the key of a spare for good; its certificate stays as `retired-<16 hex>.pem`. Nothing happens without one."""
    with locked(path / LOCK_FILE):
        certificate = _spare_file(path, digest, ".pem")
        _remove(_spare_file(path, digest, ".key"))
        with suppress(NotFound):
            write_private(path / f"{_RETIRED}{digest[:_NAME_DIGITS]}.pem", read_private(certificate))
        _remove(certificate)


def spare_digests(path: Path) -> frozenset[str]:
    """The digests of the spares."""
    found = (_certificate(path, each.name, read_private(each)) for each in path.glob(f"{_SPARE}*.pem"))
    return frozenset(digest_of(certificate) for certificate in found)


def _required(path: Path) -> Issuer:
    current = load_root(path)
    if current is None:
        raise AuthorityUnavailable(
            f"{path} holds no root",
            next_step="run this on the machine that holds the mesh's root, or name its directory",
        )
    return current


def _spare(path: Path, digest: str) -> Issuer | None:
    """A spare with its key; None when either is missing or they do not belong together."""
    try:
        pem = _spare_file(path, digest, ".pem")
        certificate = _certificate(path, pem.name, read_private(pem))
        key = _load_key(_spare_file(path, digest, ".key"))
    except NotFound:
        return None
    fits = digest_of(certificate) == digest and key_der(key.public_key()) == key_der(certificate.public_key())
    return Issuer(certificate, key) if fits else None


def _keep_spare(path: Path, issuer: Issuer) -> None:
    digest = digest_of(issuer.certificate)
    write_private(_spare_file(path, digest, ".key"), key_to_pem(issuer.key))
    write_private(_spare_file(path, digest, ".pem"), to_pem(issuer.certificate))


def _spare_file(path: Path, digest: str, suffix: str) -> Path:
    return path / f"{_SPARE}{digest[:_NAME_DIGITS]}{suffix}"


def depth_of(root: x509.Certificate) -> int:
    """How many CAs may stand below a root; 1 where it sets no limit, which is what we use."""
    limit = root.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length
    return 1 if limit is None else limit


def _certificate(path: Path, name: str, pem: bytes) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(pem)
    except UNREADABLE as error:
        raise _broken(path, f"{name} cannot be read") from error


def _load_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """Raises NotFound."""
    return load_key(path, lambda what: _broken(path.parent, f"{path.name} {what}"))


def _remove(*paths: Path) -> None:
    for path in paths:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise DataDirUnusable(f"{path}: {error.strerror}", next_step=f"delete it: rm {path}") from error


def _broken(path: Path, what: str) -> AuthorityUnavailable:
    return AuthorityUnavailable(
        f"the CA in {path} is damaged: {what}",
        next_step=f"restore {path} from a backup; a new root (rm {path}/root.*) means that every host must be given it",
    )
