"""How often Envoy is served."""

from __future__ import annotations

from itertools import pairwise

import pytest

from meshagent.agent.pace import Pace, chance_of, start_pause


def serve(times, changes_end):
    """When Envoy is served of changes at these times, by a loop that looks whenever something is unserved."""
    pace, served, now = Pace(), [], 0.0
    waiting = list(times)
    while waiting:
        now = max(now, waiting[0])
        while waiting and waiting[0] <= now:
            pace.changed(waiting.pop(0))
        now += pace.pause(now)
        while waiting and waiting[0] <= now:
            pace.changed(waiting.pop(0))
        pace.served(now)
        served.append(now)
        now += 0.001
    assert served[-1] >= changes_end
    return served


def test_a_lone_change_is_served_at_once():
    pace = Pace()
    pace.changed(5.0)
    assert pace.pause(5.0) == 0.0


def test_changes_that_follow_each_other_by_25_ms_are_each_served_at_once():
    times = [number * 0.025 for number in range(200)]
    assert serve(times, times[-1]) == pytest.approx(times)


def test_a_storm_of_1000_changes_a_second_is_served_at_most_10_times_a_second():
    times = [number * 0.001 for number in range(10_000)]
    served = serve(times, times[-1])
    assert len(served) <= 100
    assert max(b - a for a, b in pairwise(served)) < 0.15


def test_the_first_change_after_a_storm_is_served_at_once():
    pace = Pace()
    for number in range(100):
        pace.changed(number * 0.001)
    pace.served(0.1)
    assert pace.pause(0.101) > 0.1
    pace.changed(0.6)
    assert pace.pause(0.6) == 0.0


def test_a_shared_store_is_asked_at_once_but_by_hosts_that_have_just_booted_one_after_the_other():
    assert start_pause(uptime=3600, chance=0.99) == 0
    pauses = [start_pause(uptime=20, chance=number / 100) for number in range(100)]
    assert max(later - earlier for earlier, later in pairwise(pauses)) < 0.4
    assert pauses[0] == 0 and pauses[-1] < 25


def test_fewer_start_the_more_run_so_that_the_store_is_asked_alike_all_the_time():
    pauses = sorted(start_pause(uptime=20, chance=number / 1000) for number in range(1000))
    asked = []
    for begin in range(0, 24, 2):
        started = sum(begin <= each < begin + 2 for each in pauses)
        asked.append(25.0 * started / 2 + 0.8 * sum(each < begin + 1 for each in pauses))
    assert max(asked) < 1.1 * min(asked)


@pytest.mark.parametrize("names", ["vm-{}", "web-{:03}.example", "ip-10-0-3-{}"])
def test_hosts_that_are_numbered_start_evenly_however_many_there_are(names):
    for count in (10, 100, 500):
        chances = sorted(chance_of(names.format(number)) for number in range(count))
        assert max(later - earlier for earlier, later in pairwise(chances)) < 2.7 / count
        assert all(0 <= each < 1 for each in chances)


def test_hosts_without_numbers_start_by_chance_but_each_always_at_the_same_place():
    names = [f"{first}{second}" for first in "abcdefghij" for second in "abcdefghij"]
    chances = sorted(map(chance_of, names))
    assert max(later - earlier for earlier, later in pairwise(chances)) < 0.1
    assert chances == sorted(map(chance_of, names))
