"""SVIDs are issued, kept, renewed, and a CA that misbehaves changes nothing that works."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from meshagent.agent.identities import Identities
from meshagent.ca.base import Issued
from meshagent.ca.builtin import open_builtin
from meshagent.ca.keys import new_key_and_csr
from meshagent.errors import AuthorityUnavailable

DOMAIN = "mesh.internal"
HOUR = timedelta(hours=1)


class Clock:
    def __init__(self):
        self.now = datetime.now(UTC)

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def authority(tmp_path, clock):
    return open_builtin(tmp_path / "ca", DOMAIN, clock=clock)


def identities(tmp_path, authority, clock, told=None):
    directory = tmp_path / "identities"
    directory.mkdir(mode=0o700, exist_ok=True)
    return Identities(lambda _: authority, directory, HOUR, clock, (told if told is not None else []).append)


async def test_a_wanted_service_gets_an_svid_and_everybody_is_told(tmp_path, authority, clock):
    told = []
    held = identities(tmp_path, authority, clock, told)
    held.want({"web"}, DOMAIN, await authority.bundle())
    await held._step()
    assert held.svids["web"].spiffe_id == "spiffe://mesh.internal/svc/web"
    assert told[-1] == held.svids
    assert (tmp_path / "identities" / "web.pem").stat().st_mode & 0o777 == 0o600


async def test_a_restarted_agent_takes_up_the_svid_that_was_kept(tmp_path, authority, clock):
    first = identities(tmp_path, authority, clock)
    first.want({"web"}, DOMAIN, await authority.bundle())
    await first._step()
    second = identities(tmp_path, authority, clock)
    second.want({"web"}, DOMAIN, await authority.bundle())
    assert second.svids == first.svids


async def test_it_is_renewed_between_half_and_two_thirds_of_its_life(tmp_path, authority, clock):
    held = identities(tmp_path, authority, clock)
    held.want({"web"}, DOMAIN, await authority.bundle())
    await held._step()
    first = held.svids["web"].serial
    clock.now += timedelta(minutes=28)
    await held._step()
    assert held.svids["web"].serial == first
    clock.now += timedelta(minutes=14)
    await held._step()
    assert held.svids["web"].serial != first


class Broken:
    """Signs as it is told: not at all, or for somebody else."""

    def __init__(self, authority, fault):
        self._authority, self.fault, self.calls = authority, fault, 0

    async def sign(self, csr_pem, spiffe_id, ttl):
        self.calls += 1
        if self.fault == "away":
            raise AuthorityUnavailable("the CA is away")
        if self.fault == "lies":
            return await self._authority.sign(csr_pem, "spiffe://mesh.internal/svc/orders", ttl)
        return await self._authority.sign(csr_pem, spiffe_id, ttl)

    async def bundle(self):
        return await self._authority.bundle()

    async def check(self):
        return await self._authority.check()

    async def close(self):
        await self._authority.close()


@pytest.mark.parametrize("fault", ["away", "lies"])
async def test_a_ca_that_fails_leaves_the_svid_in_use_and_is_asked_again_with_pauses(tmp_path, authority, clock, fault):
    broken = Broken(authority, "")
    held = identities(tmp_path, broken, clock)
    held.want({"web"}, DOMAIN, await authority.bundle())
    await held._step()
    before, broken.fault, broken.calls = held.svids["web"], fault, 0
    clock.now += timedelta(minutes=45)
    for _ in range(20):
        await held._step()
    assert held.svids["web"] is before and "web" in held.problems
    assert broken.calls == 1
    for _ in range(60):
        clock.now += timedelta(seconds=10)
        await held._step()
    assert 5 <= broken.calls <= 61
    broken.fault = ""
    clock.now += timedelta(seconds=61)
    await held._step()
    assert held.svids["web"].serial != before.serial and not held.problems


async def test_another_root_means_a_new_svid_at_once(tmp_path, authority, clock):
    held = identities(tmp_path, authority, clock)
    held.want({"web"}, DOMAIN, await authority.bundle())
    await held._step()
    other = open_builtin(tmp_path / "other", DOMAIN, clock=clock)
    held._authority = lambda _: other
    held.want({"web"}, DOMAIN, await other.bundle())
    await held._step()
    assert held.svids["web"].root_digest != ""
    assert not held.problems


async def test_the_loop_sleeps_until_something_is_due(tmp_path, authority, clock):
    held = identities(tmp_path, authority, clock)
    held.want({"web"}, DOMAIN, await authority.bundle())
    running = asyncio.create_task(held.run())
    async with asyncio.timeout(5):
        while "web" not in held.svids:
            await asyncio.sleep(0.01)
    running.cancel()
    assert await held._step() > 10


class Files:
    """Hands out keys with certificates, the same ones until it is told to have new ones, and then it says so."""

    def __init__(self, authority):
        self._authority, self._issued, self._news = authority, None, asyncio.Event()
        self.asked = 0

    async def issue(self, spiffe_id, ttl):
        self.asked += 1
        if self._issued is None:
            key_pem, csr_pem = new_key_and_csr(spiffe_id)
            self._issued = Issued(key_pem, await self._authority.sign(csr_pem, spiffe_id, ttl))
        return self._issued

    async def changed(self):
        await self._news.wait()
        self._news.clear()
        return frozenset({f"spiffe://{DOMAIN}/svc/web"})

    def swap(self):
        self._issued = None
        self._news.set()

    async def bundle(self):
        return await self._authority.bundle()

    async def check(self):
        return await self._authority.check()

    async def close(self):
        await self._authority.close()


async def test_what_the_authority_announces_is_taken_up_at_once(tmp_path, authority, clock):
    files = Files(authority)
    held = identities(tmp_path, files, clock)
    held.want({"web"}, DOMAIN, await authority.bundle())
    running = asyncio.create_task(held.run())
    async with asyncio.timeout(5):
        while "web" not in held.svids:
            await asyncio.sleep(0.01)
        first = held.svids["web"].serial
        files.swap()
        while held.svids["web"].serial == first:
            await asyncio.sleep(0.01)
    running.cancel()
    assert files.asked == 2 and not held.problems


async def test_who_makes_the_keys_may_renew_late_and_is_only_reported_when_the_life_is_almost_over(
    tmp_path, authority, clock
):
    files = Files(authority)
    held = identities(tmp_path, files, clock)
    held.want({"web"}, DOMAIN, await authority.bundle())
    await held._step()
    clock.now += timedelta(minutes=48)
    for _ in range(10):
        await held._step()
    assert files.asked == 2 and not held.problems
    clock.now += timedelta(minutes=8)
    await held._step()
    assert "has not renewed" in held.problems["web"]
    files.swap()
    clock.now += timedelta(minutes=2)
    await held._step()
    assert not held.problems and held.svids["web"].expires_at > clock.now + timedelta(minutes=50)


async def test_a_pair_that_is_past_half_of_its_life_is_used_when_it_is_the_only_one(tmp_path, authority, clock):
    files = Files(authority)
    await files.issue(f"spiffe://{DOMAIN}/svc/web", HOUR)
    clock.now += timedelta(minutes=45)
    held = identities(tmp_path, files, clock)
    held.want({"web"}, DOMAIN, await authority.bundle())
    await held._step()
    assert "web" in held.svids and not held.problems
