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
_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----(.+?)-----END CERTIFICATE-----", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Keep:
    """Nothing to do before `until`."""

    until: datetime


@dataclass(frozen=True, slots=True)
class Renew:
    """Ask the CA now, and why."""

    reason: str


def next_step(now: datetime, svid: Svid | None, bundle: TrustBundle, trust_domain: str, at: float) -> Keep | Renew:
    """Whether to keep this SVID or to renew it.

    `at` (0 to 1) places the renewal between 50 and 66 % of the life; it is drawn once for each certificate. A root that
    the bundle no longer holds means renewal at once. Ask again at least every quarter of a life and no SVID ends
    unrenewed while its CA answers.
    """
    if svid is None:
        return Renew("there is none yet")
    if now >= svid.expires_at:
        return Renew("it has ended")
    if svid.root_digest not in root_digests(bundle, trust_domain):
        return Renew("its root is no longer trusted")
    due = svid.not_before + (svid.expires_at - svid.not_before) * (EARLIEST + (LATEST - EARLIEST) * at)
    return Keep(until=due) if now < due else Renew("half of its life is over")


def root_digests(bundle: TrustBundle, trust_domain: str) -> frozenset[str]:
    """Hex SHA-256 of every root (DER) that the bundle holds for this trust domain. What is not PEM is left out."""
    bodies = [body for pem in bundle.of(trust_domain) for body in _CERTIFICATE.findall(pem)]
    return frozenset(digest for digest in map(_digest, bodies) if digest)


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
