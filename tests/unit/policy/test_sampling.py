"""How many of the requests that shadow would refuse are logged."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshagent.policy.sampling import next_percent


@pytest.mark.parametrize(
    ("percent", "lines", "then"),
    [
        (100, 0, 100),
        (100, 1000, 100),
        (100, 2000, 50),
        (100, 1_000_000, 1),
        (50, 1000, 50),
        (50, 600, 50),
        (50, 250, 100),
        (50, 4000, 12),
        (1, 10, 1),
        (1, 4, 100),
    ],
)
def test_as_many_as_are_wanted_and_all_of_few(percent, lines, then):
    assert next_percent(percent, lines, 1000) == then


@given(st.integers(0, 90_000))
def test_a_steady_stream_comes_to_rest_and_stays_within_what_is_wanted(requests):
    percent = 100
    for _ in range(5):
        percent = next_percent(percent, requests * percent // 100, 1000)
    assert next_percent(percent, requests * percent // 100, 1000) == percent
    assert requests * percent // 100 <= 1000
