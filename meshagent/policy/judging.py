"""Whether a rollout goes on, waits, or goes back: by what became of the requests since its step began. Pure.

Both bars are shares of requests: those that failed, and those that took longer than `max_p99`, of which 1 % may.
While a step lasts, it ends early only where the share is over the bar beyond reasonable doubt; at its end the share as it
is decides. A new subset that fares badly while the old one fares no better is not held against it: what both call may be
broken, so the rollout waits.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from math import sqrt

from meshagent.model.names import format_duration
from meshagent.model.rollout import Counts, Phase, Progress, Rollout

_SURE = 2.33  # standard deviations, 99 of 100 on one side: it is looked at many times
_PLENTY = 10  # so many bad requests are enough to judge by, of however few
_NO_BETTER = 0.5  # of the new subset's share: where the old one has as much, the cause is not the new one
_SLOW = 0.01  # of all: by the meaning of a p99
_SETTLING = timedelta(seconds=5)  # at most, at the start of a step: callers have it a moment later, hosts report apart


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is to be written of a rollout. Without a phase nothing is: it waits, and `why` says for what."""

    why: str
    phase: Phase | None = None
    step: int = 0


@dataclass(frozen=True, slots=True)
class _Bar:
    """One bar: how many of how many are bad of the new and the old subset, and the share that may be."""

    words: str
    allowed: float
    new: tuple[float, int]
    old: tuple[float, int]

    @property
    def share(self) -> float:
        return self.new[0] / self.new[1] if self.new[1] else 0.0

    def judged(self, least: int) -> bool:
        """Whether there is enough to judge by."""
        return self.new[1] >= least or self.new[0] >= _PLENTY

    @property
    def over(self) -> bool:
        return self.share > self.allowed

    @property
    def surely_over(self) -> bool:
        return self.over and _at_least(*self.new) > self.allowed

    def excused(self, least: int) -> bool:
        """Whether the old subset fares no better."""
        bad, total = self.old
        return total >= min(least, _PLENTY) and bad / total >= self.share * _NO_BETTER

    def said(self) -> str:
        return self.words.format(share=100 * self.share, total=self.new[1])


def judge(
    rollout: Rollout,
    held: Progress | None,
    counts: Mapping[str, Counts],
    serving: Collection[str],
    elapsed: timedelta,
) -> Verdict:
    """What becomes of a rollout: `counts` by subset and `elapsed` since its step began, `serving` the subsets in service."""
    if rollout.decided:
        return Verdict(f"{rollout.state} by the operator")
    if held is None or held.run != rollout.run:
        if rollout.to not in serving:
            return Verdict(f"no instance of {rollout.to} is in service")
        if rollout.state == "paused":
            return Verdict("paused by the operator")
        return Verdict("begun", "running", 0)
    if held.phase != "running":
        return Verdict(held.why or held.phase)
    return _of_step(rollout, held.step, counts, serving, elapsed)


def _of_step(
    rollout: Rollout, step: int, counts: Mapping[str, Counts], serving: Collection[str], elapsed: timedelta
) -> Verdict:
    new, ended = counts.get(rollout.to, Counts()), elapsed >= rollout.every
    if elapsed < min(_SETTLING, rollout.every / 4):
        return Verdict("the step has just begun")
    for bar in _bars(rollout, counts):
        if bar.judged(rollout.min_requests) and (bar.over if ended else bar.surely_over):
            return _failed(rollout, step, bar, ended=ended)
    if not ended:
        return Verdict(f"healthy so far: {new.requests} requests, {new.failed} failed")
    if missing := _missing(rollout, new, serving):
        return Verdict(missing)
    if rollout.state == "paused":
        return Verdict("paused by the operator")
    well = f"{new.requests} requests, {new.failed} failed"
    last = step + 1 >= len(rollout.steps)
    return Verdict(well, "done", step) if last else Verdict(well, "running", step + 1)


def _missing(rollout: Rollout, new: Counts, serving: Collection[str]) -> str:
    """What a step that has lasted long enough still waits for."""
    if rollout.to not in serving:
        return f"no instance of {rollout.to} is in service"
    if new.requests < rollout.min_requests:
        return f"{rollout.to} has had {new.requests} requests of the {rollout.min_requests} that it is judged by"
    if rollout.max_p99 is not None and new.timed < rollout.min_requests:
        return f"of {new.timed} requests it is known how long they took, and {rollout.min_requests} are judged by"
    return ""


def _failed(rollout: Rollout, step: int, bar: _Bar, *, ended: bool) -> Verdict:
    why = f"{rollout.to}: {bar.said()}"
    if not bar.excused(rollout.min_requests):
        return Verdict(why, "rolled_back", step)
    words = f"{why}, but {rollout.base} fares no better, so it is not held against {rollout.to}"
    return Verdict(words, "running", step) if ended else Verdict(words)  # at its end, the same step once more


def _bars(rollout: Rollout, counts: Mapping[str, Counts]) -> Iterator[_Bar]:
    new, old = (counts.get(name, Counts()) for name in (rollout.to, rollout.base))
    allowed = f"{rollout.max_error_rate:g} % may"
    words = "{share:.3g} % of {total} requests failed, and " + allowed
    yield _Bar(words, rollout.max_error_rate / 100, (new.failed, new.requests), (old.failed, old.requests))
    if rollout.max_p99 is not None:
        limit = rollout.max_p99 / timedelta(milliseconds=1)
        words = (
            "{share:.3g} % of {total} requests took longer than " + f"{format_duration(rollout.max_p99)}, and 1 % may"
        )
        yield _Bar(words, _SLOW, (new.slower(limit), new.timed), (old.slower(limit), old.timed))


def _at_least(bad: float, total: int) -> float:
    """The share that there is at the least, beyond reasonable doubt (Wilson's lower bound)."""
    share, square = bad / total, _SURE**2
    middle = share + square / (2 * total)
    spread = _SURE * sqrt(share * (1 - share) / total + square / (4 * total**2))
    return (middle - spread) / (1 + square / total)
