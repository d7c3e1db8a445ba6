"""A service's failover by place -> the tiers of its instances, for a caller that stands somewhere. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from meshagent.model.failover import ANYWHERE, FailoverStep
from meshagent.model.view import Endpoint, Tier

Tiers = tuple[Tier, ...]


def tiers_of(steps: Sequence[FailoverStep], region: str, zone: str) -> Tiers:
    """In which order a caller there calls instances; empty where no step names a place.

    The caller's own zone comes ahead of other zones, and its own region ahead of other regions, whatever the steps name.
    What no step names comes last. How many tiers there are does not depend on the instances, so these come and go
    without moving any other.
    """
    found: list[Tier] = []
    for step in steps:
        if step.zone is not None:
            found += [Tier(region, zone), Tier(region, None if step.zone == ANYWHERE else step.zone)]
        elif step.region is not None:
            found += [Tier(region), Tier(None if step.region == ANYWHERE else step.region)]
    return tuple(dict.fromkeys((*found, Tier()))) if found else ()


def tier_of(tiers: Tiers, region: str, zone: str) -> int:
    """The tier of an instance that stands there, from 0."""
    return next((number for number, tier in enumerate(tiers) if tier.holds(region, zone)), 0)


def placed(endpoint: Endpoint, tiers: Tiers, region: str, zone: str) -> Endpoint:
    """The endpoint with where it stands, where that decides anything."""
    if not tiers:
        return endpoint
    return replace(endpoint, tier=tier_of(tiers, region, zone), region=region, zone=zone)
