"""When an SVID is renewed, and that none ever ends while its CA answers."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshagent.ca.rotation import Keep, Renew, backoff, late, next_step, patience, root_digests, spread, superseded
from meshagent.model.identity import Svid, TrustBundle
from tests.unit.ca.lying_ca import DOMAIN, ROOT, Order, judge, root_ca, trusting

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
LIFE = timedelta(hours=1)
PEM = "-----BEGIN CERTIFICATE-----\ncm9vdA==\n-----END CERTIFICATE-----\n"
BUNDLE = TrustBundle(((DOMAIN, (PEM,)), ("other.internal", (PEM.replace("cm9v", "cm9w"),))))
(DIGEST,) = root_digests(BUNDLE, DOMAIN)
(OTHER_DIGEST,) = root_digests(BUNDLE, "other.internal")


def svid(begins: datetime = NOW, life: timedelta = LIFE, root: str = DIGEST) -> Svid:
    return Svid(
        "spiffe://mesh.internal/svc/web", b"", b"", "1", not_before=begins, expires_at=begins + life, root_digest=root
    )


def step(after: timedelta, at: float = 0.0, held: Svid | None = svid(), bundle: TrustBundle = BUNDLE) -> Keep | Renew:  # noqa: B008
    return next_step(NOW + after, held, bundle, DOMAIN, at)


def test_the_first_svid_is_fetched_at_once() -> None:
    assert step(LIFE * 0, held=None) == Renew("there is none yet")


@pytest.mark.parametrize(("at", "share"), [(0.0, 0.50), (0.5, 0.58), (1.0, 0.66)])
def test_an_svid_is_kept_until_its_own_moment_between_50_and_66_percent_of_its_life(at: float, share: float) -> None:
    due = NOW + LIFE * share
    assert step(LIFE * 0, at) == Keep(due)
    assert step(due - NOW - timedelta(microseconds=1), at) == Keep(due)
    assert step(due - NOW, at) == Renew("half of its life is over")


def test_an_svid_that_has_ended_is_renewed_with_that_reason() -> None:
    assert step(LIFE) == Renew("it has ended")


def test_an_svid_whose_root_is_gone_from_the_bundle_is_renewed_at_once() -> None:
    assert step(LIFE * 0, held=svid(root="another")) == Renew("its root is no longer trusted")
    assert step(LIFE * 0, bundle=TrustBundle()) == Renew("its root is no longer trusted")


def test_a_root_of_another_trust_domain_does_not_count() -> None:
    assert step(LIFE * 0, held=svid(root=OTHER_DIGEST)) == Renew("its root is no longer trusted")


def test_a_clock_that_goes_back_by_seconds_causes_no_renewal() -> None:
    assert step(timedelta(seconds=-90)) == Keep(NOW + LIFE / 2)


def test_a_clock_that_goes_back_before_the_beginning_causes_one() -> None:
    assert step(timedelta(hours=-1)) == Renew("it has not begun: the clock went back")
    begun_by_then = svid(NOW - timedelta(hours=1))
    assert step(timedelta(hours=-1), held=begun_by_then) == Keep(NOW - LIFE / 2)


LEAVING = TrustBundle(BUNDLE.roots, leaving=(DIGEST,))


def test_an_svid_of_a_root_that_no_longer_signs_goes_over_at_its_moment_and_not_before() -> None:
    held = svid()
    move = NOW + timedelta(seconds=20)
    assert superseded(held, LEAVING) and not superseded(held, BUNDLE)
    assert not superseded(held, TrustBundle(BUNDLE.roots, leaving=(OTHER_DIGEST,)))
    assert next_step(NOW, held, LEAVING, DOMAIN, 0.0, move) == Keep(move)
    assert next_step(move, held, LEAVING, DOMAIN, 0.0, move) == Renew("another root signs now")
    assert next_step(move, held, BUNDLE, DOMAIN, 0.0, move) == Keep(NOW + LIFE / 2)


def test_going_over_is_spread_over_thirty_seconds_or_a_quarter_of_a_short_life() -> None:
    assert spread(svid(), 0.0) == timedelta(0)
    assert spread(svid(), 1.0) == timedelta(seconds=30)
    assert spread(svid(life=timedelta(seconds=20)), 1.0) == timedelta(seconds=5)


def test_it_is_late_when_66_percent_of_the_life_are_over() -> None:
    assert not late(NOW + LIFE * 0.65, svid())
    assert late(NOW + LIFE * 0.66, svid())


@given(
    st.integers(min_value=0, max_value=5000),
    st.floats(min_value=0, max_value=1),
    st.integers(min_value=-86400, max_value=86400),
)
def test_after_a_failure_the_wait_is_a_second_at_least_and_leaves_time_for_more_tries(
    attempt: int, random: float, second: int
) -> None:
    now = NOW + timedelta(seconds=second)
    wait = patience(now, svid(), attempt, random)
    assert timedelta(seconds=1) <= wait <= timedelta(seconds=60)
    if now >= NOW + LIFE or second < -90:
        assert wait <= timedelta(seconds=10)
    else:
        assert wait <= max((NOW + LIFE - now) / 4, timedelta(seconds=1))


def test_a_clock_that_jumps_far_ahead_causes_one_renewal() -> None:
    assert step(timedelta(days=100)) == Renew("it has ended")


def test_the_digests_are_those_that_accepted_svids_carry() -> None:
    accepted = judge(ROOT.issue(Order()))
    other = root_ca()
    assert accepted.root_digest in root_digests(trusting(other, ROOT), DOMAIN)
    assert accepted.root_digest not in root_digests(trusting(other), DOMAIN)
    assert isinstance(next_step(accepted.not_before, accepted, trusting(other, ROOT), DOMAIN, 0.5), Keep)


def test_a_root_that_is_not_pem_is_left_out() -> None:
    broken = TrustBundle(((DOMAIN, ("garbage", PEM.replace("cm9vdA==", "cm9vd"), PEM)),))
    assert root_digests(broken, DOMAIN) == {DIGEST}


ticks = st.lists(st.tuples(st.floats(0.0001, 0.25), st.floats(0, 1)), min_size=1, max_size=60)


@given(ticks, st.floats(5, 86400 * 30), st.floats(0, 0.05))
def test_no_svid_ends_unrenewed_when_asked_every_quarter_of_a_life(
    ticks: list[tuple[float, float]], seconds: float, backdated: float
) -> None:
    """`backdated`: the part of its life that a CA puts before the moment of signing, as all of them do."""
    life = timedelta(seconds=seconds)
    now, at, held = NOW, 0.5, svid(life=life)
    for gap, at_next in ticks:
        now += life * gap
        assert now < held.expires_at, "it ended before it was renewed"
        match next_step(now, held, BUNDLE, DOMAIN, at):
            case Renew():
                held, at = svid(begins=now - life * backdated, life=life), at_next
            case Keep(until):
                assert now < until < held.expires_at


@given(st.floats(0, 1), st.floats(1, 86400 * 30))
def test_a_renewed_svid_is_not_due_again_at_once(at: float, seconds: float) -> None:
    fresh = svid(life=timedelta(seconds=seconds))
    assert isinstance(next_step(NOW, fresh, BUNDLE, DOMAIN, at), Keep)
    assert isinstance(next_step(NOW, replace(fresh, root_digest="gone"), BUNDLE, DOMAIN, at), Renew)


def test_the_first_wait_is_1_to_2_seconds_and_the_bound_doubles_up_to_60() -> None:
    assert [backoff(attempt, 1.0).total_seconds() for attempt in range(8)] == [2, 4, 8, 16, 32, 60, 60, 60]
    assert {backoff(attempt, 0.0) for attempt in range(8)} == {timedelta(seconds=1)}


@given(st.integers(0, 10**9), st.floats(0, 1))
def test_every_wait_is_1_to_60_seconds(attempt: int, random: float) -> None:
    assert timedelta(seconds=1) <= backoff(attempt, random) <= timedelta(seconds=60)
