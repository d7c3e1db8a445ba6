"""Who watches live requests, and what Envoy is told of it."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qsl

import grpc
import pytest
from envoy.service.accesslog.v3.als_pb2 import StreamAccessLogsMessage, StreamAccessLogsResponse

from meshagent.envoy.requests import Wanted, seen_of
from meshagent.envoy.tap import Asked, Tap, Watcher, changes, keys_held
from meshagent.errors import EnvoyFailed, UsageProblem
from meshagent.model.tapping import tap_name

SEEN = seen_of(
    {
        "time": "2026-11-21T10:00:00Z",
        "side": "inbound",
        "service": "api",
        "source": "spiffe://mesh.internal/svc/web",
        "method": "GET",
        "path": "/v1/carts",
        "status": 200,
    }
)
NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
WEB, API = frozenset({"web"}), frozenset({"api"})


class Envoy:
    """What of an Envoy a tap sees."""

    def __init__(self, **overrides):
        self.overrides = overrides
        self.dropped = 0
        self.posts = []
        self.down = False

    def _answer(self):
        if self.down:
            raise EnvoyFailed("it is down")

    async def get(self, path):
        self._answer()
        assert path == "/runtime"
        entries = {f"meshagent.tap.{name}": {"final_value": value} for name, value in self.overrides.items()}
        return json.dumps({"entries": {"re2.max": {}, **entries}, "layers": []}).encode()

    async def post(self, path):
        self._answer()
        self.posts.append(path)
        for key, value in parse_qsl(path.partition("?")[2], keep_blank_values=True):
            name = key.removeprefix("meshagent.tap.")
            if value:
                self.overrides[name] = value
            else:
                del self.overrides[name]
        return b"OK\n"

    async def stats(self, pattern):
        return {pattern.strip("^$").replace("\\", ""): self.dropped}


@asynccontextmanager
async def tapping(envoy, directory):
    """A tap that runs; at the end it must leave nothing behind."""
    tap = Tap(envoy, directory / "run" / "tap.sock", now=lambda: NOW)
    running = asyncio.create_task(tap.run())
    try:
        yield tap
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
    assert envoy.down or not envoy.overrides
    assert not (directory / "run" / "tap.sock").exists()


async def until(condition):
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0)


async def send(directory, *entries, at=NOW):
    """Entries as Envoy sends them: the name comes with the first message alone."""
    async with grpc.aio.insecure_channel(f"unix:{directory}/run/tap.sock") as channel:
        call = channel.stream_unary(
            "/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs",
            request_serializer=StreamAccessLogsMessage.SerializeToString,
            response_deserializer=StreamAccessLogsResponse.FromString,
        )
        messages = []
        for path in entries:
            message = StreamAccessLogsMessage()
            entry = message.http_logs.log_entry.add()
            entry.common_properties.start_time.FromDatetime(at)
            entry.request.path = path
            entry.response.response_code.value = 200
            messages.append(message)
        messages[0].identifier.log_name = tap_name("inbound", "api")
        await call(iter(messages))


async def test_envoy_is_told_while_somebody_watches_and_only_then(tmp_path):
    envoy = Envoy()
    async with tapping(envoy, tmp_path) as tap:
        async with tap.watch(Asked(API)):
            assert envoy.overrides == {"api": "100"} and (tmp_path / "run" / "tap.sock").exists()
        await until(lambda: not envoy.overrides)
        assert envoy.posts == ["/runtime_modify?meshagent.tap.api=100", "/runtime_modify?meshagent.tap.api="]
        await until(lambda: not (tmp_path / "run" / "tap.sock").exists())


async def test_each_watcher_sees_what_it_asked_for_until_the_last_one_has_gone(tmp_path):
    envoy = Envoy()
    async with tapping(envoy, tmp_path) as tap, tap.watch(Asked(API)) as every:
        async with tap.watch(Asked(API | WEB, path="/v1/*")) as some:
            assert set(envoy.overrides) == {"api", "web"}
            await send(tmp_path, "/v1/carts?token=secret", "/other")
            assert [seen.path for seen in await some.take(5)] == ["/v1/carts"]
            assert [seen.path for seen in await every.take(5)] == ["/v1/carts", "/other"]
        await until(lambda: set(envoy.overrides) == {"api"})


async def test_what_waited_in_envoy_since_another_watched_is_not_shown(tmp_path):
    async with tapping(Envoy(), tmp_path) as tap, tap.watch(Asked(API)) as watcher:
        await send(tmp_path, "/stale", "/late", at=NOW - timedelta(seconds=1))
        assert [seen.path for seen in await watcher.take(5)] == ["/late"]


async def test_what_a_killed_agent_left_on_is_switched_off_by_the_next_one(tmp_path):
    envoy = Envoy(web="100", api="100")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "tap.sock").touch()
    async with tapping(envoy, tmp_path):
        await until(lambda: not envoy.overrides and not (tmp_path / "run" / "tap.sock").exists())


async def test_an_envoy_that_began_anew_is_told_again(tmp_path, monkeypatch):
    monkeypatch.setattr("meshagent.envoy.tap._EVERY_SECONDS", 0.01)
    envoy = Envoy()
    async with tapping(envoy, tmp_path) as tap, tap.watch(Asked(API)):
        envoy.overrides.clear()
        await until(lambda: envoy.overrides)


async def test_an_envoy_that_does_not_answer_is_an_error_for_who_would_watch(tmp_path, monkeypatch):
    monkeypatch.setattr("meshagent.envoy.tap._ON_SECONDS", 0.05)
    envoy = Envoy()
    envoy.down = True
    async with tapping(envoy, tmp_path) as tap:
        with pytest.raises(EnvoyFailed, match="was not told"):
            async with tap.watch(Asked(API)):
                raise AssertionError("nobody can watch")
        envoy.down = False


async def test_what_envoy_had_to_drop_is_missed_by_every_watcher(tmp_path, monkeypatch):
    monkeypatch.setattr("meshagent.envoy.tap._EVERY_SECONDS", 0.01)
    envoy = Envoy()
    envoy.dropped = 7  # before anybody watched
    async with tapping(envoy, tmp_path) as tap, tap.watch(Asked(API)) as one, tap.watch(Asked(API)) as other:
        assert not one.missed
        envoy.dropped += 5
        await until(lambda: one.missed == other.missed == 5)
        envoy.dropped = 2  # a new Envoy
        await until(lambda: one.missed == other.missed == 7)


async def test_who_watches_when_the_agent_stops_is_told_and_the_socket_goes_even_if_envoy_has_gone_before(tmp_path):
    envoy = Envoy()
    async with tapping(envoy, tmp_path) as tap:
        watching = tap.watch(Asked(API))
        watcher = await watching.__aenter__()
        envoy.down = True
    assert watcher.ended and not await watcher.take(0)
    await watching.__aexit__(None, None, None)


async def test_sixteen_may_watch_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr("meshagent.envoy.tap._MOST_WATCHERS", 1)
    async with tapping(Envoy(), tmp_path) as tap, tap.watch(Asked(API)):
        with pytest.raises(UsageProblem, match="1 taps are open"):
            async with tap.watch(Asked(API)):
                raise AssertionError("one too many")


async def test_more_than_a_thousand_a_second_are_left_to_envoy(tmp_path):
    now = 50.0
    tap = Tap(Envoy(), tmp_path / "tap.sock", lambda: now)
    assert [tap._pause() for _ in range(99)] == [0.0] * 99
    now = 50.04
    assert tap._pause() == pytest.approx(0.06)
    now = 50.1
    assert tap._pause() == 0.0


async def test_a_slow_watcher_has_the_newest_thousand_and_knows_how_many_it_missed():
    watcher = Watcher(Asked(API), NOW)
    for number in range(1500):
        watcher.offer(replace(SEEN, duration_ms=number))
    assert watcher.missed == 500
    assert [seen.duration_ms for seen in await watcher.take(0)] == list(range(500, 1500))
    assert await watcher.take(0) == []


@pytest.mark.parametrize(
    ("asked", "holds"),
    [
        (Asked(API), True),
        (Asked(WEB), False),
        (Asked(API, method="get"), True),
        (Asked(API, method="POST"), False),
        (Asked(API, path="/v1/*"), True),
        (Asked(API, path="/v1"), False),
        (Asked(API, Wanted(source="web")), True),
        (Asked(API, Wanted(source="batch")), False),
        (Asked(API, Wanted(status="2xx", side="inbound")), True),
        (Asked(API, Wanted(failed=True)), False),
    ],
)
def test_a_request_is_shown_to_who_asked_for_such(asked, holds):
    assert asked.holds(SEEN) is holds


def test_keys_of_others_are_left_alone():
    held = keys_held(b'{"entries": {"meshagent.tap.api": {}, "meshagent.access_log_ms": {}, "x": {}}}')
    assert held == API and changes(held, WEB) == "meshagent.tap.web=100&meshagent.tap.api="
    assert changes(held, API) == ""


@pytest.mark.parametrize("answer", [b"", b"[]", b"{}", b"upstream connect error"])
def test_an_answer_that_cannot_be_read_is_no_reason_to_believe_that_nothing_is_on(answer):
    with pytest.raises(EnvoyFailed):
        keys_held(answer)
