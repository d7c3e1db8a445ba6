"""Hosts of a gateway answer a CA for each other, and for nobody for whom the gateway does not vouch."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest

from meshagent.agent import answers as module
from meshagent.agent.answers import SharedAnswers
from meshagent.ca.base import name_of, obtain
from meshagent.ca.builtin import open_builtin
from meshagent.ca.vouching import vouch
from meshagent.ca.x509 import accept
from meshagent.state.answers import Answers, AnswersRecord
from meshagent.state.keys import Keys
from meshagent.state.records import encode
from meshagent.store import open_store
from meshagent.store.base import Put

DOMAIN, KEYS, HOUR = "mesh.internal", Keys(), timedelta(hours=1)
THUMB = "t" * 43


@pytest.fixture(autouse=True)
def _quickly(monkeypatch):
    monkeypatch.setattr(module, "_SPREAD_SECONDS", 0.0)


@pytest.fixture
async def store(tmp_path):
    opened = await open_store(f"sqlite://{tmp_path}/mesh.db")
    yield opened
    await opened.close()


class Mesh:
    """A CA with its bundle, and the SVIDs that it makes."""

    def __init__(self, directory):
        self.authority = open_builtin(directory, DOMAIN, clock=lambda: datetime.now(UTC))

    async def svid(self, service):
        name = await name_of(self.authority, DOMAIN, service)
        issued = await obtain(self.authority, name, HOUR)
        bundle = await self.authority.bundle()
        return accept(issued.chain_pem, issued.key_pem, name, bundle, DOMAIN, datetime.now(UTC), HOUR)


@pytest.fixture
def mesh(tmp_path):
    return Mesh(tmp_path / "ca")


@asynccontextmanager
async def serving(store, mesh, host="vm-2", clock=lambda: datetime.now(UTC)):
    """Another host that serves the gateway edge."""
    found = SharedAnswers(store, KEYS, host, lambda: "", clock)
    found.want({"edge"}, DOMAIN, await mesh.authority.bundle())
    running = asyncio.create_task(found.run())
    try:
        yield found
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def until(condition):
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.01)


async def test_what_one_host_publishes_the_others_answer_until_it_is_taken_back(store, mesh):
    asking = SharedAnswers(store, KEYS, "vm-1", lambda: "", lambda: datetime.now(UTC))
    async with serving(store, mesh) as other, serving(store, mesh, "vm-1") as same:
        changes = []
        other.changed = lambda: changes.append(dict(other.others))
        assert await asking.publish({"edge"}, {"token": THUMB}, {"edge": await mesh.svid("edge")})
        await until(lambda: other.others)
        assert other.others == {"token": f"token.{THUMB}"} and same.others == {}
        await asking.withdraw({"edge"})
        await until(lambda: not other.others)
        assert changes == [{"token": f"token.{THUMB}"}, {}]


async def test_a_host_that_begins_later_answers_what_is_asked_already(store, mesh):
    asking = SharedAnswers(store, KEYS, "vm-1", lambda: "", lambda: datetime.now(UTC))
    await asking.publish({"edge"}, {"token": THUMB}, {"edge": await mesh.svid("edge")})
    async with serving(store, mesh) as other:
        await until(lambda: other.others)
        other.want({"shop"}, DOMAIN, await mesh.authority.bundle())
        assert other.others == {}


async def test_without_a_certificate_of_the_gateway_or_a_store_nothing_is_shared_and_nothing_fails(store):
    asking = SharedAnswers(store, KEYS, "vm-1", lambda: "", lambda: datetime.now(UTC))
    assert not await asking.publish({"edge"}, {"token": THUMB}, {})
    assert "no certificate of 'edge'" in asking.problem
    await store.close()
    assert not await asking.publish({"edge"}, {"token": THUMB}, {})
    await asking.withdraw({"edge"})


async def test_a_store_that_hangs_holds_up_neither_an_order_nor_the_end_of_an_agent(mesh, monkeypatch):
    class Hanging:
        async def commit(self, _):
            await asyncio.Event().wait()

    monkeypatch.setattr(module, "_ANSWER_SECONDS", 0.01)
    asking = SharedAnswers(Hanging(), KEYS, "vm-1", lambda: "", lambda: datetime.now(UTC))
    async with asyncio.timeout(5):
        assert not await asking.publish({"edge"}, {"token": THUMB}, {"edge": await mesh.svid("edge")})
        assert "the store does not answer" in asking.problem
        await asking.withdraw({"edge"})


async def written(mesh, service="edge", at="edge", host="vm-1", minutes=5, tamper=None, signer=None):
    """A record as somebody wrote it, and where."""
    until_ = datetime.now(UTC) + timedelta(minutes=minutes)
    told = Answers(gateway=at, host=host, answers={"token": THUMB}, until=until_)
    svid = await mesh.svid(service)
    vouched = {"chain": (signer or svid).chain_pem.decode(), "signature": vouch(svid, told.content)}
    value = encode(AnswersRecord.model_validate({**told.model_dump(), **vouched}))
    return tamper(json.loads(value)) if tamper else value


def changed(**what):
    return lambda data: json.dumps(data | what).encode()


FORGED = {
    "another service": {"service": "web"},
    "another gateway at this place": {"at": "shop", "service": "shop"},
    "another host's place": {"host": "vm-9"},
    "it has ended": {"minutes": -1},
    "it ends too late": {"minutes": 600},
    "another account": {"tamper": changed(answers={"token": "u" * 43})},
    "a path": {"tamper": changed(answers={"../token": THUMB})},
    "another end": {"tamper": changed(until="2126-01-01T00:00:00Z")},
    "no signature": {"tamper": changed(signature="AAAA")},
    "no base64": {"tamper": changed(signature="%")},
    "no chain": {"tamper": changed(chain="")},
    "another version": {"tamper": changed(v=2)},
    "no record": {"tamper": lambda _: b"{"},
}


@pytest.mark.parametrize("forged", FORGED.values(), ids=FORGED)
async def test_what_the_gateway_does_not_vouch_for_is_not_answered(store, mesh, forged):
    await store.commit([Put(KEYS.answer("edge", "vm-1"), await written(mesh, **forged))])
    async with serving(store, mesh) as other:
        await store.commit([Put(KEYS.answer("edge", "vm-3"), await written(mesh, host="vm-3"))])
        await until(lambda: other.others or other._refused)
        await until(lambda: len(other._entries) == 2)
        assert set(other.others) <= {"token"} and len(other.others) <= 1
        await store.commit([Put(KEYS.answer("edge", "vm-3"), b"{")])
        await until(lambda: not other.others)


async def test_an_svid_of_another_root_vouches_for_nothing(store, mesh, tmp_path):
    stranger = Mesh(tmp_path / "other")
    await store.commit([Put(KEYS.answer("edge", "vm-1"), await written(stranger))])
    async with serving(store, mesh) as other:
        await until(lambda: other._refused)
        assert other.others == {}
