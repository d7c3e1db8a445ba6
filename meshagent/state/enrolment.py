"""Who may enrol and what a host was granted, as records of the store: no secret is readable in them.

A join token is 256 random bits; the store holds its SHA-256 alone, which is also its key. What belongs to the newcomer
alone (its store credential) stands beside it, sealed with AES-256-GCM under a key that only the token's holder derives.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
from datetime import datetime

from pydantic import Field

from meshagent.errors import EnrolmentRefused
from meshagent.model.names import Model, ServiceName
from meshagent.state.records import Version

TOKEN_BYTES = 32
ID_LENGTH = 12  # hex digits of the hash that name a token to people
_INFO = b"meshagent store credential"
_NONCE_BYTES = 12


class SignerRecord(Model):
    """One authority: where it is, and its intermediate, or the request for one (`csr`) while it has none."""

    v: Version = 1
    address: str
    intermediate: str = ""
    csr: str = ""
    fingerprint: str = ""
    at: datetime


class TokenRecord(Model):
    """One join token, kept under its hash. Used once it has `used_at`: consumed by compare-and-set on this record."""

    v: Version = 1
    host: ServiceName
    services: tuple[ServiceName, ...]
    expires_at: datetime
    created_by: str
    at: datetime
    sealed: str = ""
    used_at: datetime | None = None
    used_by_address: str = ""

    def state(self, now: datetime) -> str:
        """`open`, `used` or `expired`."""
        if self.used_at is not None:
            return "used"
        return "open" if now < self.expires_at else "expired"


class GrantRecord(Model):
    """What a host may be certified for. `key_sha256` is that of its public key (DER), "" before it enrols."""

    v: Version = 1
    host: ServiceName
    services: tuple[ServiceName, ...]
    max_ttl_seconds: int = Field(default=3600, gt=0)
    denied: bool = False
    denied_services: tuple[ServiceName, ...] = ()
    key_sha256: str = ""
    by: str = ""
    at: datetime

    def allows(self, service: str) -> bool:
        """Whether the host may have a certificate of this service now."""
        return not self.denied and service in self.services and service not in self.denied_services


def new_token() -> str:
    """A join token."""
    return secrets.token_urlsafe(TOKEN_BYTES)


def token_hash(token: str) -> str:
    """The hex SHA-256 under which a token is kept. Looking that up takes no longer for a guess that is nearly right."""
    return hashlib.sha256(token.encode()).hexdigest()


def seal(token: str, data: bytes) -> str:
    """The data as only the token's holder reads it, base64."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    nonce = secrets.token_bytes(_NONCE_BYTES)
    return base64.b64encode(nonce + AESGCM(_key(token)).encrypt(nonce, data, _INFO)).decode()


def unseal(token: str, sealed: str) -> bytes:
    """What was sealed. Raises EnrolmentRefused when it is another token's, or was changed."""
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    try:
        raw = base64.b64decode(sealed, validate=True)
        return AESGCM(_key(token)).decrypt(raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], _INFO)
    except (InvalidTag, ValueError):
        raise EnrolmentRefused(
            "the store credential that came with the join line cannot be opened: somebody changed it in the store",
            next_step="see who could write the store, then: meshagent token create",
        ) from None


def _key(token: str) -> bytes:
    """A random token needs no salt and no stretching."""
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    return HKDF(algorithm=SHA256(), length=32, salt=None, info=_INFO).derive(token.encode())
