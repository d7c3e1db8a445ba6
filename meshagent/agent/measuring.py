"""What Envoy counted at the instances of this host, as what became of requests since a moment. Pure.

A request is counted where it is answered, so by whoever it was made and through whichever gateway it came. It failed where
the answer was 5xx, or where there was none: the caller gave up first, or the instance went away. What an intention refused
does not count: no instance was asked.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from meshagent.envoy.counts import Counts as Told
from meshagent.model.rollout import Bucket, Counts

Place = tuple[str, str]  # service, instance


def pattern_of(services: Iterable[str]) -> str:
    """What to ask Envoy's admin interface for."""
    names = "|".join(sorted(services))
    counted_ = r"(downstream_rq_(total|active|completed|5xx|time)|rbac\.denied)"
    return rf"^http\.in\.({names})(\.[^./]+)?(/[^.]+)?\.{counted_}$"


@dataclass(frozen=True, slots=True)
class Reading:
    """What became of the requests of one instance since Envoy began; `begun` of them, which never falls while it runs."""

    begun: int = 0
    counts: Counts = field(default=Counts())


def counted(told: Told, place: Place, errors: int = 0) -> Reading:
    """The requests of one instance, from whichever caller. `errors`: those that gRPC says failed, though answered 200."""
    heads = sorted(_heads(told, place))
    found = Counts()
    for head in heads:
        found = found.plus(_of_head(told, head))
    found = found.model_copy(update={"failed": max(found.failed, min(errors, found.requests))})
    return Reading(sum(told.of(f"{head}.downstream_rq_total") for head in heads), found)


def _of_head(told: Told, head: str) -> Counts:
    """The requests of one caller, or of all that have no chain of their own. Where all were refused there are none."""
    completed, refused = told.of(f"{head}.downstream_rq_completed"), told.of(f"{head}.rbac.denied")
    unanswered = max(0, told.of(f"{head}.downstream_rq_total") - told.of(f"{head}.downstream_rq_active") - completed)
    requests, times, before = max(0, completed - refused) + unanswered, [], 0
    for upto, until in told.buckets.get(f"{head}.downstream_rq_time", ()) if requests else ():
        times.append(Bucket(upto=upto, count=max(0, until - before)))
        before = until
    failed = min(told.of(f"{head}.downstream_rq_5xx") + unanswered, requests)
    return Counts(requests=requests, failed=failed, times=tuple(times))


def _heads(told: Told, place: Place) -> set[str]:
    """The prefixes under which an instance is counted: each caller that has a chain of its own has one of its own."""
    service, instance = place
    own = f"http.in.{service}" + ("" if instance == service else f".{instance}")
    ends = (".downstream_rq_total", ".downstream_rq_completed")
    names = (name.removesuffix(end) for name in told.values for end in ends if name.endswith(end))
    return {name for name in names if name == own or name.startswith(f"{own}/")}


def since(before: Counts, now: Counts) -> Counts:
    """What came between. Envoy's counters are not read at one moment, so a difference may be a little below nothing."""
    held = {bucket.upto: bucket.count for bucket in before.times}
    return Counts(
        requests=max(0, now.requests - before.requests),
        failed=max(0, now.failed - before.failed),
        times=tuple(Bucket(upto=each.upto, count=max(0, each.count - held.get(each.upto, 0))) for each in now.times),
    )


@dataclass(slots=True)
class _Sum:
    """Of one instance: the last reading, where counting began in this Envoy, and what came under earlier ones."""

    last: Reading
    base: Counts
    earlier: Counts = field(default=Counts())


class Tally:
    """Adds up what came to each instance, also over a restart of Envoy, until it is begun anew."""

    def __init__(self) -> None:
        self._sums: dict[Place, _Sum] = {}

    def begin(self) -> None:
        """Forget what came: what comes from now on counts."""
        self._sums = {place: _Sum(held.last, held.last.counts) for place, held in self._sums.items()}

    def add(self, now: Mapping[Place, Reading]) -> None:
        """Take in what each instance stands at. The first look at one is where its counting begins."""
        for place, reading in now.items():
            held = self._sums.setdefault(place, _Sum(reading, reading.counts))
            if reading.begun < held.last.begun:  # another Envoy counts
                held.earlier, held.base = held.earlier.plus(since(held.base, held.last.counts)), Counts()
            held.last = reading

    def of(self, places: Iterable[Place]) -> Counts:
        """The sum over some instances."""
        found = Counts()
        for place in places:
            if held := self._sums.get(place):
                found = found.plus(held.earlier).plus(since(held.base, held.last.counts))
        return found
