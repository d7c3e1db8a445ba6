"""SVIDs of the host's services: made on this host, accepted by our own rules, renewed in good time, kept for a restart."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Never

import structlog

from meshagent.ca.base import Announcing, Authority, KeyMaker, name_of, obtain
from meshagent.ca.rotation import LONGEST_WAIT, Keep, Renew, backoff, late, next_step, patience, spread, superseded
from meshagent.errors import CertificateRefused, MeshError, NotFound
from meshagent.model.identity import Svid, TrustBundle
from meshagent.model.names import parse_spiffe_id
from meshagent.private import read_private, write_private

_log = structlog.get_logger(__name__)
_LONGEST_SLEEP = 60.0
_ANY_LIFE = timedelta(days=3650)
_PAUSE = 0.1  # seconds between two things that an authority announces
_ALMOST_OVER = 0.9  # of a life: an authority that makes the keys has its own moment for renewing, up to here


class Identities:
    """Keeps one SVID a service. `changed` is called with all of them after every change."""

    def __init__(
        self,
        authority: Callable[[str], Authority],
        directory: Path,
        ttl: timedelta,
        clock: Callable[[], datetime],
        changed: Callable[[Mapping[str, Svid]], None],
    ) -> None:
        self._authority = authority
        self._directory = directory
        self._ttl = ttl
        self._clock = clock
        self._changed = changed
        self._wanted: frozenset[str] = frozenset()
        self._trust_domain = ""
        self._bundle = TrustBundle()
        self._at: dict[str, float] = {}  # where in the renewal window this SVID is renewed, drawn once for each
        self._failures: dict[str, tuple[int, datetime]] = {}  # attempts, not before
        self._moves: dict[str, tuple[int, datetime]] = {}  # to the root that signs now: attempts, when the next is
        self._rests: dict[str, datetime] = {}  # until when an authority that makes the keys is not asked again
        self._fresh: set[str] = set()  # of which the authority said that it has a new certificate
        self._wake = asyncio.Event()
        self._known = asyncio.Event()  # set when the trust domain is
        self.svids: dict[str, Svid] = {}
        self.problems: dict[str, str] = {}
        self.overdue: frozenset[str] = frozenset()  # unrenewed after 66 % of the life
        self.renewals: Counter[str] = Counter()
        self.refusals: Counter[str] = Counter()

    def want(self, services: Collection[str], trust_domain: str, bundle: TrustBundle) -> None:
        """Say whose SVIDs are needed, and which roots they must chain to."""
        wanted = (frozenset(services), trust_domain, bundle)
        if wanted == (self._wanted, self._trust_domain, self._bundle):
            return
        self._wanted, self._trust_domain, self._bundle = wanted
        for each in (self._failures, self._moves, self.problems):
            for gone in each.keys() - self._wanted:
                del each[gone]
        self.svids = {service: svid for service, svid in self.svids.items() if service in self._wanted}
        self._load()
        self._known.set()
        self._wake.set()

    async def run(self) -> Never:
        """Issue and renew, for ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow())
            await self._renew_in_time()

    async def _renew_in_time(self) -> Never:
        while True:
            self._wake.clear()
            pause = await self._step()
            try:
                async with asyncio.timeout(pause):
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def _follow(self) -> None:
        """Take up at once what the authority announces, where it does so."""
        await self._known.wait()
        while True:
            try:
                authority = self._authority(self._trust_domain)
                if not isinstance(authority, Announcing):
                    return
                names = await authority.changed()
            except MeshError:  # whoever asks for a certificate meets the same and says so
                await asyncio.sleep(_LONGEST_SLEEP)
                continue
            fresh = self._wanted & {parsed[1] for parsed in map(parse_spiffe_id, names) if parsed}
            self._fresh |= fresh
            for service in fresh:
                self._failures.pop(service, None)
            self._wake.set()
            await asyncio.sleep(_PAUSE)

    async def _step(self) -> float:
        """Do what is due now. Returns the seconds until something may be due again."""
        due = self._clock() + timedelta(seconds=_LONGEST_SLEEP)
        for service in sorted(self._wanted):
            due = min(due, await self._tend(service))
        self._tell_overdue()
        return max((due - self._clock()).total_seconds(), 0.01)

    async def _tend(self, service: str) -> datetime:
        """Renew one SVID if it is due and was not refused a moment ago. Returns when to look again."""
        at = self._at.setdefault(service, random.random())  # noqa: S311 - spreads load, hides nothing
        svid, now = self.svids.get(service), self._clock()
        decision = next_step(now, svid, self._bundle, self._domain(svid), at, self._move(service, svid))
        if service in self._fresh:
            decision = Renew("the CA has a new one")
        elif now < self._rests.get(service, now) <= now + LONGEST_WAIT:
            return self._rests[service]
        if isinstance(decision, Keep):
            return decision.until
        attempts, not_before = self._failures.get(service, (0, now))
        if now < not_before <= now + LONGEST_WAIT:  # further off than any pause: the clock went back
            return not_before
        if await self._renew(service, decision.reason):
            self._moved(service)
            return self._clock()
        self.refusals[service] += 1
        pause = patience(self._clock(), svid, attempts, random.random())  # noqa: S311
        self._failures[service] = (attempts + 1, self._clock() + pause)
        return self._clock() + pause

    def _move(self, service: str, svid: Svid | None) -> datetime | None:
        """When this SVID goes over to the root that signs now; None where it leads to that one."""
        if svid is None or not superseded(svid, self._bundle):
            self._moves.pop(service, None)
            return None
        wait = spread(svid, random.random())  # noqa: S311
        return self._moves.setdefault(service, (0, self._clock() + wait))[1]

    def _moved(self, service: str) -> None:
        """A CA that signs with the old root still is not asked for the new one all the time."""
        svid = self.svids[service]
        if service in self._moves and superseded(svid, self._bundle):
            attempts = self._moves[service][0] + 1
            pause = max(backoff(attempts, random.random()), (svid.expires_at - svid.not_before) / 10)  # noqa: S311
            self._moves[service] = (attempts, self._clock() + pause)

    def _tell_overdue(self) -> None:
        now = self._clock()
        found = {name for name in self._failures.keys() & self.svids.keys() if late(now, self.svids[name])}
        for service in sorted(found - self.overdue):
            ends, problem = self.svids[service].expires_at.isoformat(), self.problems.get(service, "")
            _log.error("svid_overdue", service=service, expires_at=ends, problem=problem)
        self.overdue = frozenset(found)

    async def _renew(self, service: str, reason: str) -> bool:
        from meshagent.ca.x509 import accept

        try:
            authority = self._authority(self._trust_domain)
            name = await name_of(authority, self._trust_domain, service)
            issued = await obtain(authority, name, self._ttl)
            chain, key = issued.chain_pem, issued.key_pem
            svid = accept(chain, key, name, self._bundle, domain_of(name), self._clock(), self._ttl)
            if isinstance(authority, KeyMaker) and self._has(service, svid):
                return self._wait_for_key_maker(service, svid)
            write_private(self._file(service), svid.key_pem + svid.chain_pem)
        except MeshError as error:
            self.problems[service] = str(error)
            _log.warning("svid_not_renewed", service=service, reason=reason, problem=str(error), code=error.code)
            return False
        at = self._at[service] = random.random()  # noqa: S311
        step = next_step(self._clock(), svid, self._bundle, domain_of(name), at)
        if isinstance(step, Renew) and not isinstance(authority, KeyMaker):
            self.problems[service] = "the CA's answer is due for renewal already"
            return False
        self._fresh.discard(service)
        self._rests.pop(service, None)
        self._failures.pop(service, None)
        self.problems.pop(service, None)
        self.renewals[service] += 1
        _log.info(
            "svid_renewed", spiffe_id=name, serial=svid.serial, expires_at=svid.expires_at.isoformat(), reason=reason
        )
        self._keep(service, svid)
        return True

    def _has(self, service: str, svid: Svid) -> bool:
        held = self.svids.get(service)
        return held is not None and held.chain_pem == svid.chain_pem

    def _wait_for_key_maker(self, service: str, svid: Svid) -> bool:
        """It renews when it sees fit: nothing is wrong with the old one until it is almost over."""
        now = self._clock()
        self._fresh.discard(service)
        self._failures.pop(service, None)
        self._rests[service] = now + LONGEST_WAIT
        self.problems.pop(service, None)
        if now >= svid.not_before + (svid.expires_at - svid.not_before) * _ALMOST_OVER:
            self.problems[service] = f"the CA has not renewed what ends at {svid.expires_at:%Y-%m-%dT%H:%M:%SZ}"
            _log.warning("svid_not_renewed", service=service, reason="almost over", problem=self.problems[service])
        return True

    def _keep(self, service: str, svid: Svid) -> None:
        self.svids = {**self.svids, service: svid}
        self._changed(self.svids)

    def _load(self) -> None:
        """Take in what an earlier agent kept, where it passes the same checks as a new one."""
        for service in self._wanted - set(self.svids):
            path = self._file(service)
            try:
                svid = self._kept(service, read_private(path))
            except NotFound:
                continue
            except (MeshError, ValueError) as error:
                _log.warning("svid_file_unusable", path=str(path), problem=str(error))
                continue
            self._keep(service, svid)

    def _kept(self, service: str, pem: bytes) -> Svid:
        """The SVID in a file, of whichever trust domain is accepted. Raises CertificateRefused, ValueError."""
        from meshagent.ca.x509 import accept

        start = pem.index(b"-----BEGIN CERTIFICATE-----")
        key, chain = pem[:start], pem[start:]
        first, *others = self._bundle.domains(self._trust_domain).ids(service)
        for name in others:
            with suppress(CertificateRefused):
                return accept(chain, key, name, self._bundle, domain_of(name), self._clock(), _ANY_LIFE)
        return accept(chain, key, first, self._bundle, domain_of(first), self._clock(), _ANY_LIFE)

    def _domain(self, svid: Svid | None) -> str:
        """Whose roots the SVID has to lead to."""
        return domain_of(svid.spiffe_id) if svid else self._trust_domain

    def _file(self, service: str) -> Path:
        return self._directory / f"{service}.pem"


def domain_of(name: str) -> str:
    """The trust domain of a service's SPIFFE ID; "" for what is none."""
    return (parse_spiffe_id(name) or ("", ""))[0]
