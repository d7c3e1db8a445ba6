"""When to order a gateway's certificate from a public CA, and when again after a failure: pure decisions.

Public CAs count: orders, failed proofs of a name (five an hour with Let's Encrypt), and hosts that all come at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from meshagent.ca.rotation import Keep, Renew, backoff

EARLIEST, LATEST, LATE = 0.60, 0.67, 0.75  # parts of a certificate's life
_SHORTEST, _LONGEST = timedelta(minutes=1), timedelta(hours=12)
_LONGEST_WISH = timedelta(days=1)
_ATTEMPTS = 10  # after which the pause does not grow any more: 1 minute doubled so often is more than 12 hours


@dataclass(frozen=True, slots=True)
class Life:
    """When a certificate begins and ends."""

    not_before: datetime
    expires_at: datetime

    def part(self, share: float) -> datetime:
        """When this share of it is over."""
        return self.not_before + (self.expires_at - self.not_before) * share


def next_order(now: datetime, held: Life | None, at: float, *, as_asked: bool) -> Keep | Renew:
    """Whether to keep a certificate or to order another one.

    `at` (0 to 1) places the renewal between 60 and 67 % of the life, so that hosts which began together do not renew
    together. `as_asked`: whether what is held is what the document asks for.
    """
    if held is None:
        return Renew("there is none yet")
    if not as_asked:
        return Renew("another one is asked for")
    due = held.part(EARLIEST + (LATEST - EARLIEST) * at)
    return Keep(due) if now < due else Renew("two thirds of its life are over")


def late(now: datetime, held: Life) -> bool:
    """Whether it should have been renewed long ago."""
    return now >= held.part(LATE)


def pause(
    failures: int, random: float, held: Life | None, now: datetime, *, refused: bool, wish: timedelta
) -> timedelta:
    """How long to wait before the next order, after failure number `failures` (from 0). Full jitter by `random` (0 to 1).

    A CA that does not answer is asked again after 1 to 60 s. One that refuses counts that: 1 minute at least, and up to 12
    hours, but no more than a quarter of what is left of a certificate that lives. What the CA itself asks for (`wish`) is
    kept to in any case, up to a day.
    """
    if refused:
        bound = min(_LONGEST, _SHORTEST * (1 << min(failures + 1, _ATTEMPTS)))
        found = _SHORTEST + (bound - _SHORTEST) * random
    else:
        found = backoff(failures, random)
    if held and held.expires_at > now:
        found = min(found, max((held.expires_at - now) / 4, timedelta(seconds=1)))
    return max(found, min(wish, _LONGEST_WISH))
