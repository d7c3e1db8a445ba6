"""Consul's last word on who may call holds until there is a newer one, over restarts too."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from meshagent.agent.vetoes import ForeignIntentions
from meshagent.errors import StoreDenied, StoreUnavailable
from meshagent.model.veto import Veto

WEB_MAY = Veto({"web": True}, others=False)


class Consul:
    """Says what it is told to, and then waits or fails."""

    def __init__(self, *said):
        self.said = list(said)
        self.asked = []

    async def follow(self, service):
        self.asked.append(service)
        while self.said:
            each = self.said.pop(0)
            if isinstance(each, Exception):
                raise each
            yield each
        await asyncio.Event().wait()

    async def close(self):
        pass


@pytest.fixture
def place(tmp_path):
    return tmp_path / "consul-intentions.json"


async def followed(place, consul, changes=1):
    told = []
    enough = asyncio.Event()

    def changed():
        told.append(made.now)
        if len(told) >= changes:
            enough.set()

    made = ForeignIntentions(consul, place, changed)
    made.want(frozenset({"payments"}))
    task = asyncio.create_task(made.run())
    async with asyncio.timeout(5):
        while not enough.is_set() and not made.problems:
            await asyncio.sleep(0)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    return made


async def test_before_consul_has_said_a_word_nobody_may_call(place):
    made = ForeignIntentions(Consul(), place, lambda: None)
    assert not made.now.of("payments").allows("web")


async def test_what_consul_says_holds_and_a_restarted_agent_knows_it_at_once(place):
    made = await followed(place, Consul(WEB_MAY))
    assert made.now.of("payments") == WEB_MAY
    again = ForeignIntentions(Consul(), place, lambda: None)
    assert again.now.of("payments") == WEB_MAY and not again.now.of("ledger").allows("web")
    assert place.stat().st_mode & 0o777 == 0o600


async def test_each_change_is_told_once(place):
    consul = Consul(WEB_MAY, WEB_MAY, Veto(), Veto())
    made = await followed(place, consul, changes=2)
    assert not made.now.of("payments").allows("web") and consul.asked == ["payments"]


@pytest.mark.parametrize("error", [StoreDenied("no right"), StoreUnavailable("away")])
async def test_while_consul_cannot_be_asked_its_last_word_holds_and_the_status_says_so(place, error):
    await followed(place, Consul(WEB_MAY))
    made = await followed(place, Consul(error))
    assert made.now.of("payments") == WEB_MAY
    assert made.problems == {"payments": str(error)}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[]",
        '{"v": 2, "services": {"payments": {"named": {}, "others": true}}}',
        '{"v": 1, "services": {"payments": {"named": [], "others": true}}}',
        '{"v": 1, "services": {"../x": {"named": {}, "others": true}}}',
        '{"v": 1, "services": {"payments": {"named": {"web": "yes"}, "others": 1}}}',
    ],
)
async def test_a_damaged_file_opens_nothing(place, text):
    place.touch(0o600)
    place.write_text(text)
    made = ForeignIntentions(Consul(), place, lambda: None)
    assert not made.now.of("payments").allows("web")
