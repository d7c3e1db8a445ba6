"""Failover by place of other meshes -> the steps of a service document."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations

from meshagent.importing.fields import Fields
from meshagent.importing.parts import Data

NEAREST: tuple[Data, ...] = ({"zone": "any"}, {"region": "any"})
"""The caller's own zone, then its region, then wherever."""
_MOST = 6  # regions of which every order is tried
_REGION, _ZONE = "topology.kubernetes.io/region", "topology.kubernetes.io/zone"


def locality_failover(setting: Fields, *, ejects: bool) -> list[Data]:
    """Istio's localityLbSetting: callers stay near, and go from one region to another that is named for it.

    `ejects`: whether there is an outlierDetection, without which Istio does none of it.
    """
    setting.leave("instances of one place get what callers there send: shares of places cannot be said", "distribute")
    given = setting.take("enabled")
    pairs = [(each.text("from") or "", each.text("to") or "") for each in setting.each("failover")]
    labels = setting.texts("failoverPriority")
    if not setting or given is False:
        return []
    if not ejects:
        words = "does nothing in Istio without an outlierDetection; here it counts by health alone too"
        setting.tell("mistake", words)
    if labels:
        return _by_labels(setting, labels)
    return _by_regions(setting, pairs) if pairs else list(NEAREST)


def _by_labels(setting: Fields, labels: Sequence[str]) -> list[Data]:
    unknown = [label for label in labels if label not in (_REGION, _ZONE)]
    if unknown:
        words = f"instances are near by region and zone here, not by {', '.join(unknown)}"
        setting.tell("left out", words, "failoverPriority")
    steps = {_ZONE: {"zone": "any"}, _REGION: {"region": "any"}}
    return [steps[label] for label in (_ZONE, _REGION) if label in labels]


def _by_regions(setting: Fields, pairs: Sequence[tuple[str, str]]) -> list[Data]:
    """One order of regions for callers everywhere that gives each named region the one that it is to go to."""
    if any("/" in place or "*" in place for pair in pairs for place in pair):
        setting.tell("left out", "a failover is from region to region here", "failover")
        return list(NEAREST)
    regions = list(dict.fromkeys(there for _, there in pairs))
    orders = permutations(regions) if len(regions) <= _MOST else iter([tuple(regions)])
    for order in orders:
        if all(next((each for each in order if each != here), "") == there for here, there in pairs):
            words = "is an order of regions for callers everywhere, also for those of regions that are not named"
            setting.tell("changed", words, "failover")
            return [{"zone": "any"}, *({"region": each} for each in order)]
    words = "a different region for each region of callers cannot be said: all others are taken alike"
    setting.tell("left out", words, "failover")
    return list(NEAREST)
