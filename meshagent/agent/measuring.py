"""What Envoy counted at the instances of this host, as what became of requests since a moment. Pure.

A request is counted where it is answered, so by whoever it was made and through whichever gateway it came. It failed where
the answer was 5xx, or where there was none: the caller gave up first, or the instance went away.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from meshagent.envoy.counts import Counts as Told
from meshagent.model.rollout import Bucket, Counts

Place = tuple[str, str]  # service, instance


def pattern_of(services: Iterable[str]) -> str:
    """What to ask Envoy's admin interface for."""
    names = "|".join(sorted(services))
    return rf"^http\.in\.({names})(\.[^./]+)?(/[^.]+)?\.downstream_rq_(total|active|completed|5xx|time)$"


def counted(told: Told, place: Place) -> Counts:
    """The requests of one instance since Envoy began, from whichever caller."""
    heads = tuple(sorted(_heads(told, place)))

    def number(name: str) -> int:
        return sum(told.of(f"{head}.downstream_rq_{name}") for head in heads)

    answered = number("completed")
    unanswered = max(0, number("total") - number("active") - answered)
    times: dict[float, int] = {}
    for head in heads:
        before = 0
        for upto, until in told.buckets.get(f"{head}.downstream_rq_time", ()):
            times[upto] = times.get(upto, 0) + until - before
            before = until
    buckets = tuple(Bucket(upto=upto, count=max(0, count)) for upto, count in sorted(times.items()))
    return Counts(requests=answered + unanswered, failed=number("5xx") + unanswered, times=buckets)


def _heads(told: Told, place: Place) -> set[str]:
    """The prefixes under which an instance is counted: each caller that has a chain of its own has one of its own."""
    service, instance = place
    own = f"http.in.{service}" + ("" if instance == service else f".{instance}")
    names = (name.rpartition(".")[0] for name in (*told.values, *told.buckets))
    return {name for name in names if name == own or name.startswith(f"{own}/")}


def since(before: Counts, now: Counts) -> Counts:
    """What came between; all of `now` where Envoy counts anew."""
    held = {bucket.upto: bucket.count for bucket in before.times}
    times = {bucket.upto: bucket.count - held.get(bucket.upto, 0) for bucket in now.times}
    if now.requests < before.requests or now.failed < before.failed or any(count < 0 for count in times.values()):
        return now
    return Counts(
        requests=now.requests - before.requests,
        failed=now.failed - before.failed,
        times=tuple(Bucket(upto=upto, count=count) for upto, count in times.items()),
    )


class Tally:
    """Adds up what came to each instance, also over a restart of Envoy, until it is begun anew."""

    def __init__(self) -> None:
        self._last: dict[Place, Counts] = {}
        self._sums: dict[Place, Counts] = {}

    def begin(self) -> None:
        """Forget the sums: what comes from now on counts."""
        self._sums = {}

    def add(self, now: Mapping[Place, Counts]) -> None:
        """Take in what each instance stands at. The first look at one is where its counting begins."""
        for place, counts in now.items():
            if place in self._last:
                news = since(self._last[place], counts)
                self._sums[place] = self._sums.get(place, Counts()).plus(news)
            self._last[place] = counts

    def of(self, places: Iterable[Place]) -> Counts:
        """The sum over some instances."""
        found = Counts()
        for place in places:
            found = found.plus(self._sums.get(place, Counts()))
        return found
