"""Rollouts: callers are moved from one subset of a service to another in steps, as far as the new one answers well.

The document is the operator's word and signed as all policy is. How far it has come (`Progress`) is written by hosts, and can
do no more than choose among the steps that the document allows.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from meshagent.model.names import Duration, Model, ServiceName

Step = Annotated[int, Field(ge=1, le=100)]
Phase = Literal["running", "rolled_back", "done"]
MAX_STEPS, WHOLE = 32, 100
_SHORTEST, _LONGEST = timedelta(seconds=1), timedelta(days=30)
_QUICKEST, _SLOWEST = timedelta(milliseconds=1), timedelta(hours=1)  # what Envoy's buckets can tell


class Rollout(Model):
    """Moves callers of the service `name` from the subset `base` to the subset `to`: each of `steps` is a share in percent.

    A step lasts `every`. It fails where more than `max_error_rate` percent of the requests to `to` fail, or more than 1 %
    of them take longer than `max_p99`; nothing is judged by fewer than `min_requests`. `state` is what the operator says.
    `id` tells one rollout from the next one between the same subsets: with another, it begins anew.
    """

    kind: Literal["rollout"] = "rollout"
    name: ServiceName
    base: ServiceName
    to: ServiceName
    steps: tuple[Step, ...] = Field(default=(5, 25, 50, 100), min_length=1, max_length=MAX_STEPS)
    every: Duration = timedelta(minutes=2)
    max_error_rate: float = Field(default=1, ge=0, lt=100)
    max_p99: Duration | None = None
    min_requests: int = Field(default=100, ge=1, le=1_000_000)
    state: Literal["running", "paused", "aborted", "promoted"] = "running"
    id: str = Field(default="", pattern=r"^[A-Za-z0-9_.:-]{0,63}$")

    @model_validator(mode="after")
    def _goes_somewhere(self) -> Self:
        if self.base == self.to:
            raise ValueError(f"base and to are both {self.to}")
        if self.steps[-1] != WHOLE or any(old >= new for old, new in zip(self.steps, self.steps[1:], strict=False)):
            raise ValueError("steps: each must be more than the one before it, and the last must be 100")
        return self

    @model_validator(mode="after")
    def _in_time(self) -> Self:
        if not _SHORTEST <= self.every <= _LONGEST:
            raise ValueError("every: must be between 1s and 720h")
        if self.max_p99 is not None and not _QUICKEST <= self.max_p99 <= _SLOWEST:
            raise ValueError("max_p99: must be between 1ms and 1h")
        return self

    @property
    def run(self) -> str:
        """What a word on its progress must name to be about this rollout and no earlier one."""
        return f"{self.id}/{self.base}/{self.to}"

    @property
    def decided(self) -> bool:
        """Whether the operator has ended it: nothing is judged any more."""
        return self.state in ("aborted", "promoted")


class Progress(Model):
    """How far a rollout has come. `turn` counts the words on it; `host` wrote the last one, `since` then, `why` for."""

    run: str = Field(max_length=256)
    turn: int = Field(ge=1)
    phase: Phase
    step: int = Field(ge=0, lt=MAX_STEPS)
    since: datetime
    host: ServiceName
    why: str = Field(default="", max_length=1024)


class Bucket(Model):
    """How many requests took at most `upto` milliseconds, and more than the bucket before says."""

    upto: float = Field(gt=0)
    count: int = Field(ge=0)


class Counts(Model):
    """What became of requests. `times` is of as many of them as are timed already, in order."""

    requests: int = Field(default=0, ge=0)
    failed: int = Field(default=0, ge=0)
    times: tuple[Bucket, ...] = Field(default=(), max_length=64)

    @property
    def timed(self) -> int:
        """Of how many requests it is known how long they took."""
        return sum(bucket.count for bucket in self.times)

    def slower(self, milliseconds: float) -> float:
        """How many requests took longer; within a bucket they are taken to be spread evenly."""
        found, low = 0.0, 0.0
        for bucket in self.times:
            above = (bucket.upto - max(low, milliseconds)) / (bucket.upto - low)
            found += bucket.count * min(max(above, 0.0), 1.0)
            low = bucket.upto
        return found

    def quantile(self, share: float) -> float | None:
        """How many milliseconds this share of the requests took at most, spread evenly likewise; None without any."""
        left, low = share * self.timed, 0.0
        for bucket in self.times:
            if bucket.count and left <= bucket.count:
                return low + (bucket.upto - low) * left / bucket.count
            left -= bucket.count
            low = bucket.upto
        return low or None

    def plus(self, other: Counts) -> Counts:
        """Both together. The buckets are Envoy's, the same on every host; a bucket that one of them lacks is taken over."""
        held = {bucket.upto: bucket.count for bucket in self.times}
        for bucket in other.times:
            held[bucket.upto] = held.get(bucket.upto, 0) + bucket.count
        times = tuple(Bucket(upto=upto, count=count) for upto, count in sorted(held.items()))
        return Counts(requests=self.requests + other.requests, failed=self.failed + other.failed, times=times)


def percent_of(rollout: Rollout, progress: Progress | None) -> int:
    """Which share of requests goes to the new subset, in percent."""
    if rollout.decided:
        return WHOLE if rollout.state == "promoted" else 0
    if progress is None or progress.run != rollout.run or progress.phase == "rolled_back":
        return 0
    return rollout.steps[-1 if progress.phase == "done" else min(progress.step, len(rollout.steps) - 1)]
