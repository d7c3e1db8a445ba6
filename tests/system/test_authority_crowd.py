"""Fault R38 at the signing authority: a hundred hosts at once, and again when it comes back after an outage."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from datetime import datetime, timedelta

import pytest

from meshagent.agent.enrolment import enrol
from meshagent.agent.identities import Identities
from meshagent.ca import open_authority
from meshagent.model.identity import TrustBundle
from meshagent.private import private_dir
from meshagent.state.tokens import Invitation, invite
from tests.system.authorities import DOMAIN, KEYS, author, now, world

pytestmark = pytest.mark.system
HOSTS = 100
TTL = timedelta(seconds=24)
# All of them call from one address here, and join within a second: the limits for each address are not the subject.
OPEN = {"enrol": 6000, "enrol_per_address": 6000, "requests_per_address": 60000}


class Fleet:
    """The identities of a hundred hosts, as their agents keep them, each with its own key and connection."""

    def __init__(self, made) -> None:
        self._made = made
        self._cas = []
        self._tasks = []
        self.hosts: list[Identities] = []

    async def join(self) -> None:
        invitation = timedelta(minutes=5)
        async with self._made.store() as store:
            names = [f"vm-{number}" for number in range(HOSTS)]
            tokens = [await invite(store, KEYS, Invitation(name, (name,), invitation), author()) for name in names]
        joined = [self._join(name, token) for name, token in zip(names, tokens, strict=True)]
        await asyncio.gather(*joined)

    async def _join(self, name: str, token: str) -> None:
        folder = self._made.folder / name
        told = await enrol(self._made.line(token), name, folder, now)
        settings = {"addresses": list(told.addresses)}
        ca = open_authority("authority", settings, trust_domain=DOMAIN, data_dir=folder, clock=now)
        self._cas.append(ca)
        identities = Identities(lambda _: ca, private_dir(folder / "identities"), TTL, now, lambda _: None)
        identities.want({name}, DOMAIN, TrustBundle(((DOMAIN, (self._made.root,)),)))
        self.hosts.append(identities)
        self._tasks.append(asyncio.create_task(identities.run()))

    def good_at(self, moment: datetime) -> int:
        """How many hosts hold a certificate that is still good then."""
        return sum(any(svid.expires_at > moment for svid in host.svids.values()) for host in self.hosts)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for ca in self._cas:
            await ca.close()


async def until(fleet: Fleet, moment, wait: float) -> float:
    """Until all hosts hold a certificate that is good at `moment()`; the seconds that it took."""
    began = time.monotonic()
    while fleet.good_at(moment()) < HOSTS:
        assert time.monotonic() - began < wait, Counter(str(host.problems) for host in fleet.hosts)
        await asyncio.sleep(0.05)
    return time.monotonic() - began


def busiest_second(daemon, since: datetime) -> int:
    """Signatures of services' certificates in the busiest second, by the audit log."""
    signed = [datetime.fromisoformat(line["when"]) for line in daemon.audit() if line["verdict"] == "signed"]
    return max(Counter(int(at.timestamp()) for at in signed if at >= since).values(), default=0)


async def test_fault_r38_a_hundred_hosts_at_once_and_again_after_an_outage_are_served_without_a_storm():
    async with world() as made:
        daemon = await made.found(rate_limits=OPEN)
        await daemon.start()
        fleet = Fleet(made)
        try:
            began = now()
            await fleet.join()
            took = await until(fleet, now, 30)
            print(
                f"R38: {HOSTS} hosts joined and certified after {(now() - began).total_seconds():.1f} s ({took:.1f} s)"
            )
            await daemon.stop()
            away = now()
            await asyncio.sleep(14)  # past 58 % of a life: most hosts have asked in vain, none has run out
            assert fleet.good_at(now()) == HOSTS
            back = now()
            await daemon.start()
            took = await until(fleet, lambda: away + TTL + timedelta(seconds=1), 15)
            peak = busiest_second(daemon, back)
            print(f"R38: all renewed {took:.1f} s after the return, {peak} signatures in the busiest second")
            assert peak < 200, peak
            assert fleet.good_at(now()) == HOSTS
        finally:
            await fleet.close()
