"""Rates between two readings of who calls whom."""

from __future__ import annotations

import math

import pytest

from meshagent.model.edges import Edge, edge_of, quantile, rates

INF = math.inf


def edge(side="outbound", requests=None, host="vm-1", route="", **more):
    return Edge(side, "web", "api", protocol="http", route=route, requests=requests or {}, host=host, **more)


def only(found):
    assert len(found) == 1, found
    return found[0]


def test_a_rate_is_the_difference_of_two_readings_by_the_time_between_them():
    before = edge(requests={"2xx": 100, "5xx": 10}, connections=4, bytes_sent=1000, bytes_received=500)
    after = edge(
        requests={"2xx": 190, "5xx": 19, "4xx": 1}, connections=6, bytes_sent=3000, bytes_received=1500, active=3
    )
    rate = only(rates([before], [after], 10.0))
    assert (rate.rps, rate.error_ratio, rate.connections_per_s, rate.bytes_per_s) == (10.0, 0.09, 0.2, 300.0)
    assert (rate.active, rate.protocol) == (3, "http")


def test_what_got_no_answer_is_a_request_and_an_error():
    rate = only(rates([edge()], [edge(requests={"2xx": 3}, failed=1)], 2.0))
    assert (rate.rps, rate.error_ratio) == (2.0, 0.25)


def test_of_connections_alone_the_failed_ones_are_errors_and_no_requests():
    before = Edge("outbound", "web", "db", host="vm-1")
    rate = only(rates([before], [Edge("outbound", "web", "db", host="vm-1", connections=3, failed=1)], 2.0))
    assert (rate.rps, rate.error_ratio, rate.connections_per_s) == (0.0, 0.25, 1.5)


def test_what_both_sides_tell_counts_once_by_the_word_of_the_caller():
    before = [edge(), edge("inbound", host="vm-2")]
    after = [edge(requests={"2xx": 10}), edge("inbound", {"2xx": 8}, host="vm-2")]
    assert only(rates(before, after, 1.0)).rps == 10.0
    assert only(rates(before[1:], after[1:], 1.0)).rps == 8.0


def test_callers_on_several_hosts_are_one_edge():
    before = [edge(), edge(host="vm-2")]
    after = [edge(requests={"2xx": 10}), edge(requests={"2xx": 5}, host="vm-2")]
    assert only(rates(before, after, 1.0)).rps == 15.0


def test_an_envoy_that_began_anew_does_not_take_away_what_others_count():
    before = [edge(requests={"2xx": 1000}), edge(requests={"2xx": 1000}, host="vm-2")]
    after = [edge(requests={"2xx": 1010}), edge(requests={"2xx": 7}, host="vm-2")]
    assert only(rates(before, after, 1.0)).rps == 17.0


def test_a_host_that_is_new_in_the_second_reading_tells_nothing_yet_and_a_new_edge_all():
    first, elsewhere = edge(requests={"2xx": 5}), edge(requests={"2xx": 500}, host="vm-2")
    assert only(rates([first], [first, elsewhere], 1.0)).rps == 0.0
    found = rates([first], [first, edge(requests={"2xx": 4}, route="search")], 1.0)
    assert [(each.route, each.rps) for each in found] == [("", 0.0), ("search", 4.0)]


def test_latencies_are_of_what_came_between_the_readings():
    old = edge(requests={"2xx": 100}, latency=((1.0, 100), (10.0, 100), (INF, 100)))
    new = edge(requests={"2xx": 110}, latency=((1.0, 100), (10.0, 110), (INF, 110)))
    rate = only(rates([old], [new], 1.0))
    assert (rate.p50_ms, rate.p99_ms) == (5.5, pytest.approx(9.91))
    assert only(rates([new], [new], 1.0)).p50_ms is None


@pytest.mark.parametrize(("share", "value"), [(0.25, 0.5), (0.5, 1.0), (0.75, 6.625), (0.9, 10.0), (0.99, 10.0)])
def test_quantiles_are_interpolated_within_their_bucket_and_end_at_the_last_bound(share, value):
    assert quantile(((1.0, 50), (10.0, 90), (INF, 100)), share) == pytest.approx(value)


def test_nothing_has_no_quantile():
    assert quantile((), 0.5) is None
    assert quantile(((1.0, 0), (INF, 0)), 0.5) is None


def test_a_row_of_the_agents_answer_becomes_an_edge():
    row = {
        "side": "inbound",
        "source": "web",
        "destination": "api",
        "protocol": "http",
        "requests": {"2xx": 2},
        "latency_ms": [[0.5, 1], ["+Inf", 2]],
    }
    found = edge_of(row, "vm-1")
    assert (found.host, found.requests, found.latency) == ("vm-1", {"2xx": 2}, ((0.5, 1.0), (INF, 2.0)))


@pytest.mark.parametrize("row", [{}, {"side": "upside", "source": "a", "destination": "b"}])
def test_what_is_no_row_is_refused(row):
    with pytest.raises((KeyError, ValueError)):
        edge_of(row)
