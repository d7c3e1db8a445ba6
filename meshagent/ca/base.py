"""What a CA is: three methods. Everything else (keys, acceptance, when to renew) is ours and the same for all."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from meshagent.model.identity import TrustBundle


@dataclass(frozen=True, slots=True)
class AuthorityHealth:
    """`ok`, or what is wrong with its next step, one sentence an item."""

    ok: bool
    problems: tuple[str, ...] = ()


class Authority(Protocol):
    """A signer of SVIDs. Raises AuthorityUnavailable (try again) or CertificateRefused (do not)."""

    async def sign(self, csr_pem: bytes, spiffe_id: str, ttl: timedelta) -> bytes:
        """A PEM chain, leaf first, for the CSR's public key and exactly this SPIFFE ID. Nothing else in it counts."""

    async def bundle(self) -> TrustBundle:
        """The roots that this authority's certificates chain to."""

    async def check(self) -> AuthorityHealth:
        """Whether it could sign now."""
