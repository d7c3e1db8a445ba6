"""When a gateway's certificate is ordered, and when again: early enough, spread out, and never more often than a CA bears."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshagent.ca.ordering import Life, late, next_order, pause
from meshagent.ca.rotation import Keep, Renew

NOW = datetime(2026, 11, 21, tzinfo=UTC)
LIFE = Life(NOW, NOW + timedelta(days=90))
NONE = timedelta()


def test_there_is_none_yet_or_another_is_asked_for():
    assert next_order(NOW, None, 0.5, as_asked=True) == Renew("there is none yet")
    assert next_order(NOW, LIFE, 0.5, as_asked=False) == Renew("another one is asked for")


@given(st.floats(0, 1))
def test_it_is_renewed_when_about_two_thirds_of_its_life_are_over(at):
    kept = next_order(NOW, LIFE, at, as_asked=True)
    assert isinstance(kept, Keep) and timedelta(days=54) <= kept.until - NOW <= timedelta(days=60.3)
    assert isinstance(next_order(kept.until, LIFE, at, as_asked=True), Renew)
    assert isinstance(next_order(LIFE.expires_at + timedelta(days=1), LIFE, at, as_asked=True), Renew)
    assert not late(kept.until, LIFE) and late(NOW + timedelta(days=68), LIFE)


def failed(failures, random=0.5, held=None, refused=True, wish=NONE):
    return pause(failures, random, held, NOW, refused=refused, wish=wish)


def test_a_ca_that_refuses_is_asked_six_times_in_the_first_hour_at_most_and_twice_a_day_in_the_end():
    waits = [failed(count, random=0.0) for count in range(20)]
    assert min(waits) >= timedelta(minutes=1)
    expected = [failed(count) for count in range(5)]
    assert sum(expected, NONE) >= timedelta(minutes=30)
    assert failed(50, random=1.0) == timedelta(hours=12)
    assert failed(10**6, random=1.0) == timedelta(hours=12)


def test_a_ca_that_does_not_answer_is_asked_again_within_a_minute():
    assert failed(0, refused=False) <= timedelta(seconds=2)
    assert failed(30, random=1.0, refused=False) == timedelta(seconds=60)


def test_a_certificate_that_lives_is_tried_for_until_its_end():
    ending = Life(NOW - timedelta(days=89), NOW + timedelta(minutes=4))
    assert failed(30, random=1.0, held=ending) == timedelta(minutes=1)
    ended = Life(NOW - timedelta(days=91), NOW - timedelta(days=1))
    assert failed(30, random=1.0, held=ended) == timedelta(hours=12)


@pytest.mark.parametrize(("wish", "kept"), [(3600, 3600), (10**9, 86400)])
def test_what_the_ca_asks_for_is_kept_to_up_to_a_day(wish, kept):
    ending = Life(NOW - timedelta(days=89), NOW + timedelta(minutes=4))
    for refused in (True, False):
        assert failed(0, held=ending, refused=refused, wish=timedelta(seconds=wish)) == timedelta(seconds=kept)
