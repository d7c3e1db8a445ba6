"""What Envoy counted at the instances of a host, as what became of requests."""

from __future__ import annotations

import re

from meshagent.agent.measuring import Reading, Tally, counted, pattern_of, since
from meshagent.envoy.counts import Counts as Told
from meshagent.envoy.counts import parse_counts, parse_errors
from meshagent.model.rollout import Bucket, Counts

TEXT = """
http.in.payments.p-v2.downstream_rq_total: 3
http.in.payments.p-v2.downstream_rq_active: 1
http.in.payments.p-v2.downstream_rq_completed: 1
http.in.payments.p-v2.downstream_rq_5xx: 1
http.in.payments.p-v2/web.downstream_rq_total: 10
http.in.payments.p-v2/web.downstream_rq_active: 0
http.in.payments.p-v2/web.downstream_rq_completed: 10
http.in.payments.p-v2/web.downstream_rq_5xx: 2
http.in.payments.p-v2/web.downstream_rq_time: B0.5(0,0) B1(2,4) B5(1,9) B10(0,9)
http.in.payments.p-v2/web.rbac.denied: 2
http.in.payments.p-v2/orders.downstream_rq_total: 2
http.in.payments.p-v2/orders.downstream_rq_completed: 2
http.in.payments.p-v2/orders.downstream_rq_time: B0.5(0,1) B1(2,1) B5(1,1) B10(0,2)
http.in.payments.p-v2/stranger.downstream_rq_total: 90
http.in.payments.p-v2/stranger.downstream_rq_completed: 90
http.in.payments.p-v2/stranger.rbac.denied: 90
http.in.payments.p-v2/stranger.downstream_rq_time: B0.5(0,90) B1(2,90) B5(1,90) B10(0,90)
http.in.payments.p-v20.downstream_rq_total: 70
http.in.payments/web.downstream_rq_total: 70
"""
PLACE = ("payments", "p-v2")


def test_callers_of_an_instance_are_added_up_and_unanswered_requests_have_failed():
    found = counted(parse_counts(TEXT), PLACE).counts
    # Of the first three one is under way and one had no answer, of the next ten two were refused.
    assert (found.requests, found.failed) == (12, 4)
    assert [(each.upto, each.count) for each in found.times] == [(0.5, 1), (1, 4), (5, 5), (10, 1)]
    assert counted(parse_counts(TEXT), ("payments", "payments")).counts.requests == 70
    assert counted(parse_counts(TEXT), PLACE, errors=7).counts.failed == 7
    assert counted(parse_counts(TEXT), PLACE, errors=70).counts.failed == 12
    assert counted(Told({}, {}), PLACE) == Reading()


def test_what_is_asked_for_is_what_is_counted_and_no_other_service():
    asked = re.compile(pattern_of(["payments", "web"]))
    names = [line.partition(":")[0] for line in TEXT.split("\n") if line]
    assert all(map(asked.search, names))
    for name in ("http.in.payments2.downstream_rq_total", "http.out.web.payments.downstream_rq_total"):
        assert not asked.search(name)


def test_a_tally_counts_from_its_first_look_and_goes_on_over_a_new_envoy():
    tally = Tally()

    def at(requests, failed=0):
        return {
            PLACE: Reading(requests, Counts(requests=requests, failed=failed, times=(Bucket(upto=5, count=requests),)))
        }

    tally.add(at(100, 50))
    assert tally.of([PLACE]).requests == 0
    tally.add(at(130, 51))
    tally.add(at(7, 2))  # Envoy began anew
    assert (tally.of([PLACE]).requests, tally.of([PLACE]).failed, tally.of([PLACE]).timed) == (37, 3, 37)
    tally.begin()
    tally.add(at(9, 2))
    assert tally.of([PLACE, ("payments", "other")]).requests == 2


def test_a_distribution_that_comes_later_than_the_counts_is_no_new_beginning():
    before = Counts(requests=10, times=())
    now = Counts(requests=12, times=(Bucket(upto=5, count=11),))
    assert since(before, now) == Counts(requests=2, times=(Bucket(upto=5, count=11),))


def test_counters_that_are_not_read_at_one_moment_are_no_new_envoy_and_add_nothing():
    tally = Tally()
    for begun, requests in ((10, 10), (14, 13), (15, 12), (16, 16)):
        tally.add({PLACE: Reading(begun, Counts(requests=requests))})
    assert tally.of([PLACE]).requests == 6


def test_errors_of_a_cluster_are_those_of_its_hosts():
    text = """
app/payments/p-v2::default_priority::max_connections::1024
app/payments/p-v2::127.0.0.1:8080::rq_error::10
app/payments/p-v2::127.0.0.1:8080::rq_success::15
app/payments/p-v2::[::1]:8080::rq_error::2
app/web/web::127.0.0.1:80::rq_error::x
"""
    assert parse_errors(text) == {"app/payments/p-v2": 12}
