"""How often somebody may ask: token buckets, judged at a time that is passed in. Pure."""

from __future__ import annotations

from meshagent.host.allowance import Allowance

MOST_KEPT = 10_000  # askers that are remembered; more at once are judged as one
_OTHERS = "(others)"
_BURST_SECONDS = 20.0  # how much may be asked at once: what twenty seconds bring, but at least three times


class Rate:
    """At most `per_minute` for each asker, in the long run. `now` is seconds on a clock that never goes back."""

    def __init__(self, per_minute: int) -> None:
        self._per_second = per_minute / 60
        self._burst = max(3.0, self._per_second * _BURST_SECONDS)
        self._allowances: dict[str, Allowance] = {}

    def take(self, asker: str, now: float) -> bool:
        """Whether this one may ask now; counts it when it may."""
        return self._allowance(asker, now).take(now)

    def _allowance(self, asker: str, now: float) -> Allowance:
        if asker not in self._allowances and len(self._allowances) >= MOST_KEPT:
            self._forget(now)
            if len(self._allowances) >= MOST_KEPT:
                asker = _OTHERS
        return self._allowances.setdefault(asker, Allowance(self._per_second, self._burst, now))

    def _forget(self, now: float) -> None:
        """Those whose bucket is full again are as good as never seen."""
        full = self._burst / self._per_second
        self._allowances = {asker: each for asker, each in self._allowances.items() if now - each.at < full}
