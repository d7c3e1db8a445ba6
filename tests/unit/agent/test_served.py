"""What Envoy serves is compared with what was issued, by serial number."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from meshagent.agent import served
from meshagent.agent.served import Served, unserved
from meshagent.errors import EnvoyFailed
from meshagent.model.identity import Svid

NOW = datetime(2026, 11, 21, tzinfo=UTC)


def svid(service, serial):
    return Svid(f"spiffe://mesh.internal/svc/{service}", b"", b"", serial, NOW, NOW + timedelta(hours=1), "")


def certs(*leaves):
    """As Envoy 1.40 answers /certs: one entry a TLS context."""
    root = {"path": "<inline>", "serial_number": "f8", "subject_alt_names": [{"uri": "spiffe://mesh.internal"}]}
    return {
        "certificates": [
            {
                "ca_cert": [root],
                "cert_chain": [
                    {"serial_number": serial, "subject_alt_names": [{"uri": f"spiffe://mesh.internal/svc/{service}"}]}
                ],
            }
            for service, serial in leaves
        ]
    }


def test_a_certificate_that_every_context_serves_is_served():
    assert unserved(certs(("web", "0a1b"), ("web", "a1b")), {"web": svid("web", "a1b")}) == frozenset()


@pytest.mark.parametrize("serials", [("1",), ("a1b", "1"), ("",), ("rubbish",)])
def test_another_serial_anywhere_means_that_it_is_not(serials):
    leaves = [("web", serial) for serial in serials]
    held = {"web": svid("web", "a1b"), "payments": svid("payments", "2")}
    assert unserved(certs(*leaves, ("payments", "2")), held) == {"web"}


def test_a_service_without_a_context_and_a_context_without_a_certificate_say_nothing():
    assert unserved({"certificates": [{"ca_cert": [], "cert_chain": []}]}, {"web": svid("web", "1")}) == frozenset()
    assert unserved({}, {"web": svid("web", "1")}) == frozenset()


class Envoy:
    def __init__(self):
        self.answers, self.asked = certs(), 0

    async def certs(self):
        self.asked += 1
        if self.answers is None:
            raise EnvoyFailed("no answer")
        return self.answers


async def until(condition):
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


@pytest.fixture
async def looking(monkeypatch):
    monkeypatch.setattr(served, "_SOON", 0.01)
    monkeypatch.setattr(served, "_AGAIN", 0.01)
    monkeypatch.setattr(served, "_ALARM_AFTER", 0.1)
    envoy = Envoy()
    held = Served(envoy.certs)
    task = asyncio.create_task(held.run())
    yield envoy, held
    task.cancel()


async def test_envoy_is_asked_until_it_serves_the_newest_and_then_no_more(looking):
    envoy, held = looking
    envoy.answers = certs(("web", "1"))
    held.issued({"web": svid("web", "1")})
    await until(lambda: envoy.asked == 1)
    await asyncio.sleep(0.1)
    assert envoy.asked == 1 and not held.problems


async def test_a_renewed_certificate_that_is_not_served_becomes_a_problem_and_heals(looking):
    envoy, held = looking
    envoy.answers = certs(("web", "1"))
    held.issued({"web": svid("web", "2")})
    await until(lambda: envoy.asked >= 2)
    assert not held.problems
    await until(lambda: held.unserved)
    assert held.problems == {"web": "Envoy serves another certificate than 2, which was issued"}
    envoy.answers = certs(("web", "2"))
    await until(lambda: not held.unserved)
    assert held.problems == {}


async def test_an_envoy_that_does_not_answer_is_asked_again(looking):
    envoy, held = looking
    envoy.answers = None
    held.issued({"web": svid("web", "1")})
    await until(lambda: envoy.asked >= 3)
    envoy.answers = certs(("web", "1"))
    await until(lambda: not held._since)
    assert not held.problems
