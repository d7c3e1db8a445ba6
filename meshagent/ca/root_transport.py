"""A root in one file, its key encrypted under a passphrase: how it is taken off a machine and put on another."""

from __future__ import annotations

from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from meshagent.ca.issuance import to_pem, trust_domain_of
from meshagent.ca.root_files import KEY_FILE, LOCK_FILE, ROOT_FILE, digest_of, load_root, spare_digests
from meshagent.ca.x509 import UNREADABLE, key_der, key_to_pem
from meshagent.errors import AuthorityUnavailable, UsageProblem
from meshagent.private import locked, private_dir, read_private, write_private

SHORTEST_PASSPHRASE = 14  # characters: PKCS #8 as every tool reads it stretches a passphrase only a little


def packed_root(directory: Path, passphrase: str) -> bytes:
    """The root in the directory as PEM: its key as encrypted PKCS #8, then its certificate.

    Raises UsageProblem for a passphrase that is too short, AuthorityUnavailable when there is no root.
    """
    if len(passphrase) < SHORTEST_PASSPHRASE:
        raise UsageProblem(
            f"the passphrase has fewer than {SHORTEST_PASSPHRASE} characters", next_step="use several random words"
        )
    root = load_root(directory)
    if root is None:
        raise AuthorityUnavailable(f"{directory} holds no root", next_step="run this where the root is; or name --root")
    encryption = serialization.BestAvailableEncryption(passphrase.encode())
    key = root.key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
    return key + to_pem(root.certificate)


def unpacked_root(data: bytes, passphrase: str) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    """Key and certificate of what `packed_root` made. Raises UsageProblem; the parser's own words are about a secret."""
    try:
        certificate = x509.load_pem_x509_certificate(data)
        key = serialization.load_pem_private_key(data, passphrase.encode())
    except (*UNREADABLE, TypeError):
        raise UsageProblem(
            "the file or the passphrase is not the right one", next_step="name what `meshagent ca root export` wrote"
        ) from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key_der(key.public_key()) != key_der(
        certificate.public_key()
    ):
        raise UsageProblem("key and certificate in the file do not belong together", next_step="export it once more")
    return key, certificate


def export_root(directory: Path, file: Path, passphrase: str, *, remove: bool) -> x509.Certificate:
    """Write the root into a new file (0600), read it back, and with `remove` delete it here. Gives its certificate.

    Raises UsageProblem when the file is there already or a rotation is under way, and what private files raise.
    """
    _refuse_existing(file)
    with locked(directory / LOCK_FILE):
        write_private(file.absolute(), packed_root(directory, passphrase))
        key, certificate = unpacked_root(read_private(file.absolute()), passphrase)
        held = load_root(directory)
        if held is None or key_der(key.public_key()) != key_der(held.key.public_key()):
            raise AuthorityUnavailable(f"{file} does not hold what was written", next_step="look at that disk")
        if remove:
            if spare_digests(directory):
                raise UsageProblem(
                    "a change of roots is under way, so the root stays here", next_step="meshagent ca rotate --status"
                )
            for name in (ROOT_FILE, KEY_FILE):
                (directory / name).unlink()
    return certificate


def import_root(directory: Path, file: Path, passphrase: str, trust_domain: str = "") -> x509.Certificate:
    """Put the root in a file into the directory, where none is yet. Gives its certificate.

    Raises UsageProblem when there is one already, or when it is another trust domain's than the one that is named.
    """
    key, certificate = unpacked_root(read_private(file.absolute()), passphrase)
    owner = trust_domain_of(certificate)
    if trust_domain and owner != trust_domain:
        raise UsageProblem(f"the root in {file} is for {owner}, not {trust_domain}", next_step="name another file")
    private_dir(directory.parent)
    private_dir(directory)
    with locked(directory / LOCK_FILE):
        held = load_root(directory)
        if held is not None and digest_of(held.certificate) != digest_of(certificate):
            raise UsageProblem(f"{directory} holds another root", next_step="move that one away first")
        write_private(directory / KEY_FILE, key_to_pem(key))
        write_private(directory / ROOT_FILE, to_pem(certificate))
    return certificate


def _refuse_existing(file: Path) -> None:
    if file.is_symlink() or file.exists():
        raise UsageProblem(f"{file} is there already", next_step="name a file that is not: nothing is overwritten")
