"""When a rollout goes on, waits, or goes back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshagent.model.rollout import Bucket, Counts, Progress, Rollout, percent_of
from meshagent.policy.judging import judge

NOW = datetime(2026, 11, 21, tzinfo=UTC)
EARLY, ENDED = timedelta(seconds=30), timedelta(minutes=2)
SERVING = ("v1", "v2")
FAST, BOUNDS = (1000, 0, 0, 0), (100.0, 250.0, 500.0, 1000.0)


def rollout(**more):
    return Rollout.model_validate({"name": "payments", "base": "v1", "to": "v2", "max_p99": "300ms", **more})


def at(step=0, phase="running", **more):
    return Progress(run=rollout(**more).run, turn=step + 1, phase=phase, step=step, since=NOW, host="vm-2")


def counts(requests=1000, failed=0, times=FAST):
    buckets = tuple(Bucket(upto=upto, count=count) for upto, count in zip(BOUNDS, times, strict=True))
    return Counts(requests=requests, failed=failed, times=buckets)


def judged(new, old=None, held=None, elapsed=ENDED, serving=SERVING, **more):
    return judge(rollout(**more), held or at(), {"v1": old or counts(), "v2": new}, serving, elapsed)


def test_it_begins_when_the_new_subset_has_an_instance_in_service():
    assert judge(rollout(), None, {}, ("v1",), ENDED).phase is None
    assert "no instance of v2" in judge(rollout(), None, {}, ("v1",), ENDED).why
    begun = judge(rollout(), None, {}, SERVING, timedelta())
    assert (begun.phase, begun.step) == ("running", 0)
    assert judge(rollout(id="b"), at(3, "done"), {}, SERVING, ENDED).step == 0


def test_a_healthy_step_goes_on_after_its_time_and_not_before():
    assert judged(counts(), elapsed=ENDED - timedelta(seconds=1)).phase is None
    on = judged(counts())
    assert (on.phase, on.step) == ("running", 1)
    last = judged(counts(), held=at(3))
    assert (last.phase, last.step) == ("done", 3)


def test_five_percent_of_errors_end_it_early_and_say_why():
    verdict = judged(counts(200, 10), elapsed=EARLY)
    assert verdict.phase == "rolled_back"
    assert verdict.why == "v2: 5 % of 200 requests failed, and 1 % may"


def test_slow_answers_end_it_early_and_say_why():
    verdict = judged(counts(times=(900, 0, 0, 100)), elapsed=EARLY)
    assert verdict.phase == "rolled_back"
    assert verdict.why == "v2: 10 % of 1000 requests took longer than 300ms, and 1 % may"


def test_what_may_be_chance_is_left_to_the_end_of_the_step():
    chance = counts(150, 2)
    assert judged(chance, elapsed=EARLY).phase is None
    assert judged(chance).phase == "rolled_back"
    assert judged(counts(200, 2)).step == 1  # 1 % may


def test_few_requests_decide_nothing_but_many_failures_do():
    few = judged(counts(99, 9, (99, 0, 0, 0)))
    assert few.phase is None and "99 requests of the 100" in few.why
    assert judged(counts(12, 10, (12, 0, 0, 0)), elapsed=EARLY).phase == "rolled_back"


def test_latencies_that_are_not_known_yet_are_waited_for():
    waits = judged(counts(times=(20, 0, 0, 0)))
    assert waits.phase is None and "20 requests" in waits.why
    assert judged(counts(times=(20, 0, 0, 0)), max_p99=None).phase == "running"


def test_nothing_is_judged_in_the_first_moments_of_a_step():
    assert judged(counts(200, 200), elapsed=timedelta(seconds=4)).phase is None


def test_a_dependency_that_fails_both_is_not_held_against_the_new_one():
    broken = counts(1000, 300)
    early = judged(counts(200, 60), broken, elapsed=EARLY)
    assert early.phase is None and "v1 fares no better" in early.why
    again = judged(counts(200, 60), broken)
    assert (again.phase, again.step) == ("running", 0) and "v1 fares no better" in again.why
    assert judged(counts(200, 60), counts(1000, 20)).phase == "rolled_back"
    assert judged(counts(times=(900, 0, 0, 100)), counts(times=(900, 0, 0, 100))).step == 0


def test_at_the_whole_there_is_nobody_to_compare_with():
    assert judged(counts(200, 60), counts(0, 0, (0, 0, 0, 0)), held=at(3)).phase == "rolled_back"


def test_a_new_subset_without_an_instance_waits():
    gone = judged(counts(), serving=("v1",))
    assert gone.phase is None and gone.why == "no instance of v2 is in service"


def test_paused_does_not_go_on_and_still_goes_back():
    assert judged(counts(), state="paused").phase is None
    assert judged(counts(200, 60), state="paused").phase == "rolled_back"
    assert judge(rollout(state="paused"), None, {}, SERVING, ENDED).phase is None


@pytest.mark.parametrize("state", ["aborted", "promoted"])
def test_what_the_operator_has_ended_is_not_judged(state):
    assert judged(counts(200, 200), state=state).phase is None


@pytest.mark.parametrize("phase", ["rolled_back", "done"])
def test_what_is_over_stays_over(phase):
    assert judged(counts(), held=at(1, phase)).phase is None


some_counts = st.builds(
    lambda requests, share, times: counts(requests, int(requests * share), times),
    st.integers(0, 5000),
    st.floats(0, 1),
    st.tuples(*[st.integers(0, 3000)] * 4),
)


@given(
    some_counts,
    some_counts,
    st.integers(0, 3),
    st.integers(0, 600),
    st.sets(st.sampled_from(SERVING)),
    st.sampled_from(["running", "paused", "aborted", "promoted"]),
)
def test_a_share_grows_by_one_step_only_after_the_time_of_a_healthy_one(new, old, step, seconds, serving, state):
    wanted = rollout(state=state)
    held = at(step)
    verdict = judge(wanted, held, {"v1": old, "v2": new}, serving, timedelta(seconds=seconds))
    if verdict.phase is None:
        return
    assert state in ("running", "paused")
    after = held.model_copy(update={"phase": verdict.phase, "step": verdict.step})
    before, now = percent_of(wanted, held), percent_of(wanted, after)
    if verdict.phase == "rolled_back":
        assert now == 0 and (new.failed > 0.01 * new.requests or new.slower(300) > 0.01 * new.timed)
    elif now > before or verdict.phase == "done":
        assert state == "running" and seconds >= 120 and "v2" in serving and new.requests >= 100
        assert new.failed <= 0.01 * new.requests and new.slower(300) <= 0.01 * new.timed
        assert verdict.step == step + (verdict.phase == "running")
    else:
        assert verdict.step == step and "no better" in verdict.why


@given(some_counts, some_counts)
def test_counts_of_hosts_add_up(one, other):
    both = one.plus(other)
    assert both.requests == one.requests + other.requests and both.timed == one.timed + other.timed
    assert both.slower(300) == pytest.approx(one.slower(300) + other.slower(300))


def test_quantiles_are_spread_evenly_within_a_bucket():
    assert counts(times=(0, 0, 100, 0)).quantile(0.99) == pytest.approx(497.5)
    assert counts(times=(100, 0, 0, 0)).quantile(0.5) == 50
    assert Counts().quantile(0.99) is None
    assert counts(times=(0, 100, 0, 0)).slower(175) == pytest.approx(50)
