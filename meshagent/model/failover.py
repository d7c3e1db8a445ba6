"""Failover: where calls go while what is called first has no instance in service."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from meshagent.model.names import Model, ServiceName

ANYWHERE = "any"
MAX_STEPS = 16
Place = Annotated[str, Field(min_length=1, max_length=63)]
"""The name of a zone or region, or `any`."""


class FailoverStep(Model):
    """Who is called next: exactly one of a zone of the caller's own region, a region (either by name, or `any`), a service."""

    zone: Place | None = None
    region: Place | None = None
    service: ServiceName | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if sum(value is not None for value in (self.zone, self.region, self.service)) != 1:
            raise ValueError("needs exactly one of zone, region and service")
        return self

    @property
    def kind(self) -> Literal["zone", "region", "service"]:
        """Which of the three it is."""
        return "zone" if self.zone is not None else "region" if self.region is not None else "service"


Failover = Annotated[tuple[FailoverStep, ...], Field(max_length=MAX_STEPS)]
_ORDER = ("zone", "region", "service")


def check_order(steps: Sequence[FailoverStep], own: str) -> None:
    """Raise ValueError where a step of the service `own` could never be taken."""
    for before, after in pairwise(steps):
        if _ORDER.index(before.kind) > _ORDER.index(after.kind):
            why = "other services come last" if before.kind == "service" else "a region has all of its zones"
            raise ValueError(
                f"failover: {after.kind} behind {before.kind}: {why}. Write zones, then regions, then services"
            )
        if before.kind == after.kind and ANYWHERE in (before.zone, before.region):
            raise ValueError(
                f"failover: a {after.kind} behind {before.kind}: any is never reached, for any has it already"
            )
    if len(set(steps)) < len(steps):
        raise ValueError("failover: says the same twice")
    if own in backups(steps):
        raise ValueError(f"failover: leads from {own} to itself. Its own instances are chosen by zone and region")


def backups(steps: Sequence[FailoverStep]) -> tuple[str, ...]:
    """The services among the steps, in order."""
    return tuple(step.service for step in steps if step.service is not None)
