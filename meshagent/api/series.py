"""Traffic as Prometheus' series, no more of them than one is told.

What is beyond the bound is not lost: it is counted in one edge from `other` to `other` of its side, except the parts of an
edge (by route or subset), which its totals hold anyway.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from meshagent.model.edges import OTHER

Row = Mapping[str, Any]
_Edges = Sequence[tuple[str, Row]]  # with their labels
_EDGE = ("side", "source", "destination", "route", "subset")
_SUMS = ("failed", "active", "connections", "bytes_sent", "bytes_received")
_REQUESTS = "Requests by the class of their answer; failed: without one, and TCP connections that could not be made."
_ACTIVE = "Requests under way; of TCP the callers' connections."
_CONNECTIONS = "Connections of callers; at a gateway's own calls, of its proxy."
_VERDICTS = "Calls that the intentions allowed and denied, by the rule that decided."
_SELDOM = ("1xx", "3xx")  # shown once there is any; the others from the start, so that a rate has its beginning


def traffic_text(traffic: Mapping[str, Any], most: int) -> str:
    """The text of one answer to GET /v1/traffic for Prometheus, with at most `most` edges.

    Written by hand: a thousand edges are 30,000 lines, for which the library takes ten times as long (measured).
    """
    rows, left_out = bounded(traffic["edges"], most)
    edges = [(_labels(row), row) for row in rows]
    whole = [(labels, row) for labels, row in edges if not row["route"] or row["route"].startswith("via ")]
    families = (
        ("requests_total", "counter", _REQUESTS, _requests(edges)),
        ("requests_active", "gauge", _ACTIVE, (f"{{{labels}}} {row['active']}" for labels, row in whole)),
        ("request_duration_seconds", "histogram", "How long requests took.", _durations(edges)),
        ("connections_total", "counter", _CONNECTIONS, (f"{{{labels}}} {row['connections']}" for labels, row in whole)),
        ("bytes_total", "counter", "Bytes sent to the destination, and received from it.", _bytes(whole)),
        ("traffic_edges_left_out", "gauge", "Edges beyond metrics_edges, counted together.", [f" {left_out}"]),
        ("rule_verdicts_total", "counter", _VERDICTS, _verdicts(traffic["rules"])),
    )
    return "".join(_family(f"meshagent_{name}", *told) for name, *told in families)


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
    edge = {"side": rows[0]["side"], "source": OTHER, "destination": OTHER, "route": "", "subset": "", "protocol": ""}
    return {**edge, **sums, "requests": answers, "latency_ms": [[bound, count] for bound, count in latency.items()]}


def _family(name: str, kind: str, text: str, samples: Iterable[str]) -> str:
    """`samples` begin behind the name."""
    return "".join([f"# HELP {name} {text}\n# TYPE {name} {kind}\n", *(f"{name}{sample}\n" for sample in samples)])


def _requests(edges: _Edges) -> Iterator[str]:
    for labels, row in edges:
        if row["protocol"] != "tcp":
            for answer, count in row["requests"].items():
                if count or answer not in _SELDOM:
                    yield f'{{{labels},response="{answer}"}} {count}'
        yield f'{{{labels},response="failed"}} {row["failed"]}'


def _durations(edges: _Edges) -> Iterator[str]:
    """Without a sum: Envoy tells none beside its buckets. What took no request yet has no series."""
    for labels, row in edges:
        for bound, count in row["latency_ms"]:
            le = bound if isinstance(bound, str) else f"{bound / 1000:g}"
            yield f'_bucket{{{labels},le="{le}"}} {count}'
        if row["latency_ms"]:
            yield f"_count{{{labels}}} {row['latency_ms'][-1][1]}"


def _bytes(edges: _Edges) -> Iterator[str]:
    for labels, row in edges:
        yield f'{{{labels},direction="sent"}} {row["bytes_sent"]}'
        yield f'{{{labels},direction="received"}} {row["bytes_received"]}'


def _verdicts(rules: Iterable[Row]) -> Iterator[str]:
    for rule in rules:
        for verdict in ("allowed", "denied", "shadow_denied"):
            labels = f'service="{_escaped(rule["service"])}",rule="{_escaped(rule["rule"])}",verdict="{verdict}"'
            yield f"{{{labels}}} {rule[verdict]}"


def _labels(row: Row) -> str:
    return ",".join(f'{name}="{_escaped(row[name])}"' for name in _EDGE)


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
