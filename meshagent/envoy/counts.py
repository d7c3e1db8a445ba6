"""What Envoy's admin interface counts, as values."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

Buckets = tuple[tuple[float, int], ...]
"""(upper bound, how many values up to it), rising: cumulative, since Envoy began."""
_BUCKET = re.compile(r"B([0-9.e+]+)\([0-9]+,([0-9]+)\)")


@dataclass(frozen=True, slots=True)
class Counts:
    """Counters and gauges, and distributions, by Envoy's names. A distribution without a value yet is not there.

    Envoy's workers hand their distributions over every 5 s, so those are as old as that; all else is of this moment.
    """

    values: Mapping[str, int]
    buckets: Mapping[str, Buckets]

    def of(self, name: str) -> int:
        """One value; 0 for what was not counted yet."""
        return self.values.get(name, 0)


def parse_counts(text: str) -> Counts:
    """The answer to /stats with cumulative buckets: `name: 5`, or `name: B0.5(0,0) B1(2,9)` (interval, since start)."""
    values: dict[str, int] = {}
    buckets: dict[str, Buckets] = {}
    for line in text.splitlines():
        name, _, value = line.partition(": ")
        if value.isdigit():
            values[name] = int(value)
        elif found := _BUCKET.findall(value):
            buckets[name] = tuple((float(bound), int(count)) for bound, count in found)
    return Counts(values, buckets)


def parse_errors(text: str) -> dict[str, int]:
    """The answer to /clusters: how many requests to the hosts of each cluster failed, gRPC's failures among them."""
    found: dict[str, int] = {}
    for line in text.splitlines():
        cluster, _, rest = line.partition("::")
        _, name, value = rest.rpartition("::rq_error::")
        if name and value.isdigit():
            found[cluster] = found.get(cluster, 0) + int(value)
    return found
