"""What a CA is. Everything else (keys, acceptance, when to renew) is ours and the same for all."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Protocol, runtime_checkable

from meshagent.model.identity import TrustBundle
from meshagent.model.names import spiffe_id


@dataclass(frozen=True, slots=True)
class AuthorityHealth:
    """`ok`, or what is wrong with its next step, one sentence an item."""

    ok: bool
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Issued:
    """What a CA gave, not yet checked: a PEM chain, leaf first, and the PEM private key that belongs to it."""

    key_pem: bytes = field(repr=False)
    chain_pem: bytes


class Authority(Protocol):
    """A CA, whoever makes the keys. Raises AuthorityUnavailable (try again) or CertificateRefused (do not)."""

    async def bundle(self) -> TrustBundle:
        """The roots that this authority's certificates chain to."""

    async def check(self) -> AuthorityHealth:
        """Whether it could sign now."""

    async def close(self) -> None:
        """Let go of connections and files. It is not used after."""


@runtime_checkable
class Signer(Authority, Protocol):
    """An authority that signs requests: the key is made here and stays here."""

    async def sign(self, csr_pem: bytes, spiffe_id: str, ttl: timedelta) -> bytes:
        """A PEM chain, leaf first, for the CSR's public key and exactly this SPIFFE ID. Nothing else in it counts."""


@runtime_checkable
class KeyMaker(Authority, Protocol):
    """An authority that hands out keys together with certificates: Consul's agent on this host, or files."""

    async def issue(self, spiffe_id: str, ttl: timedelta) -> Issued:
        """A certificate for exactly this SPIFFE ID, with its key."""


@runtime_checkable
class Announcing(Protocol):
    """An authority that hears of new certificates itself, so that they are taken up before the old ones are due."""

    async def changed(self) -> Collection[str]:
        """Waits until there is something new to issue, and says for which SPIFFE IDs. Raises what `issue` raises."""


@runtime_checkable
class Naming(Protocol):
    """An authority with a trust domain and a form of SPIFFE IDs of its own."""

    async def named(self, service: str) -> str:
        """The SPIFFE ID that it certifies for a service. Raises what `bundle` raises."""


async def name_of(authority: Authority, trust_domain: str, service: str) -> str:
    """The SPIFFE ID that the authority certifies for a service of the mesh with this trust domain."""
    return await authority.named(service) if isinstance(authority, Naming) else spiffe_id(trust_domain, service)


async def obtain(authority: Authority, identity: str, ttl: timedelta) -> Issued:
    """A certificate for this SPIFFE ID from either sort of authority, not yet checked: `accept` does that."""
    if isinstance(authority, KeyMaker):
        return await authority.issue(identity, ttl)
    if not isinstance(authority, Signer):
        raise TypeError(f"{type(authority).__name__} neither signs nor issues")
    from meshagent.ca.keys import new_key_and_csr

    key_pem, csr_pem = new_key_and_csr(identity)
    return Issued(key_pem, await authority.sign(csr_pem, identity, ttl))
