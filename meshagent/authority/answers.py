"""What the authority answers, without any HTTP in it: every decision, its audit line and its count."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import structlog

from meshagent.authority.admission import Newcomer, admit
from meshagent.authority.ledger import Reading
from meshagent.authority.metrics import Metrics
from meshagent.authority.nomad import Workloads
from meshagent.authority.rates import Rate
from meshagent.authority.requests import EnrolRequest, RenewRequest, SignRequest
from meshagent.authority.signatory import Asker, Signatory, key_digest
from meshagent.authority.tls import Peer, peer_of
from meshagent.authority.verdict import holder_problem, longest, service_refusal, workload_refusal
from meshagent.ca.issuance import public_key_of
from meshagent.ca.x509 import host_id
from meshagent.config.authority import AuthorityConfig
from meshagent.errors import (
    AuthorityUnavailable,
    CertificateRefused,
    EnrolmentRefused,
    MeshError,
    StoreDenied,
    StoreUnavailable,
)
from meshagent.state.enrolment import ID_LENGTH, GrantRecord, token_hash
from meshagent.state.keys import Keys
from meshagent.state.records import UnreadableRecord, decode
from meshagent.store.base import Store

_log = structlog.get_logger(__name__)
_AUDIT = "the reason is in the authority's audit log too"


class TooOften(Exception):
    """Somebody asks more often than the settings allow."""


@dataclass(frozen=True, slots=True)
class Tools:
    """What answers are made with."""

    store: Store
    keys: Keys
    reading: Reading
    signatory: Signatory
    metrics: Metrics
    clock: Callable[[], datetime]
    ticks: Callable[[], float]


class Answers:
    """One answer a method. Raises MeshError for a no, TooOften."""

    def __init__(self, config: AuthorityConfig, tools: Tools) -> None:
        self._tools = tools
        self.configure(config)

    def configure(self, config: AuthorityConfig) -> None:
        """Go by these settings from now on."""
        self._config = config
        rates = config.rate_limits
        self._enrol, self._enrol_each = Rate(rates.enrol), Rate(rates.enrol_per_address)
        self._strangers = Rate(rates.enrol_per_address)
        self._sign_each, self._each = Rate(rates.sign_per_host), Rate(rates.requests_per_address)
        self._workloads = Workloads(config.nomad, self._tools.clock, self._tools.ticks)

    def admit_request(self, address: str) -> None:
        """Count a request of any kind. Raises TooOften."""
        self._take(self._each, address)

    async def peer(self, certificate: bytes | None, address: str) -> Peer:
        """The host at the other end. Raises CertificateRefused (attack 42), and TooOften for a flood of strangers."""
        try:
            return peer_of(certificate, self._domain(), self._tools.clock())
        except CertificateRefused as error:
            self._take(self._strangers, address)
            await self._refused("", error, Asker("", address), "peer")
            raise

    def roots(self) -> dict[str, Any]:
        """Public facts, for everybody."""
        ledger = self._tools.reading.ledger
        return {
            "trust_domain": ledger.trust_domain,
            "roots": list(ledger.roots),
            "authorities": list(ledger.addresses()),
            "now": self._tools.clock().isoformat(),
        }

    async def enrol(self, request: EnrolRequest, address: str) -> dict[str, Any]:
        """Let a host in. Raises EnrolmentRefused, CertificateRefused, AuthorityUnavailable, what the store raises."""
        self._take(self._enrol_each, address)
        self._take(self._enrol, "")
        identity = host_id(self._domain(), request.host)
        asker = Asker(f"token:{token_hash(request.token)[:ID_LENGTH]}", address)
        try:
            key = public_key_of(request.csr.encode())
            self._ready()
            newcomer = Newcomer(request.host, key_digest(key), address)
            admitted = await admit(self._tools.store, self._tools.keys, request.token, newcomer, self._tools.clock())
        except (EnrolmentRefused, CertificateRefused) as error:
            await self._refused(identity, error, asker, "token" if isinstance(error, EnrolmentRefused) else "csr")
            raise
        grant = admitted.grant
        self._tools.reading.granted(grant)
        await self._tools.signatory.grant(identity, grant.services, grant.key_sha256, asker)
        ttl = self._config.host_ttl
        chain = await self._tools.signatory.sign(key, identity, "host", ttl, ttl, asker)
        self._tools.metrics.signed.labels("host").inc()
        _log.info("host_enrolled", host=request.host, services=list(grant.services), address=address)
        return {
            "chain": chain.decode(),
            "services": list(grant.services),
            "sealed": admitted.sealed,
            "store": self._config.store_for_hosts,
        }

    async def renew(self, request: RenewRequest, peer: Peer, address: str) -> dict[str, Any]:
        """A host's next certificate, for the same key. Raises CertificateRefused, AuthorityUnavailable."""
        self._take(self._sign_each, peer.host)
        identity, asker = host_id(self._domain(), peer.host), Asker(f"host:{peer.host}", address)
        grant = await self._grant(peer.host)
        try:
            key = public_key_of(request.csr.encode())
            problem = holder_problem(grant, peer.key_sha256) if grant else "this host has no grant"
            if not problem and key_digest(key) != peer.key_sha256:
                problem = "a host renews the key that it was known by; another one joins anew"
            if problem or grant is None:
                raise CertificateRefused(problem, next_step=_AUDIT)
        except CertificateRefused as error:
            await self._refused(identity, error, asker, "renew")
            raise
        ttl = self._config.host_ttl
        chain = await self._tools.signatory.sign(key, identity, "host", ttl, ttl, asker)
        self._tools.metrics.signed.labels("host").inc()
        return {"chain": chain.decode(), "services": [each for each in grant.services if grant.allows(each)]}

    async def sign(self, request: SignRequest, peer: Peer, address: str) -> dict[str, Any]:
        """A service's certificate for a host. Raises CertificateRefused, AuthorityUnavailable."""
        self._take(self._sign_each, peer.host)
        grant = await self._grant(peer.host)
        problem = service_refusal(request.spiffe_id, self._domain(), grant, peer.key_sha256)
        cap = longest(grant, self._config.max_ttl) if grant else timedelta(0)
        return await self._certified(request, problem, cap, Asker(f"host:{peer.host}", address))

    async def sign_workload(self, request: SignRequest, token: str, address: str) -> dict[str, Any]:
        """A service's certificate for a Nomad workload. Raises CertificateRefused, AuthorityUnavailable."""
        try:
            workload = await self._workloads.judge(token)
        except CertificateRefused as error:
            self._take(self._strangers, address)
            await self._refused(request.spiffe_id, error, Asker("nomad", address), "jwt")
            raise
        self._take(self._sign_each, workload.name)
        problem = workload_refusal(request.spiffe_id, self._domain(), workload.services)
        return await self._certified(request, problem, self._config.max_ttl, Asker(workload.name, address))

    async def _certified(self, request: SignRequest, problem: str, cap: timedelta, asker: Asker) -> dict[str, Any]:
        try:
            if problem:
                raise CertificateRefused(problem, next_step=_AUDIT)
            key = public_key_of(request.csr.encode())
        except CertificateRefused as error:
            await self._refused(request.spiffe_id, error, asker, "identity" if problem else "csr")
            raise
        signatory = self._tools.signatory
        chain = await signatory.sign(key, request.spiffe_id, "service", request.ttl, cap, asker)
        self._tools.metrics.signed.labels("service").inc()
        return {"chain": chain.decode()}

    async def _grant(self, host: str) -> GrantRecord | None:
        """As it is known; a host that is not known may have joined elsewhere a moment ago."""
        tools = self._tools
        if (known := tools.reading.ledger.grants.get(host)) is not None:
            return known
        key = tools.keys.grant(host)
        try:
            entry = (await tools.store.read(key)).entries.get(key)
            found = decode(GrantRecord, entry.value) if entry else None
        except (StoreUnavailable, StoreDenied, UnreadableRecord):
            return None
        if found is not None and found.host == host:
            tools.reading.granted(found)
            return found
        return None

    async def _refused(self, identity: str, error: MeshError, asker: Asker, reason: str) -> None:
        self._tools.metrics.refused.labels(reason).inc()
        _log.warning("request_refused", asker=asker.by, address=asker.address, reason=str(error)[:300])
        await self._tools.signatory.refuse(identity, error.message, asker)

    def _ready(self) -> None:
        """Before a token is used up: whether its certificate could be signed at all. Raises AuthorityUnavailable."""
        self._tools.signatory.ready()
        if problem := self._tools.signatory.audit_problem():
            raise AuthorityUnavailable("nothing is signed while the audit log cannot be written", next_step=problem)

    def _domain(self) -> str:
        domain = self._tools.reading.ledger.trust_domain
        if not domain:
            raise AuthorityUnavailable(
                "this authority does not know its mesh yet", next_step="check its store; see its log"
            )
        return domain

    def _take(self, rate: Rate, asker: str) -> None:
        if not rate.take(asker, self._tools.ticks()):
            self._tools.metrics.refused.labels("rate").inc()
            raise TooOften
