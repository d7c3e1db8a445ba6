"""How long policy takes from this host's agent to its Envoy. Pure: the clock is passed in."""

from __future__ import annotations

BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)  # seconds
_MOST = 1000  # revisions that may wait; an Envoy that stays away holds no more


class Propagation:
    """Counts each revision once, from when it was seen in the store to when Envoy had applied it."""

    def __init__(self) -> None:
        self.rejections = 0
        self.seconds = 0.0  # of all together
        self._seen: dict[int, float] = {}
        self._first: int | None = None
        self._applied = 0
        self._within = dict.fromkeys(BOUNDS, 0)
        self._count = 0

    def seen(self, revision: int, now: float) -> None:
        """The revision was read at `now` (seconds of any steady clock). The first one stood there before this agent."""
        if self._first is None:
            self._first = self._applied = revision
        if revision > self._applied and revision not in self._seen and len(self._seen) < _MOST:
            self._seen[revision] = now

    def applied(self, revision: int, now: float) -> None:
        """Envoy has applied all up to the revision at `now`."""
        self._applied = max(self._applied, revision)
        for each in [each for each in self._seen if each <= revision]:
            took = now - self._seen.pop(each)
            self._count += 1
            self.seconds += took
            for bound in BOUNDS:
                self._within[bound] += took <= bound

    @property
    def buckets(self) -> list[tuple[str, int]]:
        """How many took at most so many seconds, cumulative; the last are all."""
        return [*((f"{bound:g}", count) for bound, count in self._within.items()), ("+Inf", self._count)]
