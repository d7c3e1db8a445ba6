"""Identity as bytes and the few facts that decisions need. Only `ca/` looks inside certificates."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from datetime import datetime

from meshagent.model.names import OWN_FORM, spiffe_id


@dataclass(frozen=True, slots=True)
class Domains:
    """The trust domains whose certificates count in a mesh, each with the form of its SPIFFE IDs, the mesh's own first.

    A service has one ID in each. It counts only with a certificate that leads to a root of that very trust domain.
    """

    forms: tuple[tuple[str, str], ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The trust domains alone."""
        return tuple(domain for domain, _ in self.forms)

    @property
    def consul(self) -> Domains:
        """Those of Consul's CA alone, whose own proxies show and take no other certificates."""
        return Domains(tuple((domain, form) for domain, form in self.forms if form != OWN_FORM))

    def ids(self, service: str) -> tuple[str, ...]:
        """Every SPIFFE ID by which the service may prove who it is."""
        return tuple(spiffe_id(domain, service, form) for domain, form in self.forms)

    def prefixes(self) -> tuple[str, ...]:
        """What the SPIFFE IDs of all services begin with, one for each trust domain."""
        return tuple(f"spiffe://{domain}/" + ("" if form == OWN_FORM else f"{form}/") for domain, form in self.forms)


@dataclass(frozen=True, slots=True)
class TrustBundle:
    """The roots that peers are checked against, by trust domain: PEM certificates, in a stable order.

    `leaving`: hex SHA-256 (of the DER) of those that nothing signs with any more. `forms`: how SPIFFE IDs look in the
    trust domains in which they are not `spiffe://<trust domain>/svc/<service>`, see `spiffe_id`.
    """

    roots: tuple[tuple[str, tuple[str, ...]], ...] = ()
    leaving: tuple[str, ...] = ()
    forms: tuple[tuple[str, str], ...] = ()

    def of(self, trust_domain: str) -> tuple[str, ...]:
        """The PEM roots of one trust domain; empty when it is unknown."""
        return next((pems for domain, pems in self.roots if domain == trust_domain), ())

    def pem(self, trust_domain: str) -> bytes:
        """The roots of one trust domain as one PEM text."""
        return "".join(pem if pem.endswith("\n") else pem + "\n" for pem in self.of(trust_domain)).encode()

    def digest(self) -> str:
        """16 hex digits that name the roots; hosts report it so that a rotation knows who has what."""
        said = repr((self.roots, self.forms) if self.forms else self.roots)
        return hashlib.blake2b(said.encode(), digest_size=8).hexdigest()

    def form(self, trust_domain: str) -> str:
        """How SPIFFE IDs look in a trust domain."""
        return dict(self.forms).get(trust_domain, OWN_FORM)

    def domains(self, own: str) -> Domains:
        """The trust domains that there are roots of; the mesh's own alone where there are none."""
        held = sorted((domain for domain, pems in self.roots if pems), key=lambda domain: (domain != own, domain))
        return Domains(tuple((domain, self.form(domain)) for domain in held or [own]))


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
