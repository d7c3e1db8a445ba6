"""How long policy takes to Envoy."""

from __future__ import annotations

from meshagent.agent.propagation import Propagation


def buckets(propagation):
    return dict(propagation.buckets)


def test_what_stood_in_the_store_before_the_agent_is_not_counted():
    propagation = Propagation()
    propagation.seen(7, 0.0)
    propagation.applied(7, 30.0)
    assert buckets(propagation)["+Inf"] == 0


def test_a_revision_is_counted_once_from_seen_to_applied():
    propagation = Propagation()
    propagation.seen(7, 0.0)
    propagation.seen(8, 10.0)
    propagation.seen(8, 10.5)
    propagation.applied(7, 10.2)
    propagation.applied(8, 10.75)
    propagation.applied(8, 99.0)
    propagation.seen(8, 99.0)
    found = buckets(propagation)
    assert (found["0.5"], found["1"], found["+Inf"]) == (0, 1, 1)
    assert propagation.seconds == 0.75


def test_revisions_that_come_together_are_in_force_together():
    propagation = Propagation()
    for revision in (1, 2, 3):
        propagation.seen(revision, 0.0)
    propagation.applied(3, 0.02)
    assert buckets(propagation)["0.025"] == buckets(propagation)["+Inf"] == 2


def test_an_envoy_that_stays_away_holds_no_more_than_a_bounded_number():
    propagation = Propagation()
    for revision in range(5000):
        propagation.seen(revision, 0.0)
    propagation.applied(5000, 1.0)
    assert buckets(propagation)["+Inf"] == 1000
