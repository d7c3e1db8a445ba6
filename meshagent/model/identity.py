"""Identity as bytes and the few facts that decisions need. Only `ca/` looks inside certificates."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from datetime import datetime


@dataclass(frozen=True, slots=True)
class TrustBundle:
    """The roots that peers are checked against, by trust domain: PEM certificates, in a stable order.

    `leaving`: hex SHA-256 (of the DER) of those that nothing signs with any more.
    """

    roots: tuple[tuple[str, tuple[str, ...]], ...] = ()
    leaving: tuple[str, ...] = ()

    def of(self, trust_domain: str) -> tuple[str, ...]:
        """The PEM roots of one trust domain; empty when it is unknown."""
        return next((pems for domain, pems in self.roots if domain == trust_domain), ())

    def pem(self, trust_domain: str) -> bytes:
        """The roots of one trust domain as one PEM text."""
        return "".join(pem if pem.endswith("\n") else pem + "\n" for pem in self.of(trust_domain)).encode()

    def digest(self) -> str:
        """16 hex digits that name the roots; hosts report it so that a rotation knows who has what."""
        return hashlib.blake2b(repr(self.roots).encode(), digest_size=8).hexdigest()


@dataclass(frozen=True, slots=True)
class Svid:
    """A service's certificate chain (leaf first) and private key, both PEM, and the facts of the leaf."""

    spiffe_id: str
    chain_pem: bytes
    key_pem: bytes = field(repr=False)
    serial: str
    not_before: datetime
    expires_at: datetime
    root_digest: str  # hex SHA-256 of the root certificate (DER) that the chain ends in
