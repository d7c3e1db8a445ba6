"""Envoy's counts, read from what its admin interface writes."""

from __future__ import annotations

from meshagent.envoy.counts import parse_counts

TEXT = """cluster.out/web/payments.upstream_rq_total: 23
control_plane.identifier: "mesh: 1"
vhost.payments.route.web/payments/rule 0.upstream_rq_2xx: 4
http.in.web.downstream_rq_time: No recorded values
http.out.web.payments.downstream_rq_time: B0.5(0,11) B1(1,18) B3.6e+06(2,23)
"""


def test_numbers_and_distributions_are_told_apart_and_what_has_no_value_yet_is_not_there() -> None:
    counts = parse_counts(TEXT)
    assert counts.values == {
        "cluster.out/web/payments.upstream_rq_total": 23,
        "vhost.payments.route.web/payments/rule 0.upstream_rq_2xx": 4,
    }
    assert counts.buckets == {"http.out.web.payments.downstream_rq_time": ((0.5, 11), (1.0, 18), (3_600_000.0, 23))}


def test_what_was_never_counted_is_zero() -> None:
    assert parse_counts("a: 2\n").of("b") == 0
