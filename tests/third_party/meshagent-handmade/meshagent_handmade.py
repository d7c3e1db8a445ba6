"""A CA that keeps its root in memory. What it shows is all that another package needs to be a provider."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from meshagent.ca.base import AuthorityHealth
from meshagent.ca.issuance import Issuer, check_identity, granted_ttl, issue, new_root, public_key_of, to_pem
from meshagent.errors import UsageProblem
from meshagent.model.identity import TrustBundle
from meshagent.model.names import parse_duration


class HandmadeAuthority:
    """Signs with a root that is gone with the process."""

    def __init__(self, trust_domain: str, longest: timedelta, clock: Callable[[], datetime]) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        self._issuer = Issuer(new_root(key, trust_domain, clock()), key)
        self._trust_domain, self._longest, self._clock = trust_domain, longest, clock

    async def sign(self, csr_pem: bytes, spiffe_id: str, ttl: timedelta) -> bytes:
        """A chain for the CSR's public key and this name."""
        key = public_key_of(csr_pem)
        check_identity(spiffe_id, self._trust_domain)
        now = self._clock()
        life = granted_ttl(ttl, self._longest, now, self._issuer.certificate.not_valid_after_utc)
        return to_pem(issue(key, spiffe_id, life, self._issuer, now))

    async def bundle(self) -> TrustBundle:
        """The one root."""
        return TrustBundle(((self._trust_domain, (to_pem(self._issuer.certificate).decode(),)),))

    async def check(self) -> AuthorityHealth:
        """Always able to sign."""
        return AuthorityHealth(ok=True)

    async def close(self) -> None:
        """Nothing is held open."""


def open_authority(
    settings: Mapping[str, object], *, trust_domain: str, data_dir: Path, clock: Callable[[], datetime]
) -> HandmadeAuthority:
    """Called with the keys of `ca` but for `provider` and `ttl`. Raises UsageProblem for what it cannot use."""
    if unknown := settings.keys() - {"longest"}:
        raise UsageProblem(f"ca: handmade does not know {', '.join(sorted(unknown))}", next_step="it knows longest")
    return HandmadeAuthority(trust_domain, parse_duration(settings.get("longest", "1h")), clock)
