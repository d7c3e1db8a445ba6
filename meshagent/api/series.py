"""Traffic as Prometheus' series, no more of them than one is told.

What is beyond the bound is not lost: it is counted in one edge from `other` to `other` of its side, except the parts of an
edge (by route or subset), which its totals hold anyway.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

Row = Mapping[str, Any]
_EDGE = ("side", "source", "destination", "route", "subset")
_SUMS = ("failed", "active", "connections", "bytes_sent", "bytes_received")
_OTHER = "other"


def traffic_series(traffic: Mapping[str, Any], most: int) -> Iterator[Metric]:
    """The metric families of one answer to GET /v1/traffic, with at most `most` edges."""
    rows, left_out = bounded(traffic["edges"], most)
    left = GaugeMetricFamily("meshagent_traffic_edges_left_out", "Edges beyond metrics_edges, counted together.")
    left.add_metric([], left_out)
    yield from (_requests(rows), _active(rows), _durations(rows), _connections(rows), _bytes(rows), left)
    text = "Calls that the intentions allowed and denied, by the rule that decided."
    verdicts = CounterMetricFamily("meshagent_rule_verdicts", text, labels=["service", "rule", "verdict"])
    for rule in traffic["rules"]:
        for verdict in ("allowed", "denied", "shadow_denied"):
            verdicts.add_metric([rule["service"], rule["rule"], verdict], rule[verdict])
    yield verdicts


def bounded(rows: Sequence[Row], most: int) -> tuple[list[Row], int]:
    """At most `most` rows, whole edges before their parts and in a fixed order, and how many edges are left out.

    Those are together in a row for each side, which is not counted.
    """
    ordered = sorted(rows, key=lambda row: (bool(row["route"] or row["subset"]), *(row[name] for name in _EDGE)))
    kept, beyond = ordered[:most], ordered[most:]
    whole = [row for row in beyond if not row["route"] and not row["subset"]]
    sides = [[row for row in whole if row["side"] == side] for side in ("inbound", "outbound")]
    return [*kept, *(_together(each) for each in sides if each)], len(whole)


def _together(rows: Sequence[Row]) -> Row:
    answers: dict[str, int] = {}
    latency: dict[object, int] = {}
    for row in rows:
        for name, count in row["requests"].items():
            answers[name] = answers.get(name, 0) + count
        for bound, count in row["latency_ms"]:
            latency[bound] = latency.get(bound, 0) + count
    sums = {name: sum(row[name] for row in rows) for name in _SUMS}
    edge = {"side": rows[0]["side"], "source": _OTHER, "destination": _OTHER, "route": "", "subset": "", "protocol": ""}
    return {**edge, **sums, "requests": answers, "latency_ms": [[bound, count] for bound, count in latency.items()]}


def _requests(rows: Sequence[Row]) -> Metric:
    text = "Requests by the class of their answer; failed: without one, and TCP connections that could not be made."
    family = CounterMetricFamily("meshagent_requests", text, labels=[*_EDGE, "response"])
    for row in rows:
        if row["protocol"] != "tcp":
            for answer, count in row["requests"].items():
                family.add_metric([*_labels(row), answer], count)
        family.add_metric([*_labels(row), "failed"], row["failed"])
    return family


def _active(rows: Sequence[Row]) -> Metric:
    text = "Requests under way; of TCP the callers' connections."
    family = GaugeMetricFamily("meshagent_requests_active", text, labels=_EDGE)
    for row in _whole(rows):
        family.add_metric(_labels(row), row["active"])
    return family


def _durations(rows: Sequence[Row]) -> Metric:
    """Without a sum: Envoy tells none beside its buckets. What took no request yet has no series."""
    name = "meshagent_request_duration_seconds"
    family = Metric(name, "How long requests took.", "histogram")
    for row in rows:
        labels = dict(zip(_EDGE, _labels(row), strict=True))
        for bound, count in row["latency_ms"]:
            le = bound if isinstance(bound, str) else f"{bound / 1000:g}"
            family.add_sample(f"{name}_bucket", {**labels, "le": le}, count)
        if row["latency_ms"]:
            family.add_sample(f"{name}_count", labels, row["latency_ms"][-1][1])
    return family


def _connections(rows: Sequence[Row]) -> Metric:
    text = "Connections of callers; at a gateway's own calls, of its proxy."
    family = CounterMetricFamily("meshagent_connections", text, labels=_EDGE)
    for row in _whole(rows):
        family.add_metric(_labels(row), row["connections"])
    return family


def _bytes(rows: Sequence[Row]) -> Metric:
    text = "Bytes sent to the destination, and received from it."
    family = CounterMetricFamily("meshagent_bytes", text, labels=[*_EDGE, "direction"])
    for row in _whole(rows):
        for direction in ("sent", "received"):
            family.add_metric([*_labels(row), direction], row[f"bytes_{direction}"])
    return family


def _whole(rows: Sequence[Row]) -> Iterator[Row]:
    """Without the rules of routes, of which Envoy counts requests alone."""
    return (row for row in rows if not row["route"] or row["route"].startswith("via "))


def _labels(row: Row) -> list[str]:
    return [row[name] for name in _EDGE]
