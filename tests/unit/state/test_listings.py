"""What of a listing counts, and what holds while a catalog may have forgotten who lives."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from meshagent.model.service import Instance
from meshagent.state.listings import doubted, shrinks

listings = st.lists(
    st.builds(
        Instance,
        service=st.just("ledger"),
        host=st.sampled_from(["vm-1", "vm-2", "vm-3"]),
        id=st.just("ledger"),
        address=st.just("10.0.0.1"),
        port=st.just(21000),
        health=st.sampled_from(["passing", "failing"]),
    ),
    unique_by=lambda each: each.host,
).map(lambda found: tuple(sorted(found, key=lambda each: each.host)))


def in_service(instances):
    return {each.host for each in instances if each.health == "passing"}


@given(listings, listings)
def test_in_doubt_nothing_that_is_called_goes_and_everything_new_comes(before, now):
    held = doubted(before, now)
    assert in_service(held) == in_service(before) | in_service(now)
    assert {each.host for each in held} == in_service(before) | {each.host for each in now}


@given(listings, listings)
def test_a_listing_shrinks_when_somebody_is_missing_whatever_its_health(before, now):
    assert shrinks(before, now) == bool({each.host for each in before} - {each.host for each in now})


@given(listings)
def test_a_listing_that_takes_nothing_away_is_not_doubted(now):
    assert doubted(now, now) == now == doubted((), now)
