"""Which queries run while keys come, go and are woken for nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping

from meshagent.errors import StoreDenied
from meshagent.store.base import Scope
from meshagent.store.consul_following import Followers
from meshagent.wire.consul import Answer

ABSENT = 404
OK = 200


def answer(index: int, status: int = OK) -> Answer:
    return Answer(status, {"X-Consul-Index": str(index)}, b"[]")


class FakeConsul:
    """Answers a query when the test says so."""

    def __init__(self, *, forbidden: str = "") -> None:
        self.forbidden = forbidden
        self.running: dict[str, asyncio.Queue[Answer]] = {}
        self.begun: dict[str, int] = {}

    async def follow(self, path: str, _: Mapping[str, str], *, index: int) -> AsyncIterator[Answer]:
        self.begun[path.removeprefix("/v1/kv/")] = index
        if path == self.forbidden:
            raise StoreDenied("You may not list it.", next_step="Ask for the right.")
        mine = self.running[path] = asyncio.Queue[Answer]()
        try:
            while True:
                yield await mine.get()
        finally:
            if self.running[path] is mine:
                del self.running[path]

    async def answer(self, index: int, status: int, *names: str) -> None:
        for name in names:
            self.running[f"/v1/kv/{name}"].put_nowait(answer(index, status))
        await asyncio.sleep(0.05)

    @property
    def followed(self) -> set[str]:
        return {path.removeprefix("/v1/kv/") for path in self.running}


async def test_keys_that_are_absent_and_woken_for_nothing_are_followed_as_their_folder() -> None:
    consul = FakeConsul()
    async with Followers(consul, Scope.of(["f/a", "f/b", "f/c", "f/there", "g/d"])) as followers:
        await asyncio.sleep(0)
        await consul.answer(5, ABSENT, "f/a", "f/b", "f/c", "g/d")
        await consul.answer(5, OK, "f/there")
        assert followers.complete
        beats = followers.pulse.count

        for index in (6, 7):
            assert consul.followed == {"f/a", "f/b", "f/c", "f/there", "g/d"}
            await consul.answer(index, ABSENT, "f/a", "f/b", "f/c", "g/d")

        assert consul.followed == {"f", "f/there", "g/d"}
        assert not followers.complete
        await consul.answer(4, OK, "f")
        assert followers.complete
        assert followers.pulse.count > beats
        assert not followers.moved(5, {"f/there": 5}), "what is absent moved for nothing"
        await consul.answer(8, OK, "f")
        assert followers.moved(5, {"f/there": 5})
        followers.check()


async def test_a_key_that_comes_and_goes_is_not_woken_for_nothing() -> None:
    consul = FakeConsul()
    async with Followers(consul, Scope.of(["f/a", "f/b", "f/c"])) as followers:
        await asyncio.sleep(0)
        for index in range(5, 15):
            await consul.answer(index, OK if index % 2 else ABSENT, "f/a", "f/b", "f/c")

        assert consul.followed == {"f/a", "f/b", "f/c"}
        assert followers.moved(13, {"f/a": 13})
        assert not followers.moved(13, {})


async def test_a_folder_that_may_not_be_listed_is_followed_key_by_key_for_ever() -> None:
    consul = FakeConsul(forbidden="/v1/kv/f")
    names = ("f/a", "f/b", "f/c")
    async with Followers(consul, Scope.of([*names, "x"])) as followers:
        await asyncio.sleep(0)
        for index in range(5, 8):
            await consul.answer(index, ABSENT, *names)
        assert consul.followed == {*names, "x"}

        for index in range(8, 20):
            await consul.answer(index, ABSENT, *names)

        assert consul.followed == {*names, "x"}
        followers.check()


async def test_keys_of_a_known_content_are_waited_for_from_there_and_not_asked_for_first() -> None:
    consul = FakeConsul()
    scope, held = Scope.of(["f/a", "f/b"]), {"f/a": 4, "f/b": 7}
    async with Followers(consul, scope, frozenset({"f/a"}), held, 9) as followers:
        await asyncio.sleep(0)
        assert (followers.resumed, consul.begun) == (held, {"f/a": 9})
        assert followers.complete, "nothing is missing"

        await consul.answer(4, OK, "f/a")
        assert not followers.moved(9, held) and not followers.falls, "the wait was over"
        await consul.answer(12, OK, "f/a")
        assert followers.moved(9, held) and not followers.falls


async def test_older_data_than_the_known_content_is_noticed() -> None:
    consul = FakeConsul()
    async with Followers(consul, Scope.of(["f/a"]), frozenset(), {"f/a": 4}, 9) as followers:
        await asyncio.sleep(0)
        await consul.answer(3, OK, "f/a")
        assert followers.falls == 1


async def test_what_is_not_known_whole_is_asked_for_first() -> None:
    for names, held in ((["f/a", "f/b"], {"f/a": 4}), (["t/"], {"t/a": 4}), (["f/a"], None)):
        consul = FakeConsul()
        async with Followers(consul, Scope.of(names), frozenset(), held, 9) as followers:
            await asyncio.sleep(0)
            assert followers.resumed is None and set(consul.begun.values()) == {0}
            assert not followers.complete
