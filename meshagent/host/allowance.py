"""How much may be done: a token bucket, judged at a time that is passed in."""

from __future__ import annotations


class Allowance:
    """`rate` a second in the long run, `burst` at once. `now` in seconds, of any clock that never goes back."""

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate = rate
        self._burst = burst
        self._left = burst
        self.at = now  # when one was asked for last

    def take(self, now: float) -> bool:
        """Whether one more may be."""
        self._left = min(self._burst, self._left + (now - self.at) * self._rate)
        self.at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True
