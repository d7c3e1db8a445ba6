"""Signed policy: an operator's Ed25519 key signs what counts, and who holds its public half believes nothing else. Pure.

A signature covers the key that a record is kept under, its revision and its content. It does not cover `replaces`, the
state before, which has a signature of its own: so both states of a staged change can be checked. What a signature alone
cannot tell (a record that the store hides, or shows in an older state) the index tells: state/index.py.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from meshagent.state.records import Signed, UnreadableRecord

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

Record = TypeVar("Record", bound=Signed)
_DOMAIN = b"meshagent policy 1\n"  # a signature made for another purpose with the same key is none here
_NOT_COVERED = {"v", "replaces", "signature"}
_PREFIX = "ed25519:"
_KEY_BYTES = 32


class UnusableKey(ValueError):
    """A text that is no Ed25519 key. Its message says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Signer:
    """An operator's private key."""

    key: Ed25519PrivateKey = field(repr=False)

    @property
    def public(self) -> bytes:
        """The 32 bytes of its public half."""
        return self.key.public_key().public_bytes_raw()

    def sign(self, key: str, record: Record) -> Record:
        """The record with a signature, to be kept under the key."""
        made = base64.b64encode(self.key.sign(message(key, record))).decode()
        return record.model_copy(update={"signature": f"{key_id(self.public)}:{made}"})


@dataclass(frozen=True, slots=True)
class Trust:
    """The public keys that are believed, by id. Without any, nothing has to be signed."""

    keys: Mapping[str, bytes] = field(default_factory=dict)

    @classmethod
    def of(cls, *publics: bytes) -> Trust:
        """Trust in these keys."""
        return cls({key_id(each): each for each in publics})

    def __bool__(self) -> bool:
        return bool(self.keys)

    def check(self, key: str, record: Signed) -> None:
        """Raise UnreadableRecord unless one of the keys signed this record for this place."""
        if not self.keys:
            return
        if not record.signature:
            raise UnreadableRecord("is not signed")
        identifier, _, made = record.signature.partition(":")
        public = self.keys.get(identifier)
        if public is None:
            raise UnreadableRecord(f"is signed with the key {ascii(identifier)[1:-1]}, which is not trusted here")
        if not _verifies(public, made, message(key, record)):
            raise UnreadableRecord("has a signature that does not fit its place and content")


@dataclass(frozen=True, slots=True)
class Signing:
    """What a writer signs with (None: nothing), and what it believes."""

    signer: Signer | None = None
    trust: Trust = field(default_factory=Trust)

    def sign(self, key: str, record: Record) -> Record:
        """The record, signed where there is a key."""
        return self.signer.sign(key, record) if self.signer else record


UNSIGNED = Signing()


def message(key: str, record: Signed) -> bytes:
    """What is signed: the same for a record and for the state before another one, once it is in its place."""
    content = record.model_dump(mode="json", exclude=_NOT_COVERED)
    return _DOMAIN + json.dumps([key, content], sort_keys=True, separators=(",", ":")).encode()


def key_id(public: bytes) -> str:
    """The short name of a public key."""
    return hashlib.sha256(public).hexdigest()[:16]


def new_signer() -> tuple[Signer, bytes]:
    """A new key, and its PEM."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return Signer(key), pem


def parse_signer(pem: bytes) -> Signer:
    """The private key of a PEM (PKCS 8, as `openssl genpkey -algorithm ed25519` makes it too). Raises UnusableKey."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(pem, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):  # TypeError: it is encrypted
        raise UnusableKey("holds no private key in PEM without a password") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise UnusableKey("holds a key that is not Ed25519")
    return Signer(key)


def parse_public(text: str) -> bytes:
    """The public key in `ed25519:<base64>` or a PEM. Raises UnusableKey."""
    if "-----BEGIN" in text:
        return _parse_pem(text)
    if not text.startswith(_PREFIX):
        raise UnusableKey(f"is neither {_PREFIX} and base64, nor a PEM")
    try:
        public = base64.b64decode(text.removeprefix(_PREFIX), validate=True)
    except binascii.Error:
        raise UnusableKey(f"holds no base64 after {_PREFIX}") from None
    if len(public) != _KEY_BYTES:
        raise UnusableKey(f"holds {len(public)} bytes; an Ed25519 key has {_KEY_BYTES}")
    return public


def public_text(public: bytes) -> str:
    """As settings have it: `ed25519:<base64>`."""
    return _PREFIX + base64.b64encode(public).decode()


def _parse_pem(text: str) -> bytes:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(text.encode())
    except (ValueError, UnsupportedAlgorithm):
        raise UnusableKey("holds no public key in PEM") from None
    if not isinstance(key, Ed25519PublicKey):
        raise UnusableKey("holds a key that is not Ed25519")
    return key.public_bytes_raw()


def _verifies(public: bytes, made: str, text: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(public).verify(base64.b64decode(made, validate=True), text)
    except (InvalidSignature, binascii.Error):
        return False
    return True
