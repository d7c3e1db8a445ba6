"""Identities when the clock jumps (fault R22), when a CA stays away, and when another root begins to sign."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from structlog.testing import capture_logs

from meshagent.ca.builtin import open_builtin
from meshagent.model.identity import TrustBundle
from tests.unit.agent.test_identities import DOMAIN, HOUR, Broken, Clock, identities

SERVICES = [f"service-{number}" for number in range(20)]


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def authority(tmp_path, clock):
    return open_builtin(tmp_path / "ca", DOMAIN, clock=clock)


async def many(tmp_path, authority, clock):
    """Twenty SVIDs, fresh, and the CA that counts what it is asked."""
    counted = Broken(authority, "")
    held = identities(tmp_path, counted, clock)
    held.want(SERVICES, DOMAIN, await authority.bundle())
    await held._step()
    assert set(held.svids) == set(SERVICES)
    counted.calls = 0
    return held, counted


async def minutes(held, clock, number):
    """As the loop goes: a step a second."""
    for _ in range(number * 60):
        await held._step()
        clock.now += timedelta(seconds=1)


@pytest.mark.parametrize("jump", [HOUR, -HOUR, timedelta(days=100)])
async def test_fault_r22_a_clock_jump_renews_every_svid_once_and_is_no_storm(tmp_path, authority, clock, jump):
    held, counted = await many(tmp_path, authority, clock)
    clock.now += jump
    await minutes(held, clock, 5)
    assert counted.calls == 20 and not held.problems
    assert all(svid.not_before <= clock.now < svid.expires_at for svid in held.svids.values())


async def test_fault_r22_a_small_step_of_the_clock_renews_nothing(tmp_path, authority, clock):
    held, counted = await many(tmp_path, authority, clock)
    for seconds in (60, -60, 5, -5):
        clock.now += timedelta(seconds=seconds)
        await held._step()
    assert counted.calls == 0


@pytest.mark.parametrize("jump", [HOUR, -HOUR, timedelta(days=100)])
async def test_fault_r22_a_jump_while_the_ca_is_away_is_told_and_asks_no_more_than_once_a_second(
    tmp_path, authority, clock, jump
):
    held, counted = await many(tmp_path, authority, clock)
    counted.fault = "away"
    clock.now += jump
    await minutes(held, clock, 2)
    assert set(held.problems) == set(SERVICES)
    assert 20 * 2 * 60 / 10 * 0.5 < counted.calls < 20 * 2 * 60
    counted.fault = ""
    await minutes(held, clock, 1)
    assert not held.problems and not held.overdue


async def test_fault_r22_a_pause_that_the_old_clock_set_does_not_hold_up_the_new_one(tmp_path, authority, clock):
    held, counted = await many(tmp_path, authority, clock)
    clock.now += timedelta(minutes=50)
    counted.fault = "away"
    await minutes(held, clock, 3)
    counted.fault = ""
    clock.now -= timedelta(minutes=8)
    await minutes(held, clock, 2)
    assert sum(held.renewals.values()) == 40 and not held.problems


async def test_an_svid_that_is_not_renewed_at_66_percent_of_its_life_is_an_alarm_once(tmp_path, authority, clock):
    held, counted = await many(tmp_path, authority, clock)
    counted.fault = "away"
    with capture_logs() as logs:
        await minutes(held, clock, 39)
        assert not held.overdue and [log for log in logs if log["event"] == "svid_overdue"] == []
        await minutes(held, clock, 2)
    assert held.overdue == set(SERVICES)
    overdue = [log for log in logs if log["event"] == "svid_overdue"]
    assert len(overdue) == 20 and overdue[0]["problem"] == "the CA is away" and overdue[0]["log_level"] == "error"
    assert sum(held.refusals.values()) == counted.calls > 40
    counted.fault = ""
    await minutes(held, clock, 2)
    assert not held.overdue and sum(held.renewals.values()) == 40


async def test_when_another_root_signs_all_go_over_to_it_within_thirty_seconds_and_not_at_once(tmp_path, clock):
    first, second = (open_builtin(tmp_path / name, DOMAIN, clock=clock) for name in ("first", "second"))
    held, counted = await many(tmp_path, first, clock)
    old, new = (await first.bundle()).of(DOMAIN), (await second.bundle()).of(DOMAIN)
    both = TrustBundle(((DOMAIN, (*old, *new)),))
    held.want(SERVICES, DOMAIN, both)
    await minutes(held, clock, 1)
    assert counted.calls == 0
    counted._authority = second
    held.want(SERVICES, DOMAIN, replace(both, leaving=(root_of(first),)))
    asked = []
    for _ in range(30):
        before = counted.calls
        await held._step()
        asked.append(counted.calls - before)
        clock.now += timedelta(seconds=1)
    await held._step()
    assert {svid.root_digest for svid in held.svids.values()} == {root_of(second)}
    assert counted.calls == 20 and max(asked) < 10


async def test_a_ca_that_signs_with_the_old_root_still_is_asked_for_the_new_one_seldom(tmp_path, authority, clock):
    held, counted = await many(tmp_path, authority, clock)
    held.want(SERVICES, DOMAIN, replace(await authority.bundle(), leaving=(root_of(authority),)))
    await minutes(held, clock, 20)
    assert 20 <= counted.calls <= 20 * 5 and not held.problems


def root_of(authority):
    from cryptography.hazmat.primitives import hashes

    return authority._issuer.certificate.fingerprint(hashes.SHA256()).hex()
