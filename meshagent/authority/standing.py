"""How an authority stands in its mesh: it keeps a certificate of its own, shows it in the store, and its root in the bundle."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime
from typing import Protocol

import structlog
from cryptography.hazmat.primitives.asymmetric import ec

from meshagent.authority.intermediate import (
    WARN_BEFORE_END,
    Intermediate,
    adopted,
    cut,
    due,
    intermediate_key,
    keep_chain,
    kept_chain,
    request_of,
)
from meshagent.authority.ledger import Ledger
from meshagent.authority.signatory import key_digest
from meshagent.ca.issuance import Issuer, to_pem, trust_domain_of
from meshagent.ca.root_files import digest_of, load_root
from meshagent.ca.rotation import root_digests
from meshagent.config.authority import AuthorityConfig
from meshagent.errors import AuthorityUnavailable, CertificateRefused, MeshError
from meshagent.model.identity import TrustBundle
from meshagent.state.enrolment import SignerRecord

_log = structlog.get_logger(__name__)


class Upstream(Protocol):
    """Another CA that signs the authority's own certificate."""

    async def intermediate(self, csr_pem: str) -> bytes:
        """A PEM chain, ours first. Raises AuthorityUnavailable, CertificateRefused."""


class Standing:
    """The authority's certificate: looked at again whenever something changed, and now and then."""

    def __init__(self, config: AuthorityConfig, upstream: Upstream | None, clock: Callable[[], datetime]) -> None:
        self._config = config
        self._upstream = upstream
        self._clock = clock
        self._key: ec.EllipticCurvePrivateKey | None = None
        self._told = ""
        self.current: Intermediate | None = None
        self.problem = ""

    async def look(self, ledger: Ledger) -> Intermediate | None:
        """What signs now, renewed when it is time and possible. Never raises: what is wrong is in `problem`."""
        self.problem = ""
        try:
            await self._look(ledger)
            if ledger.known and self.current is None:
                self.problem = self._waiting()
        except (MeshError, OSError) as error:
            self.problem = error.advice if isinstance(error, MeshError) else str(error)
        if self.problem != self._told:
            self._told = self.problem
            if self.problem:
                _log.error("intermediate_not_renewed", problem=self.problem)
        return self.current

    def record(self) -> SignerRecord:
        """What is shown in the store of this authority. The request stays there, so that it can be signed anew any time."""
        current = self.current
        return SignerRecord(
            address=self._config.address,
            intermediate=current.chain_pem.decode() if current else "",
            csr=request_of(self.key, self._config.name),
            fingerprint=current.fingerprint if current else "",
            at=self._clock(),
        )

    def root(self) -> Issuer | None:
        """The mesh's root, where this machine has it. Raises AuthorityUnavailable."""
        directory = self._config.root_dir
        return load_root(directory) if self._config.issuer.provider == "root" and directory.is_dir() else None

    def problems(self) -> tuple[str, ...]:
        """What is wrong, or soon will be."""
        found = [self.problem] if self.problem else []
        if self.current is not None and self.current.ends - self._clock() < WARN_BEFORE_END:
            found.append(
                f"the intermediate ends at {self.current.ends:%Y-%m-%dT%H:%M:%SZ}: meshagent ca root sign"
                f" {self._config.name}, where the mesh's root is"
            )
        return tuple(found)

    def _waiting(self) -> str:
        name, fingerprint = self._config.name, key_digest(self.key.public_key())
        return (
            f"{name} has no intermediate yet; its key is sha256:{fingerprint}: meshagent ca root sign {name}"
            f" --fingerprint sha256:{fingerprint}, where the mesh's root is"
        )

    @property
    def key(self) -> ec.EllipticCurvePrivateKey:
        """The authority's key."""
        if self._key is None:
            self._key = intermediate_key(self._config.data_dir)
        return self._key

    async def _look(self, ledger: Ledger) -> None:
        now = self._clock()
        self.current = self._usable(self._candidates(ledger), ledger, now)
        root = await asyncio.to_thread(self.root)
        if root is not None and not _believed(root, ledger):
            raise AuthorityUnavailable(
                f"the root in {self._config.root_dir} is not in the mesh's trust bundle, so nothing is signed below it",
                next_step=f"meshagent ca rotate --add-roots {self._config.root_dir}/root.pem, or put the mesh's root there",
            )
        if not ledger.known or not due(now, self.current, root, ledger.leaving):
            return
        if root is not None:
            self._take(cut(self.key, self._config.name, ledger.trust_domain, root, now))
        elif self._upstream is not None:
            chain = await self._upstream.intermediate(request_of(self.key, self._config.name))
            self._take(adopted(chain, self.key, ledger.roots, now))

    def _candidates(self, ledger: Ledger) -> list[bytes]:
        shown = ledger.signers.get(self._config.name)
        held = [kept_chain(self._config.data_dir), shown.intermediate.encode() if shown else b""]
        return [each for each in held if each]

    def _usable(self, chains: list[bytes], ledger: Ledger, now: datetime) -> Intermediate | None:
        """The newest of those that fit, one below a root that stays before one below a root that goes."""
        fitting: list[Intermediate] = []
        for chain in chains:
            try:
                fitting.append(adopted(chain, self.key, ledger.roots, now))
            except CertificateRefused as error:
                _log.debug("intermediate_refused", problem=str(error))
        if not fitting:
            return None
        best = max(
            fitting,
            key=lambda each: (each.root_digest not in ledger.leaving, each.issuer.certificate.not_valid_before_utc),
        )
        if self.current is None or best.fingerprint != self.current.fingerprint:
            self._take(best)
        return best

    def _take(self, intermediate: Intermediate) -> None:
        if intermediate.chain_pem != kept_chain(self._config.data_dir):
            keep_chain(self._config.data_dir, intermediate)
        self.current = intermediate
        _log.info(
            "intermediate_taken",
            fingerprint=intermediate.fingerprint[:16],
            root=intermediate.root_digest[:16],
            ends_at=intermediate.ends.isoformat(),
        )


def own_roots(root: Issuer) -> TrustBundle:
    """The bundle that holds this root alone."""
    return TrustBundle(((trust_domain_of(root.certificate), (to_pem(root.certificate).decode(),)),))


def _believed(root: Issuer, ledger: Ledger) -> bool:
    held = root_digests(TrustBundle(((ledger.trust_domain, ledger.roots),)), ledger.trust_domain)
    return not ledger.known or digest_of(root.certificate) in held
