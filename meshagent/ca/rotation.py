"""When to renew an SVID: a pure decision. No clock, no network, no certificate is opened here.

Each certificate is renewed at its own random moment between 50 and 66 % of its life, so a fleet that started together
does not renew together, and a CA may be away for a third of every life without anybody noticing.
"""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass
from datetime import datetime, timedelta

from meshagent.model.identity import Svid, TrustBundle

EARLIEST, LATEST = 0.50, 0.66  # parts of a certificate's life
SHORTEST_WAIT, LONGEST_WAIT = timedelta(seconds=1), timedelta(seconds=60)
LONGEST_WAIT_WITHOUT = timedelta(seconds=10)  # between tries while there is no good certificate
MOVED_WITHIN = timedelta(seconds=30)  # to another root: as Consul spreads it
_CLOCK_BEHIND = timedelta(seconds=90)  # more than any CA of ours backdates and than `accept` allows for
_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----(.+?)-----END CERTIFICATE-----", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Keep:
    """Nothing to do before `until`."""

    until: datetime


@dataclass(frozen=True, slots=True)
class Renew:
    """Ask the CA now, and why."""

    reason: str


def next_step(
    now: datetime, svid: Svid | None, bundle: TrustBundle, trust_domain: str, at: float, move: datetime | None = None
) -> Keep | Renew:
    """Whether to keep this SVID or to renew it.

    `at` (0 to 1) places the renewal between 50 and 66 % of the life; it is drawn once for each certificate. A root that
    the bundle no longer holds means renewal at once, and so does a clock that went back before the SVID's beginning.
    `move` is when to go over to the root that signs now (`spread`), where that is another one. Ask again at least every
    quarter of a life and no SVID ends unrenewed while its CA answers.
    """
    if svid is None:
        return Renew("there is none yet")
    if problem := _useless(now, svid, bundle, trust_domain):
        return Renew(problem)
    due = svid.not_before + (svid.expires_at - svid.not_before) * (EARLIEST + (LATEST - EARLIEST) * at)
    if now >= due:
        return Renew("half of its life is over")
    if move is not None and superseded(svid, bundle):
        return Renew("another root signs now") if now >= move else Keep(until=min(due, move))
    return Keep(until=due)


def _useless(now: datetime, svid: Svid, bundle: TrustBundle, trust_domain: str) -> str:
    """Why no peer takes it now, or ""."""
    if now >= svid.expires_at:
        return "it has ended"
    if now + _CLOCK_BEHIND < svid.not_before:
        return "it has not begun: the clock went back"
    return "" if svid.root_digest in root_digests(bundle, trust_domain) else "its root is no longer trusted"


def superseded(svid: Svid, bundle: TrustBundle) -> bool:
    """Whether another root signs now than the one that this SVID leads to."""
    return svid.root_digest in bundle.leaving


def spread(svid: Svid, random: float) -> timedelta:
    """How long to wait before going over to another root: within 30 s or a quarter of the life, by `random` (0 to 1)."""
    return min(MOVED_WITHIN, (svid.expires_at - svid.not_before) / 4) * random


def late(now: datetime, svid: Svid) -> bool:
    """Whether more than 66 % of its life are over: by then it should have been renewed."""
    return now >= svid.not_before + (svid.expires_at - svid.not_before) * LATEST


def patience(now: datetime, svid: Svid | None, attempt: int, random: float) -> timedelta:
    """How long to wait after failure number `attempt` of renewing this SVID.

    That is `backoff`, but no more than a quarter of what is left: a CA that comes back in time is asked in time.
    Without a good one there are at most 10 s between tries: new connections fail until one succeeds (fault R14).
    """
    wait = backoff(attempt, random)
    if svid and svid.not_before <= now + _CLOCK_BEHIND and now < svid.expires_at:
        return min(wait, max((svid.expires_at - now) / 4, SHORTEST_WAIT))
    return min(wait, SHORTEST_WAIT + (LONGEST_WAIT_WITHOUT - SHORTEST_WAIT) * random)


def root_digests(bundle: TrustBundle, trust_domain: str | None = None) -> frozenset[str]:
    """Hex SHA-256 of every root (DER) that the bundle holds, for this trust domain or for any. What is not PEM is left out."""
    held = bundle.of(trust_domain) if trust_domain is not None else [pem for _, pems in bundle.roots for pem in pems]
    return frozenset(digest for pem in held for digest in digests_in(pem))


def digests_in(pem: str) -> frozenset[str]:
    """Hex SHA-256 of every certificate (DER) in a PEM text."""
    return frozenset(digest for digest in map(_digest, _CERTIFICATE.findall(pem)) if digest)


def backoff(attempt: int, random: float) -> timedelta:
    """How long to wait before try `attempt` + 1 after failure number `attempt` (from 0): 1 to 60 s, full jitter.

    `random` is 0 to 1. The upper bound doubles from 2 s; all of the range is used, so that many hosts spread out.
    """
    bound = min(LONGEST_WAIT, SHORTEST_WAIT * (1 << min(attempt + 1, 6)))
    return SHORTEST_WAIT + (bound - SHORTEST_WAIT) * random


def _digest(body: str) -> str:
    try:
        return hashlib.sha256(base64.b64decode(body)).hexdigest()
    except ValueError:
        return ""
