"""The client of Consul, without a Consul: what its answers mean, and what `follow` makes of them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest
import structlog.testing

from meshagent.errors import StoreDenied, StoreUnavailable
from meshagent.store.access import Access
from meshagent.wire import consul
from meshagent.wire.consul import Answer, Consul, deadline_of, failure_of, key_path, pause_of
from meshagent.wire.consul_url import Address

Asked = dict[str, str]


class Scripted(Consul):
    """Answers calls from a list; when it is used up, a call waits for ever."""

    def __init__(self, *answers: Answer | Exception) -> None:
        super().__init__(Address(("a:1",)), Access(), None)
        self.answers = list(answers)
        self.asked: list[Asked] = []
        self.deadlines: list[float] = []

    async def get(self, path: str, params: Mapping[str, str] | None = None, *, deadline: float = 10.0) -> Answer:
        self.asked.append(dict(params or {}))
        self.deadlines.append(deadline)
        if not self.answers:
            await asyncio.Event().wait()
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    async def at_once(_: float) -> None:
        return

    monkeypatch.setattr(consul.asyncio, "sleep", at_once)


def at(index: int) -> Answer:
    return Answer(200, {"X-Consul-Index": str(index)}, b"[]")


async def followed(client: Scripted, count: int) -> list[int]:
    told: list[int] = []
    async for answer in client.follow("/v1/kv/a", {"keys": ""}):
        told.append(answer.index)
        if len(told) == count:
            break
    return told


async def test_the_first_question_does_not_wait_and_the_next_ones_do():
    client = Scripted(at(7), at(9))
    assert await followed(client, 2) == [7, 9]
    assert client.asked == [{"keys": ""}, {"keys": "", "index": "7", "wait": "30s"}]
    assert client.deadlines[1] == deadline_of(30) > 30


async def test_an_answer_without_news_is_not_told():
    assert await followed(Scripted(at(7), at(7), at(7), at(8)), 2) == [7, 8]


async def test_an_index_that_falls_is_told_and_gone_on_from():
    client = Scripted(at(9), at(3), at(4))
    assert await followed(client, 3) == [9, 3, 4]
    assert client.asked[2]["index"] == "3"


async def test_an_outage_keeps_the_place_asks_without_waiting_and_is_logged_once():
    away = StoreUnavailable("away")
    client = Scripted(at(7), away, away, at(7), at(8))
    with structlog.testing.capture_logs() as logs:
        assert await followed(client, 2) == [7, 8]
    assert [asked.get("index") for asked in client.asked] == [None, "7", None, None, "7"]
    assert [line["event"] for line in logs] == ["consul_lost", "consul_found"]


async def test_older_data_after_an_outage_is_told_at_once():
    assert await followed(Scripted(at(7), StoreUnavailable("away"), at(2)), 2) == [7, 2]


async def test_a_missing_right_ends_it():
    with pytest.raises(StoreDenied):
        await followed(Scripted(at(7), StoreDenied("no")), 2)


async def test_a_closed_client_ends_it():
    client = Scripted(at(7), StoreUnavailable("closed"))
    told = []
    async for answer in client.follow("/v1/kv/a"):
        told.append(answer.index)
        await client.close()
    assert told == [7]


@pytest.mark.parametrize(("text", "index"), [("12", 12), ("0", 1), ("", 0), ("x", 0)])
def test_an_index_is_at_least_one(text: str, index: int):
    assert Answer(200, {"X-Consul-Index": text}, b"").index == index


@pytest.mark.parametrize("body", [b"<html>", b"", b"{"])
def test_an_answer_that_is_not_json_says_that_the_store_is_away(body: bytes):
    with pytest.raises(StoreUnavailable, match="not JSON"):
        Answer(200, {}, body).json()


@pytest.mark.parametrize("status", [200, 404, 409, 413])
def test_what_the_caller_judges_is_no_failure(status: int):
    assert failure_of(status, b"", "a") is None


@pytest.mark.parametrize(
    ("status", "body", "kind", "words"),
    [
        (400, b"Invalid query parameter: ns", StoreDenied, "Invalid query parameter"),
        (403, b"Permission denied", StoreDenied, "Permission denied"),
        (403, b"ACL not found", StoreDenied, "does not know the token"),
        (429, b"Too many requests", StoreUnavailable, "429"),
        (500, b"No cluster leader", StoreUnavailable, "No cluster leader"),
        (503, b"", StoreUnavailable, "503"),
    ],
)
def test_each_refusal_is_an_error_with_a_next_step(status: int, body: bytes, kind: type, words: str):
    failure = failure_of(status, body, "http://a:1")
    assert type(failure) is kind
    assert words in str(failure)
    assert failure.next_step


def test_a_ttl_that_is_refused_with_500_is_not_an_outage():
    assert failure_of(500, b"Invalid Session TTL '1', must be between [10s=24h0m0s]", "a") is None


def test_what_consul_says_cannot_break_a_log_line():
    assert str(failure_of(500, b"a\nb\x1b[31m" + b"x" * 1000, "a")).isprintable()


@pytest.mark.parametrize("attempt", [0, 3, 10, 10_000])
def test_pauses_grow_to_five_seconds_and_use_all_of_chance(attempt: int):
    assert 0 < pause_of(attempt, 0.0) <= pause_of(attempt, 1.0) <= 5.0
    assert pause_of(attempt, 1.0) <= pause_of(attempt + 1, 1.0)


def test_a_key_is_quoted_into_its_path():
    assert key_path("a b/ö?#%") == "/v1/kv/a%20b/%C3%B6%3F%23%25"
