"""From single probes to health. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

FAILURES_TO_FLIP = 2  # one lost probe takes nobody out of service; one good one brings back

Status = Literal["unknown", "passing", "failing"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a check says: `unknown` until it was answered once."""

    status: Status = "unknown"
    failures: int = 0
    output: str = ""


def judge(before: Verdict, passed: bool, output: str) -> Verdict:
    """The verdict after one more probe."""
    if passed:
        return Verdict("passing", 0, output)
    failures = before.failures + 1
    flips = failures >= FAILURES_TO_FLIP or before.status != "passing"
    return replace(before, status="failing" if flips else before.status, failures=failures, output=output)


def healthy(verdicts: tuple[Verdict, ...]) -> bool:
    """A service is in service while every check passes; without checks, always."""
    return all(verdict.status == "passing" for verdict in verdicts)
