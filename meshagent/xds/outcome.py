"""What became of the pushes, as values."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Applied:
    """Everything subscribed to, up to and including `generation`, has been applied, or rejected (see Rejected)."""

    generation: int


@dataclass(frozen=True, slots=True)
class Rejected:
    """The client refused these resources, with its own words in `message`; what it accepted before stays in use.

    `generation` is the cache's at the time of the push.
    """

    type_url: str
    names: tuple[str, ...]
    message: str
    generation: int


Outcome = Applied | Rejected
