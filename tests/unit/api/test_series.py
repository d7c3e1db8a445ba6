"""Traffic as Prometheus' series, and their bound."""

from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from meshagent.api.series import bounded, traffic_text


def edge(source, destination="payments", side="outbound", **more):
    row = {"side": side, "source": source, "destination": destination, "route": "", "subset": "", "protocol": "http"}
    row |= {"requests": {"2xx": 1}, "failed": 0, "active": 0, "connections": 1, "bytes_sent": 2, "bytes_received": 3}
    return row | {"latency_ms": []} | more


def page(*edges, rules=(), most=100):
    """The samples by name and labels; the text must be what Prometheus' own parser takes."""
    text = traffic_text({"edges": list(edges), "rules": list(rules)}, most)
    families = list(text_string_to_metric_families(text))
    assert all(family.documentation and family.type != "unknown" for family in families)
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert len(lines) == sum(len(family.samples) for family in families)
    return dict(line.rsplit(" ", 1) for line in lines)


def test_an_edge_has_its_answers_time_connections_and_bytes():
    shown = page(edge("web", requests={"2xx": 5, "5xx": 1}, failed=2, latency_ms=[[0.5, 1], [1000.0, 4], ["+Inf", 6]]))
    requests = {name: value for name, value in shown.items() if name.startswith("meshagent_requests_total")}
    assert {name.partition('response="')[2].partition('"')[0]: value for name, value in requests.items()} == {
        "2xx": "5",
        "5xx": "1",
        "failed": "2",
    }
    buckets = [value for name, value in shown.items() if name.startswith("meshagent_request_duration_seconds_bucket")]
    assert buckets == ["1", "4", "6"]
    assert [name for name in shown if 'le="0.0005"' in name and 'source="web"' in name]


def test_a_connection_of_bytes_has_no_answers_but_may_fail():
    shown = page(edge("web", protocol="tcp", requests={"2xx": 0}, failed=3))
    assert [value for name, value in shown.items() if name.startswith("meshagent_requests_total")] == ["3"]


def test_the_rules_of_a_route_have_requests_alone():
    shown = page(edge("web", route="beta"), edge("web", "ledger", route="via payments"))
    assert {name for name in shown if "meshagent_bytes" in name and 'route="beta"' in name} == set()
    assert {name for name in shown if "meshagent_bytes" in name and 'route="via payments"' in name}


def test_verdicts_are_by_rule():
    rule = {"service": "payments", "rule": "payments/web", "allowed": 4, "denied": 1, "shadow_denied": 2}
    shown = {name: value for name, value in page(rules=[rule]).items() if "verdicts_total" in name}
    assert sorted(shown.values()) == ["1", "2", "4"]
    assert all('rule="payments/web"' in name and 'service="payments"' in name for name in shown)


def test_beyond_the_bound_edges_are_counted_together_and_parts_go_first():
    rows = [edge(f"s{number}") for number in range(4)] + [edge("s0", route="beta"), edge("x", side="inbound")]
    kept, left_out = bounded(rows, 5)
    assert left_out == 0 and not any(row["route"] for row in kept)
    kept, left_out = bounded(rows, 2)
    assert left_out == 3
    assert [(row["side"], row["source"]) for row in kept] == [
        ("inbound", "x"),
        ("outbound", "s0"),
        ("outbound", "other"),
    ]
    assert (kept[-1]["requests"], kept[-1]["bytes_received"]) == ({"2xx": 3}, 9)


@pytest.mark.parametrize("most", [0, 1, 5, 100])
def test_no_request_is_lost_by_the_bound(most):
    rows = [edge(f"s{number}", latency_ms=[[1.0, number], ["+Inf", number]]) for number in range(7)]
    kept, left_out = bounded(rows, most)
    assert sum(row["requests"]["2xx"] for row in kept) == 7
    assert sum(row["latency_ms"][-1][1] for row in kept) == sum(range(7))
    assert left_out == max(0, 7 - most) and len(kept) <= most + 2


def test_answers_that_are_seldom_are_shown_once_there_is_any():
    shown = page(edge("web", requests={"1xx": 0, "2xx": 0, "3xx": 2}))
    answers = {name.partition('response="')[2].partition('"')[0] for name in shown if "requests_total" in name}
    assert answers == {"2xx", "3xx", "failed"}


def test_whatever_a_label_says_it_ends_where_it_ends():
    ((family, *_),) = [
        list(text_string_to_metric_families(traffic_text({"edges": [edge('a"b\\c\nd')], "rules": []}, 9)))
    ]
    assert {sample.labels["source"] for sample in family.samples} == {'a"b\\c\nd'}
